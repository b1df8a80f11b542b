# SPDX-License-Identifier: Apache-2.0
"""A rewritten function captures what its body reads, and no more."""

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from sirius_tf.rewrite.function import drop_unused
from tests.support.models import save_vocabulary


def graph(path):
    """The MetaGraphDef of a SavedModel."""
    from tensorflow.python.saved_model import loader_impl

    made = meta_graph_pb2.MetaGraphDef()
    made.CopyFrom(loader_impl.parse_saved_model(str(path)).meta_graphs[0])
    return made


def wrapper(meta_graph, key):
    """The function that signature `key` calls, and the node that calls it."""
    tensor = next(iter(meta_graph.signature_def[key].outputs.values())).name
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    call = nodes[tensor.partition(":")[0]]
    functions = {f.signature.name: f for f in meta_graph.graph_def.library.function}
    return functions[call.attr["f"].func.name], call


def test_captures_that_are_read_stay(tmp_path) -> None:
    save_vocabulary(tmp_path / "model")
    meta_graph = graph(tmp_path / "model")
    function, _ = wrapper(meta_graph, "serve")
    before = function.SerializeToString()
    drop_unused(meta_graph, function)
    assert function.SerializeToString() == before


def test_captures_that_are_not_read_go_from_function_call_and_object(tmp_path) -> None:
    save_vocabulary(tmp_path / "model")
    meta_graph = graph(tmp_path / "model")
    function, call = wrapper(meta_graph, "serve")
    name = function.signature.name
    count = len(function.signature.input_arg)
    bound = list(meta_graph.object_graph_def.concrete_functions[name].bound_inputs)
    assert count == 1 + len(bound) and len(bound) > 2
    kept = function.signature.input_arg[2].name  # the second capture
    shown = {k: v.SerializeToString() for k, v in function.arg_attr.items()}
    del function.node_def[:]
    function.node_def.add(name="read", op="Identity", input=[kept])
    function.ret.clear()
    drop_unused(meta_graph, function)
    assert [a.name for a in function.signature.input_arg][1:] == [kept]
    assert list(meta_graph.object_graph_def.concrete_functions[name].bound_inputs) == [bound[1]]
    assert len(call.attr["Tin"].list.type) == 2
    assert len([t for t in call.input if not t.startswith("^")]) == 2
    moved = {k: v.SerializeToString() for k, v in function.arg_attr.items()}
    assert moved == {new: shown[old] for new, old in ((0, 0), (1, 2)) if old in shown}


def test_an_optimized_model_calls_with_what_it_needs(tmp_path) -> None:
    import sirius_tf
    from tests.support.models import export_mmoe

    export_mmoe(tmp_path / "model")
    x = np.random.default_rng(0).standard_normal((3, 8)).astype("f")
    options = sirius_tf.Options(keep_slow=True)
    sirius_tf.optimize(tmp_path / "model", tmp_path / "out", samples={"x": x}, options=options)
    loaded = [tf.saved_model.load(str(tmp_path / n)).signatures for n in ("model", "out")]
    theirs, ours = (s["serving_default"] for s in loaded)
    assert len(ours.captured_inputs) == 1 < len(theirs.captured_inputs)
    for key, value in theirs(x=tf.constant(x)).items():
        np.testing.assert_allclose(ours(x=tf.constant(x))[key], value, rtol=1e-5)
