# SPDX-License-Identifier: Apache-2.0
"""SavedModels compiled whole, against TensorFlow, at sizes that were not compiled for."""

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.bundle.link import link
from sirius_tf.compile import compile_graph
from sirius_tf.frontend import savedmodel
from sirius_tf.runtime import native


class Encoder(tf.Module):
    """One attention layer with symbolic batch and length: gather, heads, softmax, norm."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.table = tf.Variable(rng.standard_normal((50, 12)).astype("f"))
        self.w = [tf.Variable(rng.standard_normal((12, 12)).astype("f") / 3) for _ in range(3)]
        self.gain = tf.Variable(rng.standard_normal(12).astype("f"))

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32, name="ids")])
    def __call__(self, ids):
        batch, length = tf.shape(ids)[0], tf.shape(ids)[1]
        x = tf.gather(self.table, ids)

        def heads(w):
            flat = tf.matmul(tf.reshape(x, [-1, 12]), w)
            return tf.transpose(tf.reshape(flat, [batch, length, 3, 4]), [0, 2, 1, 3])

        q, k, v = (heads(w) for w in self.w)
        scores = tf.nn.softmax(tf.matmul(q, k, transpose_b=True) * 0.5)
        y = x + tf.reshape(tf.transpose(tf.matmul(scores, v), [0, 2, 1, 3]), [batch, length, 12])
        centred = y - tf.reduce_mean(y, -1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), -1, keepdims=True)
        return {"out": centred * tf.math.rsqrt(variance + 1e-6) * self.gain}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    module = Encoder()
    tf.saved_model.save(module, folder / "model", signatures=module.__call__)
    graph = savedmodel.read(folder / "model").signatures["serving_default"].graph
    stages = {}
    kernel = compile_graph(graph, dump=stages.__setitem__)
    link([kernel], folder / "bundle.so", {})
    first, *passes, schedule, loops, code = stages
    assert (first, schedule, loops, code) == ("program", "schedule", "loops", "c")
    assert passes == ["simplify", "lookup_sums", "epilogue", "layout"]
    assert all(stages.values())
    bundle = native.Bundle(folder / "bundle.so")
    return module, lambda ids: bundle.call(kernel.program.name, [ids])[0]


@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (7, 33), (3, 1)])
def test_one_bundle_serves_every_shape(encoder, shape) -> None:
    module, run = encoder
    ids = np.random.default_rng(1).integers(0, 50, shape).astype("int32")
    want = module(ids)["out"].numpy()
    error = np.linalg.norm(run(ids) - want) / np.linalg.norm(want)
    assert error < 1e-5


def test_a_token_outside_the_vocabulary_is_an_error(encoder) -> None:
    with pytest.raises(ValueError, match=r"index 50 is not in \[0, 50\)"):
        encoder[1](np.array([[1, 50]], "int32"))
