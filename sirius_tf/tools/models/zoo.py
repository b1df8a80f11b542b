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

from sirius_tf.tools.models import dense, recurrent
from sirius_tf.tools.models.recurrent import DEFAULT, Samples, normal


def lstm(path: str, rng: np.random.Generator, width: int = 256, steps: int = 100) -> Samples:
    """Two LSTM layers over a sequence; batch and time are dynamic."""
    x = keras.Input((None, width), name="x")
    y = x
    for _ in range(2):
        y = layers.LSTM(width, return_sequences=True)(y)
    dense.export(keras.Model(x, y), path, (None, None, width))
    return {DEFAULT: {"x": normal(rng, 1, steps, width)}}


def vocabulary(path: str, rng: np.random.Generator, width: int = 64) -> Samples:
    """Words, looked up in an asset, or features: two signatures that share a classifier."""
    words = [f"word{i}" for i in range(100)]
    file = Path(path).with_suffix(".words.txt")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(words))
    module = tf.Module()
    lines = (tf.string, tf.lookup.TextFileIndex.WHOLE_LINE)
    numbers = (tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER)
    module.table = tf.lookup.StaticVocabularyTable(
        tf.lookup.TextFileInitializer(str(file), *lines, *numbers), num_oov_buckets=1
    )
    module.embedding = tf.Variable(normal(rng, len(words) + 1, width))
    module.hidden = tf.Variable(0.1 * normal(rng, width, 4 * width))
    module.out = tf.Variable(0.1 * normal(rng, 4 * width, 10))

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
    dense.save(module, path, functions)
    file.unlink()  # the SavedModel has its own
    sentence = np.array([[words[i] for i in rng.integers(0, len(words), 12)] + ["unknown"]])
    return {DEFAULT: {"words": sentence}, "features": {"x": normal(rng, 1, width)}}


ZOO: Mapping[str, Callable[..., Samples]] = {
    builder.__name__: builder
    for builder in (
        dense.mmoe,
        lstm,
        dense.bert_small,
        dense.mobilenet,
        vocabulary,
        dense.bert,
        dense.efficientnet,
        dense.mmoe_souffle,
        dense.resnet50,
        dense.resnext50,
        dense.swin,
        recurrent.attn_decode,
        recurrent.beam_search,
        recurrent.bidirectional,
        recurrent.blockdrop,
        recurrent.dien,
        recurrent.greedy,
        recurrent.lstm10,
        recurrent.lstm_unrolled,
        recurrent.nasrnn,
        recurrent.refine,
        recurrent.replace_rows,
        recurrent.seq2seq,
        recurrent.skip_rnn,
    )
}


def build(name: str, path: str | Path, **sizes: Any) -> Samples:
    """Save the model `name` to `path`; returns sample inputs.

    `sizes` are arguments of its builder, which has defaults for all.
    """
    keras.utils.set_random_seed(0)
    return ZOO[name](str(path), np.random.default_rng(0), **sizes)


def save_samples(samples: Samples, file: Path) -> None:
    """Write samples as convert.py takes them; the default signature's need no prefix."""
    arrays: dict[str, Any] = {
        key if name == DEFAULT else f"{name}/{key}": array
        for name, inputs in samples.items()
        for key, array in inputs.items()
    }
    np.savez(file, **arrays)


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
