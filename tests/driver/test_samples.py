# SPDX-License-Identifier: Apache-2.0
"""Samples that are made up: models that are choosy about their inputs run on them."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

import sirius_tf
from sirius_tf.bundle import cache
from sirius_tf.driver.parts import Part, cut
from sirius_tf.errors import SiriusError
from sirius_tf.ir import interp
from sirius_tf.rewrite import check, graphdef, measure
from sirius_tf.rewrite.samples import Choice
from sirius_tf.tools.convert import complaint

tf1 = tf.compat.v1


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(measure, "_SECONDS", 0.0)


def part(function, **inputs) -> Part:
    """What becomes of a function of placeholders."""
    with tf.Graph().as_default() as graph:
        fed = [tf1.placeholder(dtype, shape, name) for name, (dtype, shape) in inputs.items()]
        tf.identity(function(*fed), name="result")
    graph_def = graph.as_graph_def()
    meta_graph = meta_graph_pb2.MetaGraphDef(graph_def=graph_def)
    signature = graphdef.as_signature(graph_def, list(inputs), ["result"])
    return cut(None, str(graph_def), meta_graph, signature, "s", Choice())


def lookup(ids):
    return tf.gather(np.ones((5, 3), np.float32), tf.cast(ids, tf.int32)) * 2.0


def product(x, y):
    return tf.matmul(x, np.ones((37, 5), np.float32)) + y[:, :1]


def convolutions(x):
    for _ in range(3):
        x = tf.nn.conv1d(x, np.ones((33, 4, 4), np.float32), 2, "VALID")
    return x


def blocks(x):
    return tf.reduce_sum(tf.reshape(x, [-1, 10, 16]), 1)


def long_enough(x, n):
    with tf.control_dependencies([tf.debugging.assert_greater(n, 50)]):
        return tf.exp(tf.ensure_shape(x[:, n : n + 7], [None, 7]))


def alphabet(x):
    with tf.control_dependencies([tf.debugging.assert_equal(tf.reduce_sum(x, -1), 1.0)]):
        return tf.matmul(x, np.ones((20, 5), np.float32))


def image(data):
    pixels = tf.map_fn(tf.io.decode_png, data, fn_output_signature=tf.uint8)
    return tf.cast(tf.ensure_shape(pixels, [None, None, None, 3]), tf.float32) / 255.0


def trained(x, training):
    bad = tf.debugging.Assert(tf.logical_not(training), ["not for training"])
    with tf.control_dependencies([bad]):
        return tf.exp(x)


F, I = tf.float32, tf.int32  # noqa: E741


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (lookup, {"ids": (F, [None, None])}),
        (product, {"x": (F, [None, None]), "y": (F, [None, 2])}),
        (convolutions, {"x": (F, [None, None, 4])}),
        (blocks, {"x": (F, [None, None])}),
        (long_enough, {"x": (F, [None, None]), "n": (I, [])}),
        (alphabet, {"x": (F, [None, None, 20])}),
        (image, {"data": (tf.string, [None])}),
        (trained, {"x": (F, [None]), "training": (tf.bool, [])}),
    ],
)
def test_what_a_model_is_choosy_about(function, inputs) -> None:
    made = part(function, **inputs)
    assert made.samples is not None and made.uses, made.left
    for edge in made.values:
        assert 0 not in made.values.described[edge].shape


def test_a_model_that_runs_on_nothing_stays_on_tensorflow() -> None:
    def never(x):
        with tf.control_dependencies([tf.debugging.assert_equal(x, 12345.0, "a secret")]):
            return tf.exp(x)

    made = part(never, x=(F, [None]))
    assert made.samples is None and not made.uses
    assert "give one" in made.left["Exp"] and "a secret" in made.left["Exp"]


def test_a_defect_in_choosing_sizes_leaves_the_usual_ones(monkeypatch) -> None:
    def broken(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(interp, "unmet", broken)
    monkeypatch.setattr(cache, "remembered", lambda kind, key, make, holds=None: make())
    assert part(alphabet, x=(F, [None, None, 20])).uses


class Several(tf.Module):
    """Signatures that share inputs, and one that takes a secret."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])
    def plain(self, x):
        return {"y": tf.exp(x) * 2.0}

    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])
    def secret(self, x):
        tf.debugging.assert_equal(tf.reduce_min(x), 7.0)
        return {"y": tf.exp(x) + 1.0}


def test_the_other_signatures_are_converted(tmp_path) -> None:
    module = Several()
    signatures = {"plain": module.plain, "secret": module.secret}
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=signatures)
    options = sirius_tf.Options(keep_slow=True)
    x = np.full((2, 4), 7.0, np.float32)
    result = sirius_tf.optimize(tmp_path / "model", tmp_path / "out", options=options)
    plain, secret = result.signatures
    assert plain.compiled == plain.ops and not secret.compiled
    assert "Exp" in {left.op for left in secret.left}
    assert complaint(result, strict=False) is None
    assert "could be made up" in complaint(result, strict=True)
    got = tf.saved_model.load(str(tmp_path / "out")).signatures["secret"](x=tf.constant(x))
    np.testing.assert_allclose(got["y"], np.exp(x) + 1.0, rtol=1e-6)
    samples = {"plain": {"x": x}}  # they serve the other one, too
    result = sirius_tf.optimize(
        tmp_path / "model", tmp_path / "both", samples=samples, options=options
    )
    assert all(s.compiled == s.ops for s in result.signatures)
    with pytest.raises(SiriusError, match="does not run on the sample"):
        sirius_tf.optimize(tmp_path / "model", tmp_path / "no", samples={"secret": {"x": x + 1}})


class Grouped(tf.Module):
    """A Conv3D with groups, which only XLA runs, and what TensorFlow's ops run."""

    @tf.function(jit_compile=True)
    def only_xla(self, x):
        return tf.nn.conv3d(x, tf.ones([2, 2, 2, 2, 4]), [1] * 5, "SAME")

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 4, 4], name="x")])
    def grouped(self, x):
        return {"y": tf.nn.relu(self.only_xla(x))}

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 4, 4], name="x")])
    def plain(self, x):
        return {"y": tf.exp(x) * 2.0}


def test_what_only_xla_runs_stays_as_it_is(tmp_path) -> None:
    module = Grouped()
    signatures = {"grouped": module.grouped, "plain": module.plain}
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=signatures)
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 4, 4)).astype("f")
    result = sirius_tf.optimize(
        tmp_path / "model",
        tmp_path / "out",
        samples={"x": x},
        options=sirius_tf.Options(keep_slow=True),
    )
    grouped, plain = result.signatures
    assert plain.compiled == plain.ops and not grouped.compiled
    assert all("XLA alone" in left.reason for left in grouped.left)
    assert complaint(result, strict=False) is None
    want, got = (
        tf.saved_model.load(str(tmp_path / name)).signatures["grouped"](x=tf.constant(x))
        for name in ("model", "out")
    )
    np.testing.assert_allclose(got["y"], want["y"], rtol=1e-5, atol=1e-5)


class Noisy(tf.Module):
    """An output that differs from call to call, and one that does not."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])
    def serve(self, x):
        noise = tf.while_loop(
            lambda i, s: i < 3, lambda i, s: (i + 1, s + tf.random.normal([4])), (0, tf.zeros([4]))
        )[1]
        return {"noisy": tf.cast(tf.exp(x) * 99.0 + noise * 1e4, tf.int32), "same": tf.exp(x) + 1.0}


def test_random_outputs_are_not_compared_by_value(tmp_path, monkeypatch) -> None:
    module = Noisy()
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.serve)
    options = sirius_tf.Options(keep_slow=True)
    result = sirius_tf.optimize(tmp_path / "model", tmp_path / "out", options=options)
    assert result.signatures[0].random == ("noisy",) and result.signatures[0].compiled
    compare = check._known
    wrong = lambda got, want, random: compare({**got, "same": got["same"] + 1.0}, want, random)
    monkeypatch.setattr(check, "_known", wrong)
    monkeypatch.setattr(cache, "remembered", lambda kind, key, make, holds=None: make())
    with pytest.raises(SiriusError, match="output 'same'"):
        sirius_tf.optimize(tmp_path / "model", tmp_path / "no", options=options)
