# SPDX-License-Identifier: Apache-2.0
"""Models as other versions of Keras and TensorFlow export them: they come through, and compiled."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import sirius_tf
from sirius_tf import runtime
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


class Wide(tf.Module):
    """Variables of some size, one of which is looked up."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.table = tf.Variable(rng.standard_normal((40_000, 8)).astype("f"))
        self.w = tf.Variable(rng.standard_normal((8, 64)).astype("f"))
        self.v = tf.Variable(rng.standard_normal((64, 4)).astype("f"))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="ids")])
    def serve(self, ids: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.nn.relu(tf.gather(self.table, ids) @ self.w) @ self.v}


def test_a_checkpoint_of_several_files(tmp_path) -> None:
    module, path = Wide(), tmp_path / "model"
    policy = tf.train.experimental.MaxShardSizePolicy(max_shard_size=300_000)
    options = tf.saved_model.SaveOptions(experimental_sharding_callback=policy)
    tf.saved_model.save(module, str(path), signatures=module.serve, options=options)
    assert len(list((path / "variables").glob("variables.data-*"))) > 3
    target, result = converted(path)
    assert not result.signatures[0].left
    ids = np.array([0, 7, 39_999, 20_000], np.int32)
    same(path, target, ids=ids)
    with pytest.raises(sirius_tf.SiriusError, match="that it looks up is saved in parts"):
        runtime.load(target)(ids=ids)


def test_the_metagraph_for_serving_beside_others(tmp_path) -> None:
    path, v1 = tmp_path / "model", tf.compat.v1

    def build(scale: float) -> dict:
        x = v1.placeholder("float32", [None, 4])
        w = v1.get_variable("w", initializer=np.ones((4, 2), "f"))
        y = tf.tanh(tf.matmul(x * scale, w))
        infos = (
            {"x": v1.saved_model.build_tensor_info(x)},
            {"y": v1.saved_model.build_tensor_info(y)},
        )
        definition = v1.saved_model.build_signature_def(*infos, "tensorflow/serving/predict")
        return {"serving_default": definition}

    builder = v1.saved_model.Builder(str(path))
    with tf.Graph().as_default(), v1.Session() as session:
        definitions = build(1.0)
        session.run(v1.global_variables_initializer())
        builder.add_meta_graph_and_variables(session, ["train"], definitions)
    with tf.Graph().as_default():
        builder.add_meta_graph(["serve", "small"], build(0.5))
    builder.save()
    target, result = converted(path)
    assert [(s.compiled, s.ops) for s in result.signatures] == [(3, 3)]
    for tags in (["train"], ["serve", "small"]):
        want, got = (run(where, tags) for where in (path, target))
        np.testing.assert_allclose(got, want, rtol=1e-5)
    assert not np.allclose(run(target, ["train"]), run(target, ["serve", "small"]))


def run(path: Path, tags: list[str]) -> np.ndarray:
    """The result of the default signature of one metagraph of a model, in a session."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        definition = v1.saved_model.load(session, tags, str(path)).signature_def["serving_default"]
        return session.run(definition.outputs["y"].name, {definition.inputs["x"].name: X})


def test_signatures_of_ragged_tensors_stay_beside_the_others(tmp_path) -> None:
    class Ragged(tf.Module):
        @tf.function(input_signature=[tf.RaggedTensorSpec([None, None], tf.float32, 1)])
        def rows(self, r: tf.RaggedTensor) -> dict[str, tf.Tensor]:
            return {"y": tf.reduce_sum(r, axis=1)}

        @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])
        def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": tf.tanh(x * 2.0)}

    module, path = Ragged(), tmp_path / "model"
    signatures = {"serving_default": module.serve, "rows": module.rows}
    tf.saved_model.save(module, str(path), signatures=signatures)
    target, result = converted(path)
    assert "serving_default" in {s.name for s in result.signatures if s.compiled == 2}
    same(path, target, x=X)
    rows = tf.ragged.constant([[1.0, 2.0], [], [3.0]])
    for where in (path, target):
        loaded = tf.saved_model.load(str(where))
        np.testing.assert_allclose(loaded.rows(rows)["y"], [3.0, 0.0, 3.0])
