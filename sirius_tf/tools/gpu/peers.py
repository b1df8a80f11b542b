# SPDX-License-Identifier: Apache-2.0
"""Models of the zoo in PyTorch and JAX, to time on a GPU: the same shapes, other weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sirius_tf.tools.gpu.frameworks import (
    FRAMEWORKS,
    Jax,
    Model,
    Run,
    Torch,
    gru_step,
    matrix,
    reason,
    weights,
)


def standardized(x: Any, epsilon: float = 1e-12) -> Any:
    """The array with mean 0 and variance 1 along the last axis."""
    centred = x - x.mean(-1)[..., None]
    return centred * ((centred * centred).mean(-1)[..., None] + epsilon) ** -0.5


# Of each model a function of the zoo's inputs, which are on the device.


def lstm10(f: Any, x: Any) -> Model:
    """See models/recurrent.py."""
    cells = [f.recurrent("LSTM", x.shape[-1], x.shape[-1]) for _ in range(10)]

    def model(x: Any) -> Any:
        y = x.swapaxes(0, 1)
        for cell in cells:
            y = cell(y)
        return y.swapaxes(0, 1)

    return model


def nasrnn(f: Any, x: Any) -> Model:
    """See models/recurrent.py."""
    width = x.shape[-1]
    w, u = matrix(f, width, 8 * width), matrix(f, width, 8 * width)

    def model(x: Any) -> Any:
        tanh, sigmoid, xs = f.tanh, f.sigmoid, x.swapaxes(0, 1) @ w

        def body(t: Any, h: Any, c: Any) -> Any:
            a, b = f.split(xs[t], 8), f.split(h @ u, 8)
            s = [p + q for p, q in zip(a, b, strict=True)]
            left = tanh(tanh(sigmoid(s[0]) * f.relu(s[1])) + c)
            c = left * tanh(sigmoid(s[2]) + f.relu(a[3] * b[3]))
            rest = tanh(tanh(s[4]) * sigmoid(s[5])) + sigmoid(tanh(s[6]) + sigmoid(s[7]))
            return tanh(c * tanh(rest)), c

        zeros = f.zeros(x.shape[0], width)
        return f.loop(x.shape[1], body, (zeros, zeros))[0]

    return model


def greedy(f: Any, ids: Any, width: int = 128, words: int = 1000, most: int = 50) -> Model:
    """See models/recurrent.py."""
    table, out = matrix(f, words, width), matrix(f, width, words)
    encoder, (w, u, b) = f.recurrent("GRU", width, width), weights(f, width, width, 3)
    end = 2

    def model(ids: Any) -> Any:
        h = encoder(table[ids].swapaxes(0, 1))[-1]
        word = ids[:, 0] * 0 + 1

        def going(h: Any, word: Any, done: Any, made: Any) -> Any:
            return ~done.all()

        def body(t: Any, h: Any, word: Any, done: Any, made: Any) -> Any:
            h = gru_step(f, table[word] @ w, (h, h), u, b)[0]
            word = f.where(done, end, f.argmax(h @ out))
            return h, word, done | (word == end), f.update(made, t, word)

        made = f.stack([word] * most)
        return f.loop_while(most, going, body, (h, word, word == end, made))[-1]

    return model


def attn_decode(f: Any, x: Any, k: Any, v: Any, steps: int = 64) -> Model:
    """See models/recurrent.py."""
    batch, heads, start, size = k.shape
    width, most = heads * size, start + steps
    wq, wk, wv, wo = (matrix(f, width, width) for _ in range(4))
    places = f.arange(most)[:, None, None]

    def model(x: Any, k: Any, v: Any) -> Any:
        room = f.zeros(steps, batch, heads, size)
        k, v = (f.concat([c.swapaxes(1, 2).swapaxes(0, 1), room]) for c in (k, v))

        def body(t: Any, x: Any, k: Any, v: Any) -> Any:
            y = x * ((x * x).mean(-1)[..., None] + 1e-6) ** -0.5
            q, new_k, new_v = ((y @ w).reshape(batch, heads, size) for w in (wq, wk, wv))
            k, v = f.update(k, start + t, new_k), f.update(v, start + t, new_v)
            scores = f.einsum("bhd,nbhd->nbh", q, k) * size**-0.5
            scores = f.softmax(f.where(places <= start + t, scores, -1e9), 0)
            seen = f.einsum("nbh,nbhd->bhd", scores, v)
            return x + seen.reshape(batch, width) @ wo, k, v

        return f.loop(steps, body, (x, k, v))[0]

    return model


def dien(f: Any, hist: Any, item: Any, seqlen: Any, width: int = 36, items: int = 5000) -> Model:
    """See models/recurrent.py."""
    table, score = matrix(f, items, width), matrix(f, 4 * width, 1)
    first, (w, u, b) = f.recurrent("GRU", width, width), weights(f, width, width, 3)
    head = [matrix(f, 3 * width, 200), matrix(f, 200, 80), matrix(f, 80, 2)]
    steps = hist.shape[1]
    places = f.arange(steps)[:, None]

    def model(hist: Any, item: Any, seqlen: Any) -> Any:
        xs, q = table[hist].swapaxes(0, 1), table[item]
        seen, hs = places < seqlen, first(xs)
        qs = f.stack([q] * steps)
        logits = (f.concat([qs, hs, qs - hs, qs * hs], -1) @ score)[..., 0]
        attention, inputs = f.softmax(f.where(seen, logits, -1e9), 0), hs @ w

        def body(t: Any, h: Any) -> Any:
            new = gru_step(f, inputs[t], (h, h), u, b, attention[t][:, None])[0]
            return (f.where(seen[t][:, None], new, h),)

        (h,) = f.loop(steps, body, (f.zeros(hist.shape[0], width),))
        y = f.concat([h, q, xs.sum(0)], -1)
        return f.softmax(f.relu(f.relu(y @ head[0]) @ head[1]) @ head[2])

    return model


def mmoe(f: Any, x: Any) -> Model:
    """See models/dense.py."""
    features = x.shape[-1]
    experts = [(matrix(f, features, 64), matrix(f, 64, 16)) for _ in range(8)]
    tasks = [(matrix(f, features, 8), matrix(f, 16, 8), matrix(f, 8, 1)) for _ in range(2)]

    def model(x: Any) -> Any:
        stacked = f.stack([f.relu(f.relu(x @ a) @ b) for a, b in experts], 1)
        mixed = [(stacked * f.softmax(x @ gate)[..., None]).sum(1) for gate, _, _ in tasks]
        pairs = zip(mixed, tasks, strict=True)
        return [f.sigmoid(f.relu(m @ hidden) @ out) for m, (_, hidden, out) in pairs]

    return model


def bert(f: Any, ids: Any, mask: Any, width: int = 768, heads: int = 12, depth: int = 12) -> Model:
    """See models/dense.py."""
    tokens, places = matrix(f, 30522, width), matrix(f, 512, width)
    shapes = [(width, width)] * 4 + [(width, 4 * width), (4 * width, width)]
    layers = [[(matrix(f, *s), matrix(f, s[1])) for s in shapes] for _ in range(depth)]
    batch, length = ids.shape
    size = width // heads

    def model(ids: Any, mask: Any) -> Any:
        bias = (1.0 - f.real(mask))[:, None, None, :] * -10000.0
        x = standardized(tokens[ids] + places[:length])

        def heads_of(w: Any, b: Any) -> Any:
            return (x @ w + b).reshape(batch, length, heads, size).swapaxes(1, 2)

        for q, k, v, out, wide, narrow in layers:
            scores = heads_of(*q) @ heads_of(*k).swapaxes(2, 3) * size**-0.5 + bias
            seen = (f.softmax(scores) @ heads_of(*v)).swapaxes(1, 2).reshape(batch, length, width)
            x = standardized(x + seen @ out[0] + out[1])
            x = standardized(x + f.gelu(x @ wide[0] + wide[1]) @ narrow[0] + narrow[1])
        return x

    return model


MODELS: Mapping[str, Callable[..., Model]] = {
    builder.__name__: builder for builder in (attn_decode, bert, dien, greedy, lstm10, mmoe, nasrnn)
}


def build(
    name: str,
    feed: Mapping[str, np.ndarray[Any, Any]],
    frameworks: Sequence[str],
    precision: str = "strict",
    device: str = "cuda",
) -> dict[str, Run | str]:
    """Calls of a model of the zoo in each framework, complete on return; or the reason that there
    is none."""
    found: dict[str, Run | str] = {}
    for framework in frameworks:
        labels = FRAMEWORKS[framework]
        if name not in MODELS:
            found |= dict.fromkeys(labels, f"gpu_peers.py has no {name}")
            continue
        try:
            made = (Torch if framework == "torch" else Jax)(device, precision)
            arrays = [made.array(array) for array in feed.values()]
            found |= made.runs(MODELS[name](made, *arrays), arrays)
        except Exception as error:  # of any kind, as is what may be wrong with a framework
            found |= dict.fromkeys(labels, reason(error))
    return found
