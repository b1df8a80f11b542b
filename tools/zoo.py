# SPDX-License-Identifier: Apache-2.0
"""Models to try the compiler on, with random weights: the same ones every time.

usage: zoo.py OUTPUT [NAME ...]

Writes each SavedModel to OUTPUT/NAME, and sample inputs to OUTPUT/NAME.npz as convert.py takes
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, logging
from keras import layers

try:
    from tools import zoo_loops as loops
except ModuleNotFoundError:  # run as a script
    import zoo_loops as loops  # type: ignore[import-not-found,no-redef]

Samples = dict[str, dict[str, np.ndarray[Any, Any]]]  # by signature, then input

DEFAULT = "serving_default"


def mmoe(path: str, rng: np.random.Generator) -> Samples:
    """Multi-gate mixture of experts: eight experts, two tasks, 499 features."""
    features, units = 499, 16
    x = keras.Input((features,), name="x")
    experts = [layers.Dense(units, "relu")(layers.Dense(64, "relu")(x)) for _ in range(8)]
    stacked = keras.ops.stack(experts, axis=1)
    towers = []
    for task in range(2):
        gate = layers.Dense(len(experts), "softmax")(x)
        mixed = keras.ops.sum(stacked * keras.ops.expand_dims(gate, -1), axis=1)
        tower = layers.Dense(8, "relu")(mixed)
        towers.append(layers.Dense(1, "sigmoid", name=f"task{task}")(tower))
    _export(keras.Model(x, towers), path, (None, features))
    return {DEFAULT: {"x": _normal(rng, 1, features)}}


def lstm(path: str, rng: np.random.Generator) -> Samples:
    """Two LSTM layers over a sequence; batch and time are dynamic."""
    width = 256
    x = keras.Input((None, width), name="x")
    y = x
    for _ in range(2):
        y = layers.LSTM(width, return_sequences=True)(y)
    _export(keras.Model(x, y), path, (None, None, width))
    return {DEFAULT: {"x": _normal(rng, 1, 100, width)}}


def bert_small(path: str, rng: np.random.Generator) -> Samples:
    """Four BERT layers of width 256; batch and length are dynamic."""
    width, vocabulary, positions = 256, 30522, 512
    module = tf.Module()
    module.weights = []

    def weight(*shape: int) -> Any:
        module.weights.append(tf.Variable(0.02 * _normal(rng, *shape)))
        return module.weights[-1]

    tokens, segments = weight(vocabulary, width), weight(2, width)
    places, norm = weight(positions, width), (weight(width), weight(width))
    stack = [_bert_layer(weight, width, heads=4, hidden=4 * width) for _ in range(4)]

    def serve(ids: Any, mask: Any) -> dict[str, Any]:
        bias = (1.0 - tf.cast(mask, tf.float32))[:, None, None, :] * -10000.0
        x = tf.gather(tokens, ids) + places[: tf.shape(ids)[1]] + segments[0]
        x = _layer_norm(x, *norm)
        batch, length = tf.shape(ids)[0], tf.shape(ids)[1]
        for layer in stack:
            x = layer(x, bias, batch, length)
        return {"out": x}

    specs = [tf.TensorSpec((None, None), tf.int32, name=n) for n in ("ids", "mask")]
    _save(module, path, {DEFAULT: tf.function(serve, input_signature=specs)})
    ids = rng.integers(0, vocabulary, (1, 64), np.int32)
    return {DEFAULT: {"ids": ids, "mask": np.ones((1, 64), np.int32)}}


def _bert_layer(weight: Callable[..., Any], width: int, heads: int, hidden: int) -> Any:
    """Attention and feed-forward, each with a residual connection and a normalization after it."""
    size = width // heads
    shapes = [(width, width)] * 4 + [(width, hidden), (hidden, width)]
    pairs = [(weight(*shape), weight(shape[1])) for shape in shapes]
    norms = [(weight(width), weight(width)) for _ in range(2)]

    def apply(x: Any, bias: Any, batch: Any, length: Any) -> Any:
        def dense(x: Any, w: Any, b: Any) -> Any:
            flat = tf.matmul(tf.reshape(x, [-1, w.shape[0]]), w) + b
            return tf.reshape(flat, [batch, length, w.shape[1]])

        def split(x: Any) -> Any:
            return tf.transpose(tf.reshape(x, [batch, length, heads, size]), [0, 2, 1, 3])

        q, k, v = (split(dense(x, *pair)) for pair in pairs[:3])
        scores = tf.matmul(q, k, transpose_b=True) / np.float32(np.sqrt(size)) + bias
        seen = tf.transpose(tf.matmul(tf.nn.softmax(scores), v), [0, 2, 1, 3])
        seen = tf.reshape(seen, [batch, length, width])
        x = _layer_norm(x + dense(seen, *pairs[3]), *norms[0])
        y = dense(x, *pairs[4])
        y = y * 0.5 * (1.0 + tf.math.erf(y / np.float32(np.sqrt(2))))
        return _layer_norm(x + dense(y, *pairs[5]), *norms[1])

    return apply


def _layer_norm(x: Any, gain: Any, shift: Any) -> Any:
    centred = x - tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), -1, keepdims=True)
    return centred * tf.math.rsqrt(variance + 1e-12) * (1.0 + gain) + shift


def mobilenet(path: str, rng: np.random.Generator) -> Samples:
    """MobileNetV2 as Keras exports it."""
    model = keras.applications.MobileNetV2(weights=None, classifier_activation=None)
    for variable in model.weights:  # statistics such that a wrong layer shows in the output
        kind = variable.path.split("/")[-1]
        if kind in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif kind in ("beta", "moving_mean", "bias"):
            variable.assign(rng.uniform(-0.1, 0.1, variable.shape))
    shape = model.input_shape[1:]
    _export(model, path, (None, *shape))
    return {DEFAULT: {"x": _normal(rng, 1, *shape)}}


def vocabulary(path: str, rng: np.random.Generator) -> Samples:
    """Words, looked up in an asset, or features: two signatures that share a classifier."""
    words, width = [f"word{i}" for i in range(100)], 64
    file = Path(path).with_suffix(".words.txt")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(words))
    module = tf.Module()
    lines = (tf.string, tf.lookup.TextFileIndex.WHOLE_LINE)
    numbers = (tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER)
    module.table = tf.lookup.StaticVocabularyTable(
        tf.lookup.TextFileInitializer(str(file), *lines, *numbers), num_oov_buckets=1
    )
    module.embedding = tf.Variable(_normal(rng, len(words) + 1, width))
    module.hidden = tf.Variable(0.1 * _normal(rng, width, 4 * width))
    module.out = tf.Variable(0.1 * _normal(rng, 4 * width, 10))

    def features(x: Any) -> dict[str, Any]:
        return {"p": tf.nn.softmax(tf.matmul(tf.nn.relu(tf.matmul(x, module.hidden)), module.out))}

    def serve(words: Any) -> dict[str, Any]:
        found = tf.gather(module.embedding, module.table.lookup(words))
        return features(tf.reduce_mean(found, axis=1))

    sentences = tf.TensorSpec((None, None), tf.string, name="words")
    vectors = tf.TensorSpec((None, width), tf.float32, name="x")
    functions = {
        DEFAULT: tf.function(serve, input_signature=[sentences]),
        "features": tf.function(features, input_signature=[vectors]),
    }
    _save(module, path, functions)
    file.unlink()  # the SavedModel has its own
    sentence = np.array([[words[i] for i in rng.integers(0, len(words), 12)] + ["unknown"]])
    return {DEFAULT: {"words": sentence}, "features": {"x": _normal(rng, 1, width)}}


ZOO: Mapping[str, Callable[[str, np.random.Generator], Samples]] = {
    builder.__name__: builder
    for builder in (
        mmoe,
        lstm,
        bert_small,
        mobilenet,
        vocabulary,
        loops.attn_decode,
        loops.beam_search,
        loops.bidirectional,
        loops.blockdrop,
        loops.dien,
        loops.greedy,
        loops.lstm10,
        loops.lstm_unrolled,
        loops.nasrnn,
        loops.refine,
        loops.seq2seq,
        loops.skip_rnn,
    )
}


def build(name: str, path: str | Path) -> Samples:
    """Save the model `name` to `path`; returns sample inputs."""
    keras.utils.set_random_seed(0)
    return ZOO[name](str(path), np.random.default_rng(0))


def save_samples(samples: Samples, file: Path) -> None:
    """Write samples as convert.py takes them; the default signature's need no prefix."""
    arrays: dict[str, Any] = {
        key if name == DEFAULT else f"{name}/{key}": array
        for name, inputs in samples.items()
        for key, array in inputs.items()
    }
    np.savez(file, **arrays)


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    return rng.standard_normal(shape).astype(np.float32)


def _export(model: Any, path: str, shape: tuple[int | None, ...]) -> None:
    spec = tf.TensorSpec(shape, tf.float32, name="x")
    model.export(path, verbose=False, input_signature=[spec])


def _save(module: Any, path: str, functions: Mapping[str, Any]) -> None:
    module.functions = dict(functions)  # tracked, so that what they read is saved
    tf.saved_model.save(module, path, signatures=dict(functions))


def main(argv: list[str]) -> None:
    """See the module."""
    logging.set_verbosity(logging.WARNING)  # TensorFlow logs through absl, too
    if len(argv) < 2 or not ZOO.keys() >= set(argv[2:]):
        raise app.UsageError(f"expected OUTPUT and names among {', '.join(ZOO)}")
    output = Path(argv[1])
    for name in argv[2:] or ZOO:
        save_samples(build(name, output / name), output / f"{name}.npz")


def run() -> None:
    """Run the command line of this process."""
    app.run(main)


if __name__ == "__main__":
    run()
