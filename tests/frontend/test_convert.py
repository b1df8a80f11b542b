# SPDX-License-Identifier: Apache-2.0
"""Graphs of ops become ours; the ops are stand-ins with the attributes of TensorFlow's."""

from types import SimpleNamespace

import numpy as np
import pytest

from sirius_tf.errors import SiriusError
from sirius_tf.frontend.convert import Body, Source, convert
from sirius_tf.frontend.graph import Argument, Edge

pytestmark = pytest.mark.ir


def op(name, kind, *inputs, waits=(), dtype="float32", shape=(3,), outputs=1, **attrs):
    """An op; its inputs are the first outputs of ops, or tensors."""
    values = {
        key: SimpleNamespace(WhichOneof=lambda _, k=k: k, **{k: value})
        for key, (k, value) in attrs.items()
    }
    tensors = [i.outputs[0] if hasattr(i, "outputs") else i for i in inputs]
    made = SimpleNamespace(name=name, type=kind, inputs=tensors, control_inputs=list(waits))
    made.node_def = SimpleNamespace(attr=values)
    made.outputs = [
        SimpleNamespace(
            name=f"{name}:{k}",
            op=made,
            value_index=k,
            dtype=SimpleNamespace(base_dtype=SimpleNamespace(name=dtype)),
            shape=SimpleNamespace(rank=len(shape), as_list=lambda: list(shape)),
        )
        for k in range(outputs)
    ]
    return made


def source(values=None, bodies=None):
    return Source(
        values or {},
        lambda name, shapes: (bodies or {})[name],
        lambda proto: proto,
        {1: "float32", 3: "int32"}.__getitem__,
    )


X = op("x", "Placeholder")
ARGUMENTS = {"x:0": Argument("x", "float32", (3,))}
VALUE = np.array([1, 2, 3], "f")
HANDLE = op("v", "VarHandleOp", dtype="resource", shape=())
HANDLE.node_def.attr["dtype"] = SimpleNamespace(WhichOneof=lambda _: "type", type=1)


def result(made, *effects, **services):
    return convert(source(**services), "g", ARGUMENTS, [("y", made.outputs[0])], effects)


def test_what_results_need_is_converted_each_node_behind_its_inputs() -> None:
    a = op("a", "Neg", X, _own=("i", 3), T=("type", 1), text=("s", b"abc"))
    b = op("b", "Mul", a, X)
    op("unused", "Neg", a)
    graph = result(b)
    assert [n.name for n in graph.nodes] == ["a", "b"]
    assert graph.nodes[1].inputs == (Edge("a"), Edge("x"))
    assert dict(graph.nodes[0].attrs) == {"T": "float32", "text": "abc"}
    assert (graph.inputs, graph.outputs) == ((ARGUMENTS["x:0"],), (("y", Edge("b")),))


def test_an_effect_keeps_what_it_waits_for() -> None:
    check = op("check", "Assert", X, outputs=0)
    effect = op("all", "NoOp", waits=[check], outputs=0)
    assert {n.name for n in result(op("a", "Neg", X), effect).nodes} == {"check", "a"}
    assert {n.name for n in result(op("a", "Neg", X)).nodes} == {"a"}


def test_a_variable_is_its_value_for_its_readers() -> None:
    read = op("read", "ReadVariableOp", op("copy", "Identity", HANDLE))
    graph = result(op("y", "Mul", read, X), values={"v": VALUE})
    variable, product = graph.nodes
    assert (variable.op, variable.dtypes, variable.shapes) == ("Variable", ("float32",), ((3,),))
    assert product.inputs == (Edge("v"), Edge("x"))
    unknown = result(op("y", "Mul", read, X)).by_name
    assert unknown["read"].op == "ReadVariableOp"


def test_rows_of_a_variable_are_gathered_from_its_value() -> None:
    gather = op("y", "ResourceGather", HANDLE, X, batch_dims=("i", 0))
    graph = result(gather, values={"v": VALUE}).by_name
    assert graph["y"].op == "GatherV2"
    assert graph["y"].inputs == (Edge("v"), Edge("x"), Edge("y/axis"))
    assert graph["y/axis"].attr_array() == 0


def test_what_a_folded_op_waits_for_its_reader_waits_for() -> None:
    check = op("check", "Assert", X, outputs=0)
    read = op("read", "ReadVariableOp", HANDLE, waits=[check])
    graph = result(op("y", "Neg", read), values={"v": VALUE})
    assert graph.by_name["y"].control_inputs == ("check",)
    assert "check" in graph.by_name


def test_a_body_gets_the_value_of_a_variable() -> None:
    handle = op("h", "Placeholder", dtype="resource", shape=())
    read = op("r", "ReadVariableOp", handle)
    body = Body([handle.outputs[0]], [("out", read.outputs[0])], [])
    call = op("y", "PartitionedCall", HANDLE, f=("func", SimpleNamespace(name="f")))
    graph = result(call, values={"v": VALUE}, bodies={"f": body})
    assert graph.by_name["y"].attrs["Tin"] == ["float32"]
    assert graph.bodies["f"].inputs == (Argument("h", "float32", (3,)),)
    assert graph.bodies["f"].outputs == (("out", Edge("h")),)


def test_a_loop_must_hand_on_the_handle_of_a_variable() -> None:
    handle = op("h", "Placeholder", dtype="resource", shape=())
    other = op("other", "VarHandleOp", dtype="resource", shape=())
    named = {k: ("func", SimpleNamespace(name=k)) for k in ("cond", "body")}
    loop = op("y", "While", HANDLE, dtype="resource", shape=(), **named)
    body = Body([handle.outputs[0]], [("out", other.outputs[0])], [])
    with pytest.raises(SiriusError, match=r"loop 'y' \(While\) replaces the handle of a variable"):
        result(loop, values={"v": VALUE}, bodies={"body": body, "cond": body})
