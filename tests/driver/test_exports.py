# SPDX-License-Identifier: Apache-2.0
"""Models as other versions of Keras and TensorFlow export them: they come through, and compiled."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import sirius_tf
from sirius_tf.rewrite import measure

X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(measure, "_SECONDS", 0.0)


def converted(path: Path, **arguments) -> tuple[Path, sirius_tf.Result]:
    """The rewritten model, of which regions stay whatever time they take."""
    target = path.with_suffix(".out")
    options = sirius_tf.Options(keep_slow=True)
    return target, sirius_tf.optimize(path, target, options=options, **arguments)


def call(path: Path, **arrays) -> dict[str, np.ndarray]:
    """The results of the default signature of a model that is loaded as objects."""
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    found = signature(**{key: tf.constant(array) for key, array in arrays.items()})
    return {key: value.numpy() for key, value in found.items()}


def same(path: Path, target: Path, **arrays) -> None:
    """Both models return the same."""
    want, got = call(path, **arrays), call(target, **arrays)
    assert want.keys() == got.keys()
    for key in want:
        np.testing.assert_allclose(got[key], want[key], rtol=1e-5, atol=1e-6)


class Cell(tf.Module):
    """A call as Keras 2 makes it of an LSTM: it has an implementation for GPUs, and results that
    nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4))

    @tf.function(
        input_signature=[tf.TensorSpec([None, 4])] * 2,
        experimental_attributes={"api_implements": "lstm_1", "api_preferred_device": "CPU"},
    )
    def standard(self, x: tf.Tensor, w: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.reduce_sum(x), tf.tanh(tf.matmul(x, w))

    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])
    def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": self.standard(x, self.w)[1]}


def test_a_call_that_keras_2_makes_of_a_recurrent_layer(tmp_path) -> None:
    module = Cell()
    path = tmp_path / "model"
    tf.saved_model.save(module, str(path), signatures=module.serve)
    target, result = converted(path)
    (signature,) = result.signatures
    assert not signature.left and signature.compiled == signature.ops
    same(path, target, x=X)


class Stateful(tf.Module):
    """A constant, and a variable that a method assigns."""

    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4))
        self.state = tf.Variable([1.0, 2.0, 3.0, 4.0])

    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])
    def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.matmul(tf.exp(x), self.w) + self.state}

    @tf.function(input_signature=[])
    def reset(self) -> None:
        self.state.assign([0.0, 0.0, 0.0, 0.0])


def test_variables_that_only_objects_restore(tmp_path) -> None:
    module, path = Stateful(), tmp_path / "model"
    tf.saved_model.save(module, str(path), signatures=module.serve)
    file = path / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    saved.meta_graphs[0].ClearField("saver_def")  # no session runs it then
    file.write_bytes(saved.SerializeToString())
    target, result = converted(path)
    (signature,) = result.signatures
    assert {left.op for left in signature.left} == {"ReadVariableOp"}
    assert signature.compiled == 3 and signature.tf_ms > 0
    same(path, target, x=X)


def test_signatures_of_sparse_tensors_stay_beside_the_others(tmp_path) -> None:
    path, v1 = tmp_path / "model", tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x, s = v1.placeholder("float32", [None, 4]), v1.sparse_placeholder("float32", [None, 4])
        y, z = tf.tanh(x * 2.0), tf.sparse.reduce_sum(s)
        definitions = {
            name: v1.saved_model.build_signature_def(
                {"x": v1.saved_model.build_tensor_info(given)},
                {"y": v1.saved_model.build_tensor_info(made)},
                "tensorflow/serving/predict",
            )
            for name, given, made in (("serving_default", x, y), ("sparse", s, z))
        }
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], definitions)
        builder.save()
    target, result = converted(path)
    assert dict(result.skipped) == {"sparse": "'x' is a sparse or a ragged tensor"}
    assert [signature.compiled for signature in result.signatures] == [2]
    same(path, target, x=X)
    with tf.Graph().as_default(), v1.Session() as session:
        loaded = v1.saved_model.load(session, ["serve"], str(target))
        names = loaded.signature_def["sparse"].inputs["x"].coo_sparse
        feeds = {
            names.indices_tensor_name: [[0, 1], [2, 3]],
            names.values_tensor_name: [1.5, 2.0],
            names.dense_shape_tensor_name: [3, 4],
        }
        assert session.run(loaded.signature_def["sparse"].outputs["y"].name, feeds) == 3.5
    with pytest.raises(sirius_tf.SiriusError, match="sparse or a ragged tensor; leave the sig"):
        sirius_tf.optimize(path, tmp_path / "other", signatures=["sparse"])
