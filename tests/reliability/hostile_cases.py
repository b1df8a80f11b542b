# SPDX-License-Identifier: Apache-2.0
"""Functions of numbers that a request may choose, and hostile requests for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

import ml_dtypes
import numpy as np
import tensorflow as tf

from tests.reliability.fuzz.drawing import dtypes_of

_SMALL = (-(2**31), -(2**31) + 1, -(2**16), -1000, -8, -2, -1, 0, 1, 2, 3, 5, 7, 8, 9, 33)
#: Numbers that decide sizes: between 33 and 2^40 they are only a question of memory.
SHORT = _SMALL
LONG = (-(2**63), -(2**63) + 1, -(2**62), -(2**32), *_SMALL, 2**40, 2**46, 2**47, 2**48, 2**53)
LONG += (2**61, 2**62, 2**62 + 16, 2**63 - 20, 2**63 - 2, 2**63 - 1)
#: Numbers that are positions.
SHORT_POSITIONS = (*_SMALL, 2**15, 2**16 - 1, 2**30, 2**31 - 2, 2**31 - 1)
LONG_POSITIONS = (*LONG, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 3)
LENGTHS = (0, 1, 2, 7, 8, 9, 33)
_RAW = tf.raw_ops


@dataclass(frozen=True)
class Case:
    """A function of tensors; `numbers` are those of its last input, or None where all are floats.

    The first input has a length that a request chooses, unless that is fixed.
    """

    name: str
    fn: Callable[..., object]
    specs: tuple[tf.TensorSpec, ...]
    numbers: tuple[int, ...] | None = None
    length: int | None = None


def _scattered(fn: str, x, n):
    return getattr(_RAW, fn)(tensor=x, indices=n[:, None], updates=tf.ones_like(n, x.dtype))


def _filled(x, n):
    """A list of as many elements, of which the second is set, and read."""
    made = _RAW.TensorListReserve(element_shape=[2], num_elements=n[0], element_dtype=x.dtype)
    item = tf.concat([x, [1.0, 2.0]], 0)[:2]
    made = _RAW.TensorListSetItem(input_handle=made, index=n[1], item=item)
    return _RAW.TensorListGetItem(
        input_handle=made, index=n[1], element_shape=[2], element_dtype=x.dtype
    )


def _repeated(x, n):
    """As many steps, 100 at most."""
    steps = tf.minimum(n[0], 100)
    return tf.while_loop(lambda i, _: i < steps, lambda i, a: (i + 1, a * 0.5), [n[0] * 0, x])[1]


#: Functions of eight floats and of numbers: name -> function, how many numbers there are.
GIVEN: dict[str, tuple[Callable[..., object], int]] = {
    "slice": (lambda x, n: tf.slice(x, n[:1], n[1:]) * 2.0, 2),
    "slice to the end": (lambda x, n: tf.slice(x, n[:1], [-1]) * 2.0, 1),
    "strided slice": (lambda x, n: x[n[0] : n[1]] * 2.0, 2),
    "element": (lambda x, n: x[n[0]] * 2.0, 1),
    "tile": (lambda x, n: tf.exp(tf.tile(x[None], tf.stack([n[0], 1]))) + 1.0, 1),
    "tiled sum": (lambda x, n: tf.reduce_sum(tf.nn.softmax(tf.tile(x, n))), 1),
    "broadcast": (lambda x, n: tf.exp(tf.broadcast_to(x, tf.stack([n[0], 8]))), 1),
    "fill": (lambda x, n: tf.fill(tf.stack([n[0], 8]), x[0]) * 2.0, 1),
    "two sizes": (lambda x, n: tf.zeros(n, tf.bool), 2),
    "pad": (lambda x, n: tf.pad(x, [[n[0], n[1]]]) * 2.0, 2),
    "split": (lambda x, n: [p * 2.0 for p in tf.split(x, n, num=3)], 3),
    "one hot": (lambda x, n: tf.one_hot([1, 2], n[0]), 1),
    "gather": (lambda x, n: tf.gather(x, n) * 2.0, 1),
    "softmax of a range": (lambda x, n: tf.nn.softmax(tf.cast(tf.range(n[0]), tf.float32)), 1),
}
#: Functions of positions and of small sizes: name -> function, how many numbers there are.
_POSITIONS: dict[str, tuple[Callable[..., object], int]] = {
    "gather a row": (lambda x, n: tf.gather(tf.reshape(x, [-1, 1]), n) + 1.0, 3),
    "gather_nd": (lambda x, n: tf.gather_nd(tf.reshape(x, [-1, 1]), n[None]) * 2.0, 2),
    "gather along axis 1": (lambda x, n: tf.gather(tf.stack([x, x]), n, axis=1) * 2.0, 2),
    "strided, two steps": (lambda x, n: tf.exp(x[n[0] : n[1] : 2]) + x[n[2]], 3),
    "backwards": (lambda x, n: x[n[0] : n[1] : -1] * 3.0, 2),
    "case": (lambda x, n: tf.switch_case(tf.cast(n[0], tf.int32), [lambda: x, lambda: -x]), 1),
    "steps": (_repeated, 1),
    **{
        f"scatter {fn}": (partial(_scattered, f"TensorScatter{fn}"), 2)
        for fn in ("Update", "Add", "Sub", "Max", "Min")
    },
    "reverse_sequence": (
        lambda x, n: _RAW.ReverseSequence(
            input=tf.stack([x, x * 2.0]), seq_lengths=n, seq_dim=1, batch_dim=0
        ),
        2,
    ),
    "bincount": (lambda x, n: _RAW.DenseBincount(input=n, size=n[0] * 0 + 5, weights=x[:0]), 3),
    "diagonal of a gather": (lambda x, n: tf.linalg.diag(tf.gather(x, n)) + 1.0, 2),
    "positions in a table": (lambda x, n: tf.gather(tf.constant([1.0, 2.0, 3.0]), n) * 2.0, 2),
    "one hot of numbers": (lambda x, n: tf.one_hot(n, 4) * 2.0, 3),
    "arithmetic": (lambda x, n: [n + n[0], n * n[1], n - 7, -n, tf.abs(n), n < n[0]], 3),
    "a quotient": (lambda x, n: [tf.abs(n) // 7, n % 13, tf.sign(n)], 2),
    "casts": (lambda x, n: [tf.cast(n, d) for d in (tf.float32, tf.int32, tf.int64, tf.bool)], 2),
}
_LISTS = {"list": (_filled, 2)}
_SIZES: dict[str, tuple[Callable[..., object], int]] = {
    **GIVEN,
    "reshape": (lambda x, n: tf.reshape(x, tf.stack([n[0], -1])) * 2.0, 1),
    "linspace": (lambda x, n: tf.linspace(0.0, 1.0, n[0]) * x[:1], 1),
    "range of two": (lambda x, n: tf.cast(tf.range(n[0], n[1]), tf.float32) * 2.0, 2),
    "scatter_nd": (lambda x, n: tf.scatter_nd(tf.constant([[1], [0]], n.dtype), x[:2], n) + 1.0, 1),
    "slice of two axes": (lambda x, n: tf.slice(tf.stack([x, x]), n[:2], n[2:]) * 2.0, 4),
    "pad with a number": (lambda x, n: tf.pad(x, [[n[0], n[1]]], constant_values=7.0) * 2.0, 2),
    "a sum of a tile": (lambda x, n: tf.reduce_sum(tf.tile(x[:, None], [1, n[0]]), 0), 1),
    "broadcast of a size": (lambda x, n: tf.broadcast_to(x[:1], tf.stack([n[0], n[1]])) + x[0], 2),
    "crops": (
        lambda x, n: tf.raw_ops.BatchToSpaceND(
            input=tf.reshape(x[:8], [4, 2, 1]), block_shape=[2], crops=n[None]
        ),
        2,
    ),
}


def _with_numbers() -> Iterator[Case]:
    for dtype in ("int32", "int64"):
        for table, is_size in ((_SIZES, True), (_POSITIONS, False), (_LISTS, True)):
            for name, (fn, count) in table.items():
                if (name, dtype) in (("one hot", "int64"), ("list", "int64")):
                    continue  # TensorFlow takes int32 there
                sizes, positions = (
                    (LONG, LONG_POSITIONS) if dtype == "int64" else (SHORT, SHORT_POSITIONS)
                )
                numbers = sizes if is_size else positions
                if name == "range of two":  # the size is a difference
                    numbers = tuple(n for n in sizes if not 2**16 < abs(n) < 2**40)
                length = 8 if name in GIVEN else None
                specs = (tf.TensorSpec([length]), tf.TensorSpec([count], dtype))
                yield Case(f"{name}, {dtype}", fn, specs, numbers, length)


_UNARY = ("Abs", "Neg", "Exp", "Expm1", "Log", "Log1p", "Sqrt", "Rsqrt", "Tanh", "Erf", "Erfc")
_UNARY += ("Sigmoid", "Floor", "Ceil", "Rint", "Sign", "IsNan", "IsFinite", "IsInf", "Square")
_UNARY += ("Relu", "Relu6", "Elu", "Selu", "Softplus", "Softsign")
_BINARY = ("AddV2", "Sub", "Mul", "Maximum", "Minimum", "Less", "LessEqual", "Greater", "Equal")
_BINARY += ("NotEqual", "SquaredDifference", "DivNoNan", "MulNoNan", "RealDiv")


_FEATURES = ("Relu", "Relu6", "Elu", "Selu", "Softplus", "Softsign")


def _unary(x):
    ops = [op for op in _UNARY if x.dtype.name in dtypes_of(op, "T")]
    return [getattr(_RAW, op)(**{"features" if op in _FEATURES else "x": x}) for op in ops]


def _binary(x, y):
    return [getattr(_RAW, op)(x=x, y=y) for op in _BINARY]


def _with_floats() -> Iterator[Case]:
    for dtype in ("float32", "float64", "float16", "bfloat16"):
        spec = tf.TensorSpec([None], dtype)
        yield Case(f"functions of one number, {dtype}", _unary, (spec,))
        yield Case(f"functions of two numbers, {dtype}", _binary, (spec, tf.TensorSpec([1], dtype)))


CASES = (*_with_numbers(), *_with_floats())


def requests(case: Case, most: int) -> list[list[np.ndarray]]:
    """Distinct requests, all there are or a random choice of them."""
    rng = np.random.default_rng(len(case.name))
    if case.numbers is None:
        return list(_floats(case, most, rng))
    count, dtype = case.specs[1].shape[0], case.specs[1].dtype.as_numpy_dtype
    lengths = LENGTHS if case.length is None else (case.length,)
    total = len(lengths) * len(case.numbers) ** count
    chosen = product(lengths, *[case.numbers] * count)
    kept = set(rng.choice(total, min(most, total), replace=False).tolist())
    return [
        [np.arange(n, dtype=np.float32) - 3, np.array(numbers, dtype)]
        for k, (n, *numbers) in enumerate(chosen)
        if k in kept
    ]


def _floats(case: Case, most: int, rng: np.random.Generator) -> Iterator[list[np.ndarray]]:
    dtype = case.specs[0].dtype.as_numpy_dtype
    limits = ml_dtypes.finfo(dtype)
    ends = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, -2.0, 3.0, 88.0, -88.0, 20.0]
    ends += [float(limits.max), float(limits.min), float(limits.tiny), -float(limits.tiny)]
    ends += [float(limits.smallest_subnormal), float(limits.eps)]
    for number in range(most):
        length = LENGTHS[number % len(LENGTHS)]
        x = rng.choice(ends, length)
        if number % 2:
            x = np.where(rng.random(length) < 0.5, x, rng.standard_normal(length))
        yield [x.astype(dtype), *[rng.choice(ends, 1).astype(dtype) for _ in case.specs[1:]]]
