# SPDX-License-Identifier: Apache-2.0
"""Models made of loops and branches, for zoo.py: recurrences, decoders, gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

Samples = dict[str, dict[str, np.ndarray[Any, Any]]]  # by signature, then input
Rng = np.random.Generator

DEFAULT = "serving_default"


class Weights(tf.Module):  # type: ignore[misc]
    """Variables with random values, by default such that products keep their size."""

    def __init__(self, rng: Rng, scale: float | None = None) -> None:
        super().__init__()
        self._rng, self._scale = rng, scale
        self.made: list[tf.Variable] = []

    def __call__(self, *shape: int, scale: float | None = None) -> Any:
        """A variable."""
        scale = scale or self._scale or shape[0] ** -0.5
        self.made.append(tf.Variable(scale * normal(self._rng, *shape)))
        return self.made[-1]

    def dense(self, inputs: int, outputs: int) -> tuple[Any, Any]:
        """A matrix and a bias."""
        return self(inputs, outputs), self(outputs)

    def cell(self, inputs: int, width: int, gates: int) -> tuple[Any, Any, Any]:
        """Weights of the input and of the state, and the bias, of a recurrent cell."""
        return (
            self(inputs, gates * width),
            self(width, gates * width),
            self(gates * width, scale=0.1),
        )

    def save(
        self, path: str, serve: Callable[..., Any], **specs: tuple[Sequence[int | None], Any]
    ) -> None:
        """Save a model of these variables whose one signature is `serve`."""
        signature = [tf.TensorSpec(s, dtype, name=name) for name, (s, dtype) in specs.items()]
        self.serve = tf.function(serve, input_signature=signature)
        tf.saved_model.save(self, path, signatures={DEFAULT: self.serve})


def normal(rng: Rng, *shape: int) -> np.ndarray[Any, Any]:
    """Standard normal float32."""
    return rng.standard_normal(shape).astype(np.float32)


def _gru(x: Any, h: Any, cell: Sequence[Any], attention: Any = None) -> Any:
    w, u, b = cell
    width = h.shape[-1]
    a, c = tf.matmul(x, w) + b, tf.matmul(h, u)
    update = tf.sigmoid(a[:, :width] + c[:, :width])
    reset = tf.sigmoid(a[:, width : 2 * width] + c[:, width : 2 * width])
    new = tf.tanh(a[:, 2 * width :] + reset * c[:, 2 * width :])
    update = update if attention is None else update * attention
    return (1.0 - update) * h + update * new


def _lstm(x: Any, h: Any, c: Any, cell: Sequence[Any]) -> tuple[Any, Any]:
    w, u, b = cell
    i, g, f, o = tf.split(tf.matmul(x, w) + tf.matmul(h, u) + b, 4, 1)
    c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
    return tf.sigmoid(o) * tf.tanh(c), c


def lstm10(path: str, rng: Rng, width: int = 256, steps: int = 100, depth: int = 10) -> Samples:
    """Ten LSTM layers of width 256 over a sequence."""
    x = keras.Input((None, width), name="x")
    y = x
    for _ in range(depth):
        y = layers.LSTM(width, return_sequences=True)(y)
    spec = tf.TensorSpec((None, None, width), tf.float32, name="x")
    keras.Model(x, y).export(path, verbose=False, input_signature=[spec])
    return {DEFAULT: {"x": normal(rng, 1, steps, width)}}


def lstm_unrolled(
    path: str, rng: Rng, width: int = 256, steps: int = 100, depth: int = 10
) -> Samples:
    """The same net for 100 steps, without a loop: every cell of every step is nodes of its own."""
    weights = Weights(rng)
    cells = [weights.cell(width, width, 4) for _ in range(depth)]

    def serve(x: Any) -> dict[str, Any]:
        states = [(tf.zeros([1, width]), tf.zeros([1, width])) for _ in cells]
        y = x[:, 0]
        for y in tf.unstack(x, axis=1):
            for k, cell in enumerate(cells):
                y, c = _lstm(y, *states[k], cell)
                states[k] = y, c
        return {"y": y}

    weights.save(path, serve, x=((1, steps, width), tf.float32))
    return {DEFAULT: {"x": normal(rng, 1, steps, width)}}


def bidirectional(path: str, rng: Rng, width: int = 128, steps: int = 60) -> Samples:
    """A bidirectional LSTM that skips what a mask leaves out: steps of zeros."""
    x = keras.Input((None, width // 2), name="x")
    y = layers.Bidirectional(layers.LSTM(width, return_sequences=True))(layers.Masking()(x))
    spec = tf.TensorSpec((None, None, width // 2), tf.float32, name="x")
    keras.Model(x, y).export(path, verbose=False, input_signature=[spec])
    sample = normal(rng, 1, steps, width // 2)
    sample[:, steps * 4 // 5 :] = 0.0
    return {DEFAULT: {"x": sample}}


def nasrnn(path: str, rng: Rng, width: int = 256, steps: int = 1000) -> Samples:
    """A cell that architecture search found: eight gates in a tree; 1000 steps."""
    weights = Weights(rng)
    w, u = weights(width, 8 * width), weights(width, 8 * width)

    def serve(x: Any) -> dict[str, Any]:
        batch, steps, xs = tf.shape(x)[0], tf.shape(x)[1], tf.transpose(x, [1, 0, 2])
        sigmoid, relu, tanh = tf.sigmoid, tf.nn.relu, tf.tanh

        def body(t: Any, h: Any, c: Any) -> Any:
            a, b = tf.split(tf.matmul(xs[t], w), 8, 1), tf.split(tf.matmul(h, u), 8, 1)
            s = [p + q for p, q in zip(a, b, strict=True)]
            left = tanh(tanh(sigmoid(s[0]) * relu(s[1])) + c)
            right = tanh(sigmoid(s[2]) + relu(a[3] * b[3]))
            c = left * right
            rest = tanh(tanh(s[4]) * sigmoid(s[5])) + sigmoid(tanh(s[6]) + sigmoid(s[7]))
            return t + 1, tanh(c * tanh(rest)), c

        zeros = tf.zeros([batch, width])
        return {"h": tf.while_loop(lambda t, *_: t < steps, body, (0, zeros, zeros))[1]}

    weights.save(path, serve, x=((None, None, width), tf.float32))
    return {DEFAULT: {"x": normal(rng, 1, steps, width)}}


def greedy(path: str, rng: Rng, width: int = 128, words: int = 1000, most: int = 50) -> Samples:
    """A GRU encoder and a greedy decoder, which ends when every sentence has."""
    return _translator(path, rng, width, words, most, gates=3)


def seq2seq(path: str, rng: Rng, width: int = 256, words: int = 3797, most: int = 50) -> Samples:
    """An LSTM encoder and a greedy decoder of 3797 words, which ends when every sentence has."""
    return _translator(path, rng, width, words, most, gates=4)


def _translator(path: str, rng: Rng, width: int, words: int, most: int, gates: int) -> Samples:
    weights = Weights(rng)
    table = weights(words, width, scale=0.3)
    encoder, decoder = weights.cell(width, width, gates), weights.cell(width, width, gates)
    out = weights(width, words)
    end = 2

    def step(x: Any, h: Any, c: Any, cell: Any) -> Any:
        return (_gru(x, h, cell), c) if gates == 3 else _lstm(x, h, c, cell)

    def serve(ids: Any) -> dict[str, Any]:
        batch, length = tf.shape(ids)[0], tf.shape(ids)[1]
        xs = tf.transpose(tf.gather(table, ids), [1, 0, 2])
        zeros = tf.zeros([batch, width])

        def encode(t: Any, h: Any, c: Any) -> Any:
            return t + 1, *step(xs[t], h, c, encoder)

        def decode(t: Any, h: Any, c: Any, word: Any, done: Any, made: Any) -> Any:
            h, c = step(tf.gather(table, word), h, c, decoder)
            word = tf.argmax(tf.matmul(h, out), -1, output_type=tf.int32)
            word = tf.where(done, end * tf.ones_like(word), word)
            return t + 1, h, c, word, done | tf.equal(word, end), made.write(t, word)

        def going(t: Any, h: Any, c: Any, word: Any, done: Any, made: Any) -> Any:
            return tf.logical_and(t < most, tf.logical_not(tf.reduce_all(done)))

        _, h, c = tf.while_loop(lambda t, *_: t < length, encode, (0, zeros, zeros))
        made = tf.TensorArray(tf.int32, most, element_shape=[None])
        first, done = tf.ones([batch], tf.int32), tf.zeros([batch], tf.bool)
        found = tf.while_loop(going, decode, (0, h, c, first, done, made))
        return {"words": tf.transpose(found[-1].stack()[: found[0]]), "steps": found[0]}

    weights.save(path, serve, ids=((None, None), tf.int32))
    return {DEFAULT: {"ids": rng.integers(3, words, (1, 20), np.int32)}}


def beam_search(
    path: str, rng: Rng, width: int = 64, words: int = 200, beams: int = 4, steps: int = 20
) -> Samples:
    """Four hypotheses, each a step of a GRU in a loop inside of the loop over 20 words."""
    weights = Weights(rng)
    table, cell, out = weights(words, width), weights.cell(width, width, 3), weights(width, words)

    def serve(h: Any) -> dict[str, Any]:
        def step(t: Any, word: Any, h: Any, score: Any, made: Any) -> Any:
            inputs = tf.gather(table, word)

            def grow(k: Any, states: Any) -> Any:
                return k + 1, states.write(k, _gru(inputs[k : k + 1], h[k : k + 1], cell)[0])

            states = tf.TensorArray(tf.float32, beams, element_shape=[width])
            h = tf.while_loop(lambda k, _: k < beams, grow, (0, states))[1].stack()
            total = score[:, None] + tf.nn.log_softmax(tf.matmul(h, out))
            score, best = tf.math.top_k(tf.reshape(total, [-1]), beams)
            parent, word = best // words, best % words
            return t + 1, word, tf.gather(h, parent), score, made.write(t, word)

        made = tf.TensorArray(tf.int32, steps, element_shape=[beams])
        score = tf.constant([0.0] + [-1e9] * (beams - 1))
        start = (0, tf.ones([beams], tf.int32), tf.tile(h, [beams, 1]), score, made)
        found = tf.while_loop(lambda t, *_: t < steps, step, start)
        return {"words": tf.transpose(found[-1].stack()), "score": found[3]}

    weights.save(path, serve, h=((1, width), tf.float32))
    return {DEFAULT: {"h": normal(rng, 1, width)}}


def attn_decode(
    path: str, rng: Rng, heads: int = 12, size: int = 64, start: int = 32, steps: int = 64
) -> Samples:
    """Attention that decodes 64 steps, with keys and values that the loop updates in place."""
    width, most = heads * size, start + steps
    weights = Weights(rng)
    wq, wk, wv, wo = (weights(width, width) for _ in range(4))

    def serve(x: Any, k: Any, v: Any) -> dict[str, Any]:
        batch = tf.shape(x)[0]
        room = [[0, 0], [0, 0], [0, steps], [0, 0]]
        k, v = (tf.transpose(tf.pad(c, room), [2, 0, 1, 3]) for c in (k, v))

        def body(t: Any, x: Any, k: Any, v: Any) -> Any:
            y = x * tf.math.rsqrt(tf.reduce_mean(x * x, -1, keepdims=True) + 1e-6)
            q, new_k, new_v = (
                tf.reshape(tf.matmul(y, w), [1, batch, heads, size]) for w in (wq, wk, wv)
            )
            k = tf.tensor_scatter_nd_update(k, [[t]], new_k)
            v = tf.tensor_scatter_nd_update(v, [[t]], new_v)
            scores = tf.einsum("bhd,nbhd->bhn", q[0], k) / np.float32(np.sqrt(size))
            scores = tf.where(tf.range(most) <= t, scores, -1e9)
            seen = tf.einsum("bhn,nbhd->bhd", tf.nn.softmax(scores), v)
            return t + 1, x + tf.matmul(tf.reshape(seen, [batch, width]), wo), k, v

        return {"y": tf.while_loop(lambda t, *_: t < most, body, (start, x, k, v))[1]}

    cache = ((None, heads, start, size), tf.float32)
    weights.save(path, serve, x=((None, width), tf.float32), k=cache, v=cache)
    old = {name: normal(rng, 1, heads, start, size) for name in ("k", "v")}
    return {DEFAULT: {"x": normal(rng, 1, width), **old}}


def replace_rows(
    path: str, rng: Rng, rows: int = 4096, width: int = 64, steps: int = 100
) -> Samples:
    """A table of 4096 rows, of which 100 steps replace one each: data says which, and by what."""

    def serve(x: Any, at: Any, new: Any) -> dict[str, Any]:
        def body(t: Any, x: Any) -> Any:
            return t + 1, tf.tensor_scatter_nd_update(x, at[t][None, None], new[t][None])

        return {"y": tf.while_loop(lambda t, _: t < steps, body, (0, x))[1]}

    table, some = ((rows, width), tf.float32), ((steps, width), tf.float32)
    Weights(rng).save(path, serve, x=table, at=((steps,), tf.int32), new=some)
    at = rng.integers(0, rows, steps).astype(np.int32)
    return {DEFAULT: {"x": normal(rng, rows, width), "at": at, "new": normal(rng, steps, width)}}


def dien(path: str, rng: Rng, width: int = 36, items: int = 5000, steps: int = 50) -> Samples:
    """Interest evolution: a GRU over what was seen, attention, and a GRU that attention gates."""
    weights = Weights(rng)
    table = weights(items, width, scale=0.1)
    cells = [weights.cell(width, width, 3) for _ in range(2)]
    score = weights(4 * width, 1)
    head = [weights(3 * width, 200), weights(200, 80), weights(80, 2)]

    def serve(hist: Any, item: Any, seqlen: Any) -> dict[str, Any]:
        batch, steps = tf.shape(hist)[0], tf.shape(hist)[1]
        xs, q = tf.transpose(tf.gather(table, hist), [1, 0, 2]), tf.gather(table, item)
        zeros = tf.zeros([batch, width])

        def first(t: Any, h: Any, made: Any) -> Any:
            h = tf.where((t < seqlen)[:, None], _gru(xs[t], h, cells[0]), h)
            return t + 1, h, made.write(t, h)

        made = tf.TensorArray(tf.float32, steps, element_shape=[None, width])
        made = tf.while_loop(lambda t, *_: t < steps, first, (0, zeros, made))[2]
        hs = tf.reshape(made.stack(), [steps, batch, width])
        qs = tf.tile(q[None], [steps, 1, 1])
        features = tf.reshape(tf.concat([qs, hs, qs - hs, qs * hs], -1), [-1, 4 * width])
        logits = tf.reshape(tf.matmul(features, score), [steps, batch])
        mask = tf.transpose(tf.sequence_mask(seqlen, steps))
        attention = tf.nn.softmax(tf.where(mask, logits, -1e9 * tf.ones_like(logits)), axis=0)

        def second(t: Any, h: Any) -> Any:
            new = _gru(hs[t], h, cells[1], attention[t][:, None])
            return t + 1, tf.where((t < seqlen)[:, None], new, h)

        h = tf.while_loop(lambda t, _: t < steps, second, (0, zeros))[1]
        y = tf.concat([h, q, tf.reduce_sum(tf.transpose(xs, [1, 0, 2]), 1)], -1)
        for w in head[:-1]:
            y = tf.nn.relu(tf.matmul(y, w))
        return {"p": tf.nn.softmax(tf.matmul(y, head[-1]))}

    vector = ((None,), tf.int32)
    weights.save(path, serve, hist=((None, None), tf.int32), item=vector, seqlen=vector)
    hist = rng.integers(0, items, (1, steps), np.int32)
    item = rng.integers(0, items, (1,), np.int32)
    return {DEFAULT: {"hist": hist, "item": item, "seqlen": np.full(1, steps * 9 // 10, np.int32)}}


def blockdrop(path: str, rng: Rng, width: int = 32, size: int = 16, depth: int = 8) -> Samples:
    """A residual CNN whose gates skip blocks."""
    weights = Weights(rng)
    stem, out = weights(3, 3, 3, width, scale=0.05), weights(width, 10)
    blocks = [
        (*(weights(3, 3, width, width, scale=0.05) for _ in range(2)), weights(width, 1))
        for _ in range(depth)
    ]

    def serve(x: Any) -> dict[str, Any]:
        x = tf.nn.relu(tf.nn.conv2d(x, stem, 1, "SAME"))
        for w1, w2, gate in blocks:
            open_ = tf.matmul(tf.reduce_mean(x, [1, 2]), gate)[0, 0] > 0
            y = lambda x=x, w1=w1: tf.nn.relu(tf.nn.conv2d(x, w1, 1, "SAME"))  # noqa: E731
            block = lambda x=x, y=y, w2=w2: x + tf.nn.conv2d(y(), w2, 1, "SAME")  # noqa: E731
            x = tf.cond(open_, block, lambda x=x: x)
        return {"y": tf.matmul(tf.reduce_mean(x, [1, 2]), out)}

    weights.save(path, serve, x=((1, size, size, 3), tf.float32))
    return {DEFAULT: {"x": normal(rng, 1, size, size, 3)}}


def skip_rnn(path: str, rng: Rng, width: int = 128, steps: int = 100) -> Samples:
    """A GRU that decides by itself which steps to skip."""
    weights = Weights(rng)
    cell, gate = weights.cell(width, width, 3), weights(width, 1)

    def serve(x: Any) -> dict[str, Any]:
        steps, xs = tf.shape(x)[1], tf.transpose(x, [1, 0, 2])

        def body(t: Any, h: Any) -> Any:
            update = tf.matmul(h + xs[t], gate)[0, 0] > 0
            return t + 1, tf.cond(update, lambda: _gru(xs[t], h, cell), lambda: h)

        start = (0, tf.zeros([1, width]))
        return {"h": tf.while_loop(lambda t, _: t < steps, body, start)[1]}

    weights.save(path, serve, x=((1, None, width), tf.float32))
    return {DEFAULT: {"x": normal(rng, 1, steps, width)}}


def refine(path: str, rng: Rng, width: int = 128) -> Samples:
    """A fixed point that is iterated to convergence, if the first guess is not good enough."""
    weights = Weights(rng)
    w = weights(width, width, scale=0.3 / width**0.5)

    def serve(x: Any) -> dict[str, Any]:
        def step(y: Any) -> Any:
            return tf.tanh(tf.matmul(y, w) + x)

        def far(y: Any) -> Any:
            return tf.reduce_max(tf.abs(step(y) - y)) > 1e-4

        y = tf.tanh(x)
        return {
            "y": tf.cond(far(y), lambda: tf.while_loop(far, lambda y: step(y), [y])[0], lambda: y)
        }

    weights.save(path, serve, x=((None, width), tf.float32))
    return {DEFAULT: {"x": normal(rng, 1, width)}}
