# SPDX-License-Identifier: Apache-2.0
"""Models made of contractions, for zoo.py: perceptrons, convolutional nets, transformers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from sirius_tf.tools.models.recurrent import DEFAULT, Rng, Samples, Weights, normal

WINDOW = 7  # of Swin, in patches
CLASSES = 1000
SCALE = 0.02  # of the weights of transformers


def export(model: Any, path: str, shape: tuple[int | None, ...]) -> None:
    """Save a Keras model whose one input is called x."""
    spec = tf.TensorSpec(shape, tf.float32, name="x")
    model.export(path, verbose=False, input_signature=[spec])


def save(module: Any, path: str, functions: Mapping[str, Any]) -> None:
    """Save a module that serves functions, by signature."""
    module.functions = dict(functions)  # tracked, so that what they read is saved
    tf.saved_model.save(module, path, signatures=dict(functions))


# Mixtures of experts.


def mmoe(path: str, rng: Rng, features: int = 499) -> Samples:
    """Multi-gate mixture of experts: eight experts, two tasks."""
    x = keras.Input((features,), name="x")
    experts = [layers.Dense(16, "relu")(layers.Dense(64, "relu")(x)) for _ in range(8)]
    stacked = keras.ops.stack(experts, axis=1)
    towers = []
    for task in range(2):
        gate = layers.Dense(len(experts), "softmax")(x)
        mixed = keras.ops.sum(stacked * keras.ops.expand_dims(gate, -1), axis=1)
        tower = layers.Dense(8, "relu")(mixed)
        towers.append(layers.Dense(1, "sigmoid", name=f"task{task}")(tower))
    export(keras.Model(x, towers), path, (None, features))
    return {DEFAULT: {"x": normal(rng, 1, features)}}


def mmoe_souffle(path: str, rng: Rng, features: int = 100) -> Samples:
    """The same of 100 features: the size that the paper on Souffle measures."""
    return mmoe(path, rng, features)


# Convolutional nets, of Keras layers.


def mobilenet(path: str, rng: Rng, pixels: int = 224, last: str | None = None) -> Samples:
    """MobileNetV2 as Keras exports it, up to the layer `last`."""
    return _application(keras.applications.MobileNetV2, path, rng, pixels, last)


def resnet50(path: str, rng: Rng, pixels: int = 224, last: str | None = None) -> Samples:
    """ResNet-50 as Keras exports it, up to the layer `last`."""
    return _application(keras.applications.ResNet50, path, rng, pixels, last)


def efficientnet(path: str, rng: Rng, pixels: int = 224, last: str | None = None) -> Samples:
    """EfficientNet-B0 as Keras exports it, up to the layer `last`."""
    return _application(keras.applications.EfficientNetB0, path, rng, pixels, last, scale=255.0)


def resnext50(
    path: str,
    rng: Rng,
    pixels: int = 224,
    depths: Sequence[int] = (3, 4, 6, 3),
    filters: int = 64,
    groups: int = 32,
) -> Samples:
    """ResNeXt-50 (32x4d): convolutions of 32 groups."""
    image = keras.Input((pixels, pixels, 3), name="x")
    x = layers.MaxPooling2D(3, 2, "same")(layers.ReLU()(_normalized(image, filters, 7, 2)))
    for stage, depth in enumerate(depths):
        for block in range(depth):
            stride = 2 if stage > 0 and block == 0 else 1
            x = _resnext_block(x, filters << stage, stride, groups, widen=block == 0)
    logits = layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x))
    return _images(keras.Model(image, logits), path, rng)


def _resnext_block(x: Any, filters: int, stride: int, groups: int, widen: bool) -> Any:
    width = 2 * filters  # 4 channels a group at 64 filters
    y = layers.ReLU()(_normalized(x, width))
    y = layers.ReLU()(_normalized(y, width, 3, stride, groups))
    y = _normalized(y, 4 * filters)
    x = _normalized(x, 4 * filters, stride=stride) if widen else x
    return layers.ReLU()(layers.Add()([y, x]))


def _normalized(x: Any, filters: int, size: int = 1, stride: int = 1, groups: int = 1) -> Any:
    x = layers.Conv2D(filters, size, stride, "same", groups=groups, use_bias=False)(x)
    return layers.BatchNormalization()(x)


def _application(
    make: Callable[..., Any],
    path: str,
    rng: Rng,
    pixels: int,
    last: str | None,
    scale: float = 1.0,
) -> Samples:
    model = make(weights=None, classifier_activation=None, input_shape=(pixels, pixels, 3))
    if last is not None:
        model = keras.Model(model.input, model.get_layer(last).output)
    return _images(model, path, rng, scale)


def _images(model: Any, path: str, rng: Rng, scale: float = 1.0) -> Samples:
    """Save a model of images of any number, whose pixels are of the given scale."""
    _enliven(model, rng)
    shape = model.input_shape[1:]
    export(model, path, (None, *shape))
    return {DEFAULT: {"x": np.float32(scale) * normal(rng, 1, *shape)}}


def _enliven(model: Any, rng: Rng) -> None:
    """Give a model statistics such that a wrong layer, or input, shows in the output."""
    for variable in model.weights:
        kind, shape = variable.path.split("/")[-1], variable.shape
        if kind in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, shape))
        elif kind in ("beta", "moving_mean", "bias"):
            variable.assign(rng.uniform(-0.1, 0.1, shape))
        elif kind == "kernel" and shape[-1] == 1:
            # Keras makes a depthwise kernel the smaller the more channels there are, though it
            # sums none of them: after a few layers, biases would be all that is left.
            variable.assign(normal(rng, *shape) * (2.0 / shape[0]))


# Transformers.


def bert(
    path: str,
    rng: Rng,
    depth: int = 12,
    width: int = 768,
    heads: int = 12,
    length: int = 128,
    vocabulary: int = 30522,
) -> Samples:
    """BERT base: twelve layers of width 768; batch and length are dynamic."""
    positions = 512
    weights = Weights(rng, SCALE)
    tokens, segments = weights(vocabulary, width), weights(2, width)
    places, norm = weights(positions, width), (weights(width), weights(width))
    stack = [_bert_layer(weights, width, heads, hidden=4 * width) for _ in range(depth)]

    def serve(ids: Any, mask: Any) -> dict[str, Any]:
        bias = (1.0 - tf.cast(mask, tf.float32))[:, None, None, :] * -10000.0
        x = tf.gather(tokens, ids) + places[: tf.shape(ids)[1]] + segments[0]
        x = _layer_norm(x, *norm)
        batch, length = tf.shape(ids)[0], tf.shape(ids)[1]
        for layer in stack:
            x = layer(x, bias, batch, length)
        return {"out": x}

    specs = [tf.TensorSpec((None, None), tf.int32, name=n) for n in ("ids", "mask")]
    save(weights, path, {DEFAULT: tf.function(serve, input_signature=specs)})
    ids = rng.integers(0, vocabulary, (1, length), np.int32)
    return {DEFAULT: {"ids": ids, "mask": np.ones((1, length), np.int32)}}


def bert_small(path: str, rng: Rng, depth: int = 4, width: int = 256, **sizes: int) -> Samples:
    """Four BERT layers of width 256; batch and length are dynamic."""
    return bert(path, rng, depth, width, **{"heads": 4, "length": 64, **sizes})


def _bert_layer(weights: Weights, width: int, heads: int, hidden: int) -> Callable[..., Any]:
    """Attention and feed-forward, each with a residual connection and a normalization after it."""
    size = width // heads
    shapes = [(width, width)] * 4 + [(width, hidden), (hidden, width)]
    pairs = [weights.dense(*shape) for shape in shapes]
    norms = [(weights(width), weights(width)) for _ in range(2)]

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
        return _layer_norm(x + dense(_gelu(dense(x, *pairs[4])), *pairs[5]), *norms[1])

    return apply


def _layer_norm(x: Any, gain: Any, shift: Any) -> Any:
    return _standardized(x, 1e-12) * (1.0 + gain) + shift


def _standardized(x: Any, epsilon: float) -> Any:
    centred = x - tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), -1, keepdims=True)
    return centred * tf.math.rsqrt(variance + epsilon)


def _gelu(x: Any) -> Any:
    return x * 0.5 * (1.0 + tf.math.erf(x / np.float32(np.sqrt(2))))


def swin(
    path: str,
    rng: Rng,
    pixels: int = 224,
    width: int = 96,
    stages: Sequence[tuple[int, int]] = ((2, 3), (2, 6), (6, 12), (2, 24)),
) -> Samples:
    """Swin-T: attention within windows, which every other block shifts.

    Of each of `stages` the number of blocks and of heads.
    """
    patch, weights = 4, Weights(rng, SCALE)
    embedding, side = weights(patch, patch, 3, width), pixels // patch
    steps: list[Callable[[Any], Any]] = []
    for stage, (depth, heads) in enumerate(stages):
        if stage > 0:
            steps.append(_merge(weights, width))
            width, side = 2 * width, side // 2
        for block in range(depth):
            # One window that is everything has nothing to be shifted against.
            shift = WINDOW // 2 if block % 2 and side > WINDOW else 0
            steps.append(_swin_block(weights, width, heads, side, shift))
    out = weights(width, CLASSES)

    def serve(x: Any) -> dict[str, Any]:
        x = _standardized(tf.nn.conv2d(x, embedding, patch, "VALID"), 1e-5)
        for step in steps:
            x = step(x)
        return {"logits": tf.matmul(tf.reduce_mean(_standardized(x, 1e-5), [1, 2]), out)}

    spec = tf.TensorSpec((None, pixels, pixels, 3), tf.float32, name="x")
    save(weights, path, {DEFAULT: tf.function(serve, input_signature=[spec])})
    return {DEFAULT: {"x": normal(rng, 1, pixels, pixels, 3)}}


def _merge(weights: Weights, width: int) -> Callable[[Any], Any]:
    """Four neighbouring patches become one of twice the width."""
    matrix = weights(4 * width, 2 * width)

    def apply(x: Any) -> Any:
        corners = [x[:, row::2, column::2] for column in range(2) for row in range(2)]
        return tf.matmul(_standardized(tf.concat(corners, -1), 1e-5), matrix)

    return apply


def _swin_block(
    weights: Weights, width: int, heads: int, side: int, shift: int
) -> Callable[[Any], Any]:
    """Attention in windows and feed-forward, each with a normalization before it."""
    attention = _window_attention(weights, width, heads, _shift_mask(side, shift))
    (w1, b1), (w2, b2) = weights.dense(width, 4 * width), weights.dense(4 * width, width)

    def apply(x: Any) -> Any:
        batch, y = tf.shape(x)[0], _standardized(x, 1e-5)
        y = tf.roll(y, [-shift, -shift], [1, 2]) if shift else y
        y = _joined(attention(_windows(y, batch, side, width), batch), batch, side, width)
        x = x + (tf.roll(y, [shift, shift], [1, 2]) if shift else y)
        return x + tf.matmul(_gelu(tf.matmul(_standardized(x, 1e-5), w1) + b1), w2) + b2

    return apply


def _window_attention(
    weights: Weights, width: int, heads: int, mask: np.ndarray[Any, Any] | None
) -> Callable[[Any, Any], Any]:
    """Attention with a bias for each pair of places, and a mask for each window of an image."""
    (w, b), (wo, bo) = weights.dense(width, 3 * width), weights.dense(width, width)
    places, size = WINDOW * WINDOW, width // heads
    bias = weights(heads, places, places)

    def apply(x: Any, batch: Any) -> Any:
        qkv = tf.reshape(tf.matmul(x, w) + b, [-1, places, 3, heads, size])
        q, k, v = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]))
        scores = tf.matmul(q, k, transpose_b=True) * np.float32(size**-0.5) + bias
        if mask is not None:
            by_image = tf.reshape(scores, [batch, len(mask), heads, places, places])
            scores = tf.reshape(by_image + mask, [-1, heads, places, places])
        seen = tf.transpose(tf.matmul(tf.nn.softmax(scores), v), [0, 2, 1, 3])
        return tf.matmul(tf.reshape(seen, [-1, places, width]), wo) + bo

    return apply


def _windows(x: Any, batch: Any, side: int, width: int) -> Any:
    """Images as their windows, one after the other, each a sequence of patches."""
    count = side // WINDOW
    x = tf.reshape(x, [batch, count, WINDOW, count, WINDOW, width])
    return tf.reshape(tf.transpose(x, [0, 1, 3, 2, 4, 5]), [-1, WINDOW * WINDOW, width])


def _joined(x: Any, batch: Any, side: int, width: int) -> Any:
    """The inverse of _windows."""
    count = side // WINDOW
    x = tf.reshape(x, [batch, count, count, WINDOW, WINDOW, width])
    return tf.reshape(tf.transpose(x, [0, 1, 3, 2, 4, 5]), [batch, side, side, width])


def _shift_mask(side: int, shift: int) -> np.ndarray[Any, Any] | None:
    """The mask that hides, in a window that wraps around, the patches of the image's other side."""
    if not shift:
        return None
    bands = (slice(0, -WINDOW), slice(-WINDOW, -shift), slice(-shift, None))
    regions = np.zeros((side, side), np.int32)
    for number, band in enumerate(itertools.product(bands, bands)):
        regions[band] = number
    count = side // WINDOW
    tiles = regions.reshape(count, WINDOW, count, WINDOW).transpose(0, 2, 1, 3)
    windows = tiles.reshape(count * count, WINDOW * WINDOW)
    apart = windows[:, None, :] != windows[:, :, None]
    return np.where(apart, -100.0, 0.0).astype(np.float32)[:, None]  # the same for every head
