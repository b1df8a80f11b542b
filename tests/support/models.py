# SPDX-License-Identifier: Apache-2.0
"""Builders of small SavedModels; each writes one to a path."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1


def export_mmoe(path: Path) -> None:
    """Two experts, a softmax gate and two towers."""
    x = keras.Input((8,), name="x")
    experts = [keras.layers.Dense(4, activation="relu")(x) for _ in range(2)]
    gate = keras.layers.Dense(2, activation="softmax")(x)
    mixed = gate[:, :1] * experts[0] + gate[:, 1:] * experts[1]
    towers = [keras.layers.Dense(1, activation="sigmoid", name=f"t{i}")(mixed) for i in range(2)]
    keras.Model(x, towers).export(path, verbose=False)


def export_lstm(path: Path, units: int = 4) -> None:
    """An LSTM over a sequence of unknown length."""
    keras.Sequential(
        [keras.Input((None, 3)), keras.layers.LSTM(units), keras.layers.Dense(2)]
    ).export(path, verbose=False)


class Gathers(tf.Module):
    """An embedding looked up and normalized."""

    def __init__(self) -> None:
        super().__init__()
        self.table = tf.Variable(np.arange(12.0, dtype=np.float32).reshape(6, 2))
        self.scale = tf.Variable([2.0, 3.0])

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, name="ids")])
    def serve(self, ids: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"out": tf.gather(self.table, ids) * self.scale}


def save_gathers(path: Path) -> None:
    """See Gathers."""
    module = Gathers()
    tf.saved_model.save(module, str(path), signatures=module.serve)


class Vocabulary(tf.Module):
    """A vocabulary in an asset, an embedding, and a counter that one signature assigns."""

    def __init__(self, vocabulary: Path) -> None:
        super().__init__()
        init = tf.lookup.TextFileInitializer(
            str(vocabulary),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        self.words = tf.lookup.StaticVocabularyTable(init, num_oov_buckets=1)
        self.embedding = tf.Variable(np.ones((4, 2), np.float32))
        self.counter = tf.Variable(0, dtype=tf.int64)
        self.shift = tf.Variable([1.0, 2.0])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
    def serve(self, words: tf.Tensor) -> dict[str, tf.Tensor]:
        self.counter.assign_add(1)
        tf.debugging.assert_greater(tf.size(words), 0)
        return {"out": tf.gather(self.embedding, self.words.lookup(words)) + self.shift}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def count(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"out": x + tf.cast(self.counter, tf.float32)}

    @tf.function(input_signature=[])
    def reset(self) -> None:
        self.shift.assign([0.0, 0.0])


def save_vocabulary(path: Path) -> None:
    """See Vocabulary."""
    vocabulary = path.parent / "words.txt"
    vocabulary.write_text("a\nb\nc\n")
    module = Vocabulary(vocabulary)
    signatures = {"serve": module.serve, "count": module.count}
    tf.saved_model.save(module, str(path), signatures=signatures)


class Control(tf.Module):
    """A branch in a loop, which calls functions, reads a variable and assigns another."""

    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(np.ones((3, 3), np.float32))
        self.counter = tf.Variable(0.0)

    @tf.function
    def project(self, x: tf.Tensor) -> tf.Tensor:
        return tf.matmul(x, self.w)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 3], tf.float32, name="x"),
            tf.TensorSpec([], tf.int32, name="n"),
            tf.TensorSpec(None, tf.float32, name="any"),
        ]
    )
    def serve(self, x: tf.Tensor, n: tf.Tensor, any: tf.Tensor) -> dict[str, tf.Tensor]:
        for i in tf.range(n):
            x = self.project(x) + tf.gather(self.w, i % 3)
            if tf.reduce_sum(x) > 3.0:
                x = self.project(x)
                self.counter.assign_add(1.0)
        return {"out": x, "any": any}


def save_control(path: Path) -> None:
    """See Control."""
    module = Control()
    tf.saved_model.save(module, str(path), signatures=module.serve)


def save_tf1(path: Path, resource: bool) -> None:
    """A TF1 Session's model, with reference or resource variables; `steps` is assigned."""
    with tf.Graph().as_default(), tf1.Session() as session:
        x = tf1.placeholder(tf.float32, [None, 3], name="x")
        with tf1.variable_scope("net", use_resource=resource):
            w = tf1.get_variable("w", initializer=np.arange(6, dtype=np.float32).reshape(3, 2))
            steps = tf1.get_variable("steps", initializer=np.float32(0), trainable=False)
        with tf.control_dependencies([tf1.assign_add(steps, 1.0)]):
            y = tf.add(tf.matmul(x, w), steps, name="y")
        session.run(tf1.global_variables_initializer())
        builder = tf1.saved_model.builder.SavedModelBuilder(str(path))
        signature = tf1.saved_model.signature_def_utils.predict_signature_def({"x": x}, {"y": y})
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()


def save_partitioned(path: Path) -> None:
    """A TF1 model that reads the second part of a variable in two, cut in the middle."""
    with tf.Graph().as_default(), tf1.Session() as session:
        x = tf1.placeholder(tf.float32, [None, 4], name="x")
        halves = tf.split(x, 2, axis=1, name="split")
        w = tf1.get_variable("w", [4, 2], partitioner=tf1.fixed_size_partitioner(2))
        y = tf.matmul(halves[1], next(v for v in w if v.name == "w/part_1:0"))
        session.run(tf1.global_variables_initializer())
        session.run([tf1.assign(v, tf.fill([2, 2], float(i))) for i, v in enumerate(w)])
        signature = tf1.saved_model.signature_def_utils.predict_signature_def
        signatures = {"cut": signature({"half": halves[1]}, {"y": y})}
        builder = tf1.saved_model.builder.SavedModelBuilder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()


def frozen_graph_def() -> tf1.GraphDef:
    """x @ w + b, weights as constants."""
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 3], name="x")
        product = tf.matmul(x, tf.constant(np.ones((3, 2), np.float32), name="w"))
        tf.nn.bias_add(product, tf.constant([1.0, 2.0], name="b"), name="y")
        tf.identity(product, name="unused")
        return graph.as_graph_def()
