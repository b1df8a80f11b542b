# SPDX-License-Identifier: Apache-2.0
"""TensorArrays become lists on graphs that are written by hand."""

import numpy as np
import pytest

from sirius_tf.frontend.arrays import lists
from sirius_tf.frontend.graph import Argument, Edge, Graph, Node

pytestmark = pytest.mark.ir

ARRAY = {"dtype": "float32", "element_shape": (None, 3), "dynamic_size": False}


def node(name, op, *inputs, dtypes=("float32",), **attrs):
    shapes = ((),) * len(dtypes)
    return Node(name, op, inputs, (), attrs, dtypes, shapes)


def graph(*nodes, outputs=("read",), grows=False):
    """A graph of an array of n elements of which element k is written to be x."""
    kinds = {"n": "int32", "k": "int32", "x": "float32"}
    arguments = tuple(Argument(name, dtype, ()) for name, dtype in kinds.items())
    attrs = ARRAY | {"dynamic_size": grows}
    made = node("array", "TensorArrayV3", Edge("n"), dtypes=("resource", "float32"), **attrs)
    inputs = (Edge("array"), Edge("k"), Edge("x"), Edge("array", 1))
    write = node("write", "TensorArrayWriteV3", *inputs)
    results = tuple((name, Edge(name)) for name in outputs)
    return Graph("g", arguments, results, (made, write, *nodes))


READ = node("read", "TensorArrayReadV3", Edge("array"), Edge("k"), Edge("write"))


@pytest.mark.parametrize("grows", [False, True])
def test_an_array_becomes_a_list(grows) -> None:
    made = lists(graph(READ, grows=grows)).by_name
    assert made["array"].op == "TensorListReserve"
    assert made["array"].inputs == (Edge("array/element_shape"), Edge("n"))
    np.testing.assert_array_equal(made["array/element_shape"].attr_array(), [-1, 3])
    assert made["write"].op == "TensorListSetItem"
    assert made["write"].inputs == (Edge("array"), Edge("k"), Edge("x"))
    assert made["write"].attr_bool("resize_if_index_out_of_bounds") is grows
    assert made["write"].dtypes == ("variant",)
    assert made["read"].op == "TensorListGetItem"
    assert made["read"].inputs == (Edge("write"), Edge("k"), Edge("read/element_shape"))
    assert made["read"].dtypes == ("float32",)


def test_what_is_scattered_has_its_operands_the_other_way_round() -> None:
    inputs = (Edge("array"), Edge("k"), Edge("x"), Edge("array", 1))
    scatter = node("read", "TensorArrayScatterV3", *inputs)
    size = node("size", "TensorArraySizeV3", Edge("array"), Edge("read"))
    made = lists(graph(scatter, size, outputs=("size",))).by_name
    assert made["read"].inputs == (Edge("array"), Edge("x"), Edge("k"))
    assert (made["size"].op, made["size"].inputs) == ("TensorListLength", (Edge("read"),))


@pytest.mark.parametrize("use", ["op", "output", "position"])
def test_an_array_that_goes_elsewhere_stays(use) -> None:
    """An unknown op reads a flow, a flow is a result, or it is the position to read at."""
    other = node("other", "Neg", Edge("write"))
    wrong = node("wrong", "TensorArrayReadV3", Edge("array"), Edge("write"), Edge("write"))
    given = {
        "op": graph(READ, other),
        "output": graph(READ, outputs=("read", "write")),
        "position": graph(READ, wrong),
    }[use]
    assert lists(given) is given


def test_a_graph_without_arrays_is_itself() -> None:
    given = Graph("g", (Argument("x", "float32", ()),), (("y", Edge("x")),), ())
    assert lists(given) is given
