# SPDX-License-Identifier: Apache-2.0
"""Graphs of small SavedModels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.errors import SiriusError
from sirius_tf.frontend.graph import Edge, Graph, Node, consumers, show
from sirius_tf.frontend.graphdef import from_graph_def
from sirius_tf.frontend.savedmodel import read
from tests.support import models
from tests.support.graphs import check, ops


def test_mmoe(tmp_path: Path) -> None:
    models.export_mmoe(tmp_path / "m")
    signature = read(tmp_path / "m").signatures["serving_default"]
    graph = signature.graph
    check(graph)
    assert ops(graph)["MatMul"] == 5
    assert ops(graph)["Variable"] == 10
    assert not {"VarHandleOp", "ReadVariableOp", "NoOp"} & set(ops(graph))
    assert [(a.dtype, a.shape) for a in graph.inputs] == [("float32", (None, 8))]
    (tensor,) = signature.inputs.values()
    assert tensor.name == graph.inputs[0].name + ":0"
    assert [name for name, _ in graph.outputs] == list(signature.outputs)
    assert all(graph.shape(edge) == (None, 1) for _, edge in graph.outputs)
    loaded = tf.saved_model.load(str(tmp_path / "m"))
    weights = sorted(float(np.sum(v)) for v in loaded.variables)
    found = [n.attr_array() for n in graph.nodes if n.op == "Variable"]
    np.testing.assert_allclose(sorted(float(np.sum(v)) for v in found), weights)


def test_lstm(tmp_path: Path) -> None:
    models.export_lstm(tmp_path / "m")
    graph = read(tmp_path / "m", ["serving_default"]).signatures["serving_default"].graph
    check(graph)
    (loop,) = (node for node in graph.nodes if node.op == "While")
    body, cond = graph.bodies[loop.attr_str("body")], graph.bodies[loop.attr_str("cond")]
    assert len(body.inputs) == len(body.outputs) == len(cond.inputs) == len(loop.inputs)
    assert cond.dtype(cond.outputs[0][1]) == "bool"
    assert "resource" not in loop.dtypes + loop.attr_strs("T")
    assert "ReadVariableOp" not in ops(body)
    assert ops(body)["MatMul"] == 2
    weights = [i for i, e in enumerate(loop.inputs) if e.node in variables(graph)]
    assert len(weights) == 3
    for index in weights:
        assert body.inputs[index].shape == graph.shape(loop.inputs[index]) == loop.shapes[index]
        assert body.outputs[index][1] == Edge(body.inputs[index].name)


def variables(graph: Graph) -> dict[str, Node]:
    return {node.name: node for node in graph.nodes if node.op == "Variable"}


def test_gather(tmp_path: Path) -> None:
    models.save_gathers(tmp_path / "m")
    graph = read(tmp_path / "m").signatures["serving_default"].graph
    check(graph)
    (gather,) = (node for node in graph.nodes if node.op == "GatherV2")
    table, _, axis = (edge.node for edge in gather.inputs)
    assert graph.by_name[table].attr_array().shape == (6, 2)
    assert graph.by_name[axis].attr_array() == 0
    assert gather.attr_int("batch_dims") == 0
    assert gather.shapes == ((None, None, 2),)


def test_assigned_variables_stay_edges(tmp_path: Path) -> None:
    models.save_vocabulary(tmp_path / "m")
    signatures = read(tmp_path / "m").signatures
    assert set(signatures) == {"serve", "count"}
    serve, count = signatures["serve"].graph, signatures["count"].graph
    check(serve)
    check(count)
    assert {"AssignAddVariableOp", "Assert", "LookupTableFindV2"} <= set(ops(serve)) | {
        op for body in serve.bodies.values() for op in ops(body)
    }
    assert [v.shapes for v in variables(serve).values()] == [((4, 2),)]  # not what reset assigns
    assert ops(count)["ReadVariableOp"] == ops(count)["VarHandleOp"] == 1


def test_control_flow(tmp_path: Path) -> None:
    models.save_control(tmp_path / "m")
    graph = read(tmp_path / "m").signatures["serving_default"].graph
    check(graph)
    assert {a.name.removeprefix("serving_default_"): a.shape for a in graph.inputs} == {
        "any": None,
        "n": (),
        "x": (None, 3),
    }
    (loop,) = (node for node in graph.nodes if node.op == "While")
    body = graph.bodies[loop.attr_str("body")]
    assert ops(body)["MatMul"] == ops(body)["If"] == ops(body)["GatherV2"] == 1
    assert not {"PartitionedCall", "StatefulPartitionedCall"} & set(ops(body))
    shapes = [a.shape for a in body.inputs if a.dtype != "resource"]
    assert set(shapes) == {(), (None, 3), (3, 3)}
    assert [a.dtype for a in body.inputs].count("resource") == 1
    (branch,) = (node for node in body.nodes if node.op == "If")
    taken = body.bodies[branch.attr_str("then_branch")]
    assert ops(taken)["AssignAddVariableOp"] == ops(taken)["MatMul"] == 1
    assert branch.shapes[0] == (None, 3)


@pytest.mark.parametrize("resource", [False, True])
def test_tf1(tmp_path: Path, resource: bool) -> None:
    models.save_tf1(tmp_path / "m", resource)
    graph = read(tmp_path / "m").signatures["serving_default"].graph
    check(graph)
    assert {name: v.shapes for name, v in variables(graph).items()} == {"net/w": ((3, 2),)}
    (weights,) = variables(graph).values()
    np.testing.assert_array_equal(weights.attr_array(), np.arange(6).reshape(3, 2))
    assert ops(graph)["AssignAddVariableOp" if resource else "AssignAdd"] == 1
    assert graph.inputs[0].name == "x"


def test_only_what_a_signature_needs_is_inlined(tmp_path: Path) -> None:
    module = tf.Module()
    module.v = tf.Variable([1.0, 2.0])
    spec = tf.TensorSpec([2], name="x")
    functions = {
        "exp": tf.function(lambda x, y: {"out": tf.exp(x) * module.v}, [spec, spec]),
        "tanh": tf.function(lambda x: {"out": tf.tanh(x)}, [spec]),
    }
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=functions)
    found = read(tmp_path / "m").signatures
    kinds = {name: {node.op for node in s.inlined.node} for name, s in found.items()}
    assert kinds["tanh"] == {"Placeholder", "Tanh", "Identity"}
    assert "Exp" in kinds["exp"] and not kinds["exp"] & {"Tanh", "SaveV2", "RestoreV2"}
    assert len(found["exp"].graph.inputs) == 2  # one of which nothing reads


def test_partitioned_variable_and_cut(tmp_path: Path) -> None:
    models.save_partitioned(tmp_path / "m")
    graph = read(tmp_path / "m").signatures["cut"].graph
    check(graph)
    assert [a.name for a in graph.inputs] == ["split:1"]
    assert set(ops(graph)) == {"Variable", "MatMul", "Identity"}
    (part,) = variables(graph).values()
    np.testing.assert_array_equal(part.attr_array(), np.ones((2, 2)))


def test_graph_def() -> None:
    graph = from_graph_def(models.frozen_graph_def(), ["x"], ["y"])
    check(graph)
    assert "unused" not in graph.by_name
    assert graph.shape(dict(graph.outputs)["y"]) == (None, 2)
    readers = consumers(graph)
    assert [(n.op, i) for n, i in readers[Edge("x")]] == [("MatMul", 0)]
    assert "y = BiasAdd(MatMul, b)" in show(graph)
    with pytest.raises(SiriusError, match="no tensor 'z'"):
        from_graph_def(models.frozen_graph_def(), ["x"], ["z"])


def test_the_order_of_control_inputs_is_that_of_names() -> None:
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder("float32", [], name="x")
        effects = [
            tf.negative(x, name=f"n{k:02}") for k in np.random.default_rng(0).permutation(40)
        ]
        with tf.control_dependencies(effects):
            tf.identity(x, name="y")
    found = from_graph_def(graph.as_graph_def(), ["x:0"], ["y:0"])
    names = [f"n{k:02}" for k in range(40)]
    assert [node.name for node in found.nodes][:40] == names
    assert list(found.by_name["y"].control_inputs) == names


def test_attributes() -> None:
    node = Node("n", "Op", attrs={"i": 1, "s": "SAME", "l": [1, 2], "b": True})
    assert (node.attr_int("i"), node.attr_str("s"), node.attr_ints("l")) == (1, "SAME", (1, 2))
    for wrong in (lambda: node.attr_int("b"), lambda: node.attr_float("i")):
        with pytest.raises(SiriusError, match=r"of node 'n' \(Op\) is"):
            wrong()
    with pytest.raises(SiriusError, match="has no attribute 'x'"):
        node.attr_int("x")


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(SiriusError, match="is not a directory"):
        read(tmp_path / "none")
    with pytest.raises(SiriusError, match="is not a SavedModel"):
        read(tmp_path)
    models.save_gathers(tmp_path / "m")
    with pytest.raises(SiriusError, match="no signature 'x'; it has 'serving_default'"):
        read(tmp_path / "m", ["x"])
