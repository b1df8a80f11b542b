# SPDX-License-Identifier: Apache-2.0
"""Models in which something is not what TensorFlow writes there: an error that says so, and where.

What fuzzing found (tests/reliability/coverage_fuzz.py), a row each.
"""

import shutil

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from sirius_tf.errors import SiriusError
from sirius_tf.frontend import savedmodel


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    class Layer(tf.Module):
        def __init__(self):
            super().__init__()
            self.w = tf.Variable(tf.ones([4, 3]))

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def serve(self, x):
            return {"y": x @ self.w * 2.0}

    layer, folder = Layer(), tmp_path_factory.mktemp("saved") / "model"
    tf.saved_model.save(layer, str(folder), signatures=layer.serve)
    return folder


def placeholder(meta_graph):
    return next(
        n for n in meta_graph.graph_def.node if n.op == "Placeholder" and "serving" in n.name
    )


def no_type(meta_graph):
    placeholder(meta_graph).attr["dtype"].type = 0


def unknown_type(meta_graph):
    placeholder(meta_graph).attr["dtype"].type = 1 << 20


def negative_size(meta_graph):
    nodes = [n for f in meta_graph.graph_def.library.function for n in f.node_def]
    constant = next(n for n in nodes if n.op == "Const")
    constant.attr["value"].tensor.tensor_shape.dim.add(size=-1)


def unknown_result(meta_graph):
    meta_graph.signature_def["serving_default"].outputs["y"].dtype = 999


def no_such_tensor(meta_graph):
    meta_graph.signature_def["serving_default"].inputs["x"].name = "nothing:0"


def unknown_op(meta_graph):
    placeholder(meta_graph).op = "Placeholders"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (no_type, r"node 'serving_default_x' \(Placeholder\) has no type .*\(0\): save the model"),
        (unknown_type, r"node 'serving_default_x' \(Placeholder\) has no type .*\(1048576\): save"),
        (negative_size, r"node '.*' \(Const\) has a constant of a negative size: save the model"),
        (
            unknown_result,
            r"cannot be read as a SavedModel \(TypeError: .*999.*\): restore its files",
        ),
        (no_such_tensor, "graph 'serving_default' has no tensor 'nothing:0'"),
        (
            unknown_op,
            "TensorFlow rejects graph .serving_default.: Op type not registered .Placeholders",
        ),
    ],
)
def test_graphs(change, text, model, tmp_path):
    with pytest.raises(SiriusError, match=text):
        savedmodel.read(changed(model, change, tmp_path))


def changed(model, change, folder):
    """A copy of a model with another graph."""
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((model / "saved_model.pb").read_bytes())
    change(saved_model.meta_graphs[0])
    shutil.copytree(model, folder / "changed")
    (folder / "changed" / "saved_model.pb").write_bytes(saved_model.SerializeToString())
    return folder / "changed"


def test_a_hint_of_another_shape_than_a_placeholder_has(model, tmp_path):
    def change(meta_graph):
        shape = placeholder(meta_graph).attr["_output_shapes"].list.shape.add()
        for size in (-1, 4, -1):
            shape.dim.add(size=size)

    (read,) = savedmodel.read(changed(model, change, tmp_path)).signatures.values()
    assert [argument.shape for argument in read.graph.arguments.values()] == [(None, 4)]


def test_a_checkpoint_that_is_not_there(model, tmp_path):
    shutil.copytree(model, tmp_path / "changed")
    shutil.rmtree(tmp_path / "changed" / "variables")
    with pytest.raises(SiriusError, match=r"changed cannot be read .*NotFoundError.*: restore its"):
        savedmodel.read(tmp_path / "changed")
