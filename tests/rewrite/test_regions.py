# SPDX-License-Identifier: Apache-2.0
"""Cutting graphs into regions; no TensorFlow model is needed."""

import numpy as np
import pytest

from sirius_tf.frontend.graph import Argument, Edge, Graph, Node
from sirius_tf.rewrite.canonical import digest
from sirius_tf.rewrite.regions import cut, stems


def node(name, op, *inputs, wait=(), dtype="float32", shape=(None, 4), **attrs):
    edges = tuple(Edge(i) if isinstance(i, str) else i for i in inputs)
    return Node(name, op, edges, tuple(wait), attrs, (dtype,) if dtype else (), (shape,))


def constant(name, array, op="Const"):
    array = np.asarray(array)
    attrs = {"value": array, "dtype": str(array.dtype)}
    return Node(name, op, (), (), attrs, (str(array.dtype),), (array.shape,))


X = Argument("x", "float32", (None, 4))


def graph(*nodes, outputs=None, inputs=(X,)):
    last = outputs or [nodes[-1].name]
    return Graph("g", tuple(inputs), tuple((name, Edge(name)) for name in last), nodes)


def members(found):
    return [sorted(region.nodes) for region in found.regions]


def test_a_graph_with_rules_is_one_region() -> None:
    found = cut(
        graph(node("a", "Relu", "x"), node("b", "Exp", "a"), node("c", "Add", "a", "b")), "s"
    )
    assert members(found) == [["a", "b", "c"]] and not found.left
    region = found.regions[0]
    assert region.name == region.graph.name == "s_0"
    assert region.inputs == (Edge("x"),) and region.outputs == (Edge("c"),)


def test_a_path_through_tensorflow_splits_and_what_can_wait_is_in_the_later_region() -> None:
    found = cut(
        graph(
            node("early", "Relu", "x"),
            node("strange", "NoSuchOp", "early"),
            node("other", "Exp", "x"),
            node("sum", "Add", "strange", "other"),
        ),
        "s",
    )
    assert members(found) == [["early"], ["other", "sum"]]
    assert found.left == {"strange": "there is no rule for this op"}
    assert found.regions[1].inputs == (Edge("x"), Edge("strange"))


def test_regions_are_convex() -> None:
    found = cut(
        graph(
            node("a", "Relu", "x"),
            node("t", "NoSuchOp", "a"),
            node("b", "Exp", "a"),
            node("c", "Add", "t", "b"),
            outputs=["c", "b"],
        ),
        "s",
    )
    assert members(found) == [["a"], ["b", "c"]]


def test_a_control_edge_into_a_region_does_not_split_it() -> None:
    found = cut(
        graph(
            node("a", "Relu", "x"),
            node("effect", "NoSuchOp", "a", dtype=None),
            node("b", "Exp", "a", wait=["effect"]),
        ),
        "s",
    )
    assert members(found) == [["a", "b"]]
    assert found.regions[0].outputs == (Edge("b"), Edge("a"))


def test_a_control_edge_out_of_tensorflow_is_like_any_other() -> None:
    found = cut(
        graph(
            node("a", "Relu", "x"),
            node("effect", "NoSuchOp", "a", dtype=None),
            node("read", "NoSuchRead", wait=["effect"]),
            node("b", "Add", "a", "read"),
        ),
        "s",
    )
    assert members(found) == [["a"], ["b"]]


def test_a_node_that_waits_for_an_assertion_is_in_no_earlier_region() -> None:
    found = cut(
        graph(
            node("early", "Relu", "x"),
            node("strange", "NoSuchOp", "early", dtype="bool", shape=()),
            node("fits", "Assert", "strange", "x", dtype=None),
            node("y", "Exp", "x", wait=["fits"]),
        ),
        "s",
    )
    assert members(found) == [["early"], ["fits", "y"]]


def test_constants_are_copied_into_each_region() -> None:
    found = cut(
        graph(
            constant("k", np.ones(4, "f")),
            node("a", "Mul", "x", "k"),
            node("t", "NoSuchOp", "a"),
            node("b", "Mul", "t", "k"),
        ),
        "s",
    )
    assert [r.inputs for r in found.regions] == [(Edge("x"),), (Edge("t"),)]
    assert all("k" in r.graph.by_name for r in found.regions)


@pytest.mark.parametrize(("rows", "is_table"), [(1 << 16, True), (4096, False)])
def test_a_large_variable_that_is_only_looked_up_is_an_input(rows, is_table) -> None:
    ids = Argument("ids", "int32", (None,))
    found = cut(
        graph(
            constant("w", np.zeros((rows, 4), "f"), "Variable"),
            constant("axis", np.int32(0)),
            node("g", "GatherV2", "w", "ids", "axis", batch_dims=0),
            node("y", "Relu", "g"),
            inputs=[ids],
        ),
        "s",
    )
    assert (Edge("w") in found.regions[0].inputs) == is_table


def test_what_lowering_rejects_stays_with_its_reason() -> None:
    shape = Argument("s", "int32", (None,))
    found = cut(
        graph(
            node("a", "Exp", "x"),
            node("r", "Reshape", "a", "s", shape=None),
            node("b", "Relu", "a"),
            outputs=["r", "b"],
            inputs=[X, shape],
        ),
        "s",
    )
    assert members(found) == [["a", "b"]]
    assert list(found.left) == ["r"] and found.left["r"]


def test_an_input_of_unknown_rank_keeps_its_reader_on_tensorflow() -> None:
    found = cut(
        graph(
            node("a", "Exp", "x"), node("b", "Exp", "a"), inputs=[Argument("x", "float32", None)]
        ),
        "s",
    )
    assert "rank" in found.left["a"]


def test_plumbing_alone_is_not_worth_a_region() -> None:
    found = cut(
        graph(
            node("a", "Shape", "x", dtype="int32", shape=(2,)),
            node("t", "NoSuchOp", "a"),
            node("b", "Exp", "t"),
        ),
        "s",
    )
    assert members(found) == [["b"]] and found.left["a"] == "too small"
    assert members(cut(graph(constant("k", [-1]), node("a", "Reshape", "x", "k")), "s")) == [["a"]]


def test_what_is_handed_on_stays_on_tensorflow() -> None:
    found = cut(graph(node("a", "Identity", "x"), node("b", "Exp", "a"), outputs=["a", "b"]), "s")
    assert members(found) == [["b"]] and found.left["a"] == "it hands on an input"


def test_strings_stay_on_tensorflow() -> None:
    words = Argument("x", "string", (None,))
    found = cut(graph(node("a", "Identity", "x", dtype="string"), inputs=[words]), "s")
    assert found.left == {"a": "dtype string is not compiled"}


def test_names_do_not_count_when_regions_are_compared() -> None:
    def made(prefix, value):
        nodes = [
            constant(f"{prefix}k", np.full(4, value, "f")),
            node(f"{prefix}b", "Exp", "x"),
            node(f"{prefix}a", "Mul", f"{prefix}b", f"{prefix}k"),
        ]
        return digest(cut(graph(*nodes), prefix).regions[0].graph)

    assert made("p", 1) == made("q", 1) != made("p", 2)


def test_names_of_signatures_become_different_identifiers() -> None:
    assert stems(["a b", "a_b", "1"]) == {"a b": "a_b", "a_b": "a_b_", "1": "s1"}


def test_loops_and_branches_of_tf1_are_left_alone() -> None:
    condition = Argument("p", "bool", ())
    found = cut(
        graph(
            node("switch", "Switch", "x", "p"),
            node("enter", "Enter", "switch"),
            node("head", "Merge", "enter"),
            node("turn", "Switch", "head", "p"),
            node("in_loop", "Exp", "turn"),
            node("exit", "Exit", "turn"),
            node("in_branch", "Exp", "exit"),
            node("merge", "Merge", "in_branch"),
            node("after", "Exp", "merge"),
            outputs=["after", "in_loop"],
            inputs=[X, condition],
        ),
        "s",
    )
    assert members(found) == [["after"]]
    assert "loop or branch" in found.left["in_loop"] and "loop" in found.left["in_branch"]
