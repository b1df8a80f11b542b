# SPDX-License-Identifier: Apache-2.0
"""The meaning of the function names of `Call`, as numpy code on arrays that broadcast.

The dtype of the result is the caller's business: the interpreter converts it to the dtype of the
Call, so `cast` is the identity here and a function may compute in a wider type than it returns.
`select` evaluates both branches. NaN propagates through `max` and `min`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sirius_tf.errors import InvalidArgument

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Function:
    """A scalar function: its number of arguments, and its numpy meaning."""

    arity: int
    evaluate: Callable[..., Array]


_erf = np.vectorize(math.erf, otypes=[np.float64])
_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _like(result: Array, argument: Array) -> Array:
    """`result` in the floating type of `argument`."""
    return np.asarray(result).astype(argument.dtype, copy=False)


def erf(x: Array) -> Array:
    """Error function, computed in float64 and rounded to the type of `x`."""
    x = np.asarray(x)
    return _like(_erf(x.astype(np.float64)), x)


def erfc(x: Array) -> Array:
    """1 - erf(x), computed in float64 and rounded to the type of `x`."""
    x = np.asarray(x)
    return _like(_erfc(x.astype(np.float64)), x)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), computed in float64 and rounded to the type of `x`."""
    x = np.asarray(x)
    return _like(1.0 / (1.0 + np.exp(-x.astype(np.float64))), x)


def rsqrt(x: Array) -> Array:
    """1 / sqrt(x), computed in float64 and rounded to the type of `x`."""
    x = np.asarray(x)
    return _like(1.0 / np.sqrt(x.astype(np.float64)), x)


def truncdiv(x: Array, y: Array) -> Array:
    """Integer quotient rounded toward zero."""
    quotient = np.floor_divide(x, y)
    inexact = np.multiply(quotient, y) != x
    toward_zero = inexact & ((np.asarray(x) < 0) != (np.asarray(y) < 0))
    return np.asarray(quotient + toward_zero.astype(quotient.dtype))


def bounded(index: Array, extent: Array) -> Array:
    """`index`, or InvalidArgument if an element lies outside [0, extent)."""
    index = np.asarray(index)
    bad = (index < 0) | (index >= extent)
    if np.any(bad):
        bad, values, extents = np.broadcast_arrays(bad, index, extent)
        at = np.unravel_index(int(np.argmax(bad)), bad.shape)
        raise InvalidArgument(f"index {int(values[at])} is not in [0, {int(extents[at])})")
    return index


def demand(condition: Array, number: Array) -> Array:
    """`condition`, which must hold; InvalidArgument with the number of the message if it does not.

    The caller says the message itself.
    """
    if np.all(condition):
        return condition
    _, numbers = np.broadcast_arrays(condition, number)
    raise InvalidArgument(str(int(numbers[np.logical_not(condition)].flat[0])))


def _identity(x: Array) -> Array:
    return x


FUNCTIONS: dict[str, Function] = {
    "add": Function(2, np.add),
    "sub": Function(2, np.subtract),
    "mul": Function(2, np.multiply),
    "div": Function(2, np.true_divide),
    "floordiv": Function(2, np.floor_divide),
    "floormod": Function(2, np.mod),
    "truncdiv": Function(2, truncdiv),
    "max": Function(2, np.maximum),
    "min": Function(2, np.minimum),
    "pow": Function(2, np.power),
    "neg": Function(1, np.negative),
    "abs": Function(1, np.abs),
    "exp": Function(1, np.exp),
    "expm1": Function(1, np.expm1),
    "log": Function(1, np.log),
    "log1p": Function(1, np.log1p),
    "sqrt": Function(1, np.sqrt),
    "rsqrt": Function(1, rsqrt),
    "tanh": Function(1, np.tanh),
    "sigmoid": Function(1, sigmoid),
    "erf": Function(1, erf),
    "erfc": Function(1, erfc),
    "sin": Function(1, np.sin),
    "cos": Function(1, np.cos),
    "floor": Function(1, np.floor),
    "ceil": Function(1, np.ceil),
    "round": Function(1, np.rint),  # half to even, as tf.round
    "sign": Function(1, np.sign),
    "eq": Function(2, np.equal),
    "ne": Function(2, np.not_equal),
    "lt": Function(2, np.less),
    "le": Function(2, np.less_equal),
    "gt": Function(2, np.greater),
    "ge": Function(2, np.greater_equal),
    "and": Function(2, np.logical_and),
    "or": Function(2, np.logical_or),
    "not": Function(1, np.logical_not),
    "bitand": Function(2, np.bitwise_and),
    "bitor": Function(2, np.bitwise_or),
    "bitxor": Function(2, np.bitwise_xor),
    "select": Function(3, np.where),
    "cast": Function(1, _identity),
    "isnan": Function(1, np.isnan),
    "isfinite": Function(1, np.isfinite),
    "bounded": Function(2, bounded),
    "demand": Function(2, demand),
}

_EXACT = frozenset({"add", "sub", "mul", "max", "min", "abs", "sign", "neg", "select", "cast"})
_INTEGER = frozenset({"floordiv", "floormod", "truncdiv", "bounded", "bitand", "bitor", "bitxor"})


def is_generated(fn: str, dtype: str) -> bool:
    """Whether generated code has `fn` with a result of `dtype`."""
    if fn in PREDICATES or fn in ("select", "cast"):
        return True
    if dtype in ("float32", "float64"):
        return fn in FUNCTIONS and fn not in _INTEGER - {"floordiv"}
    return dtype.lstrip("u").startswith("int") and fn in _EXACT | _INTEGER


PREDICATES = frozenset(
    {"eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "isnan", "isfinite", "demand"}
)
"""Functions whose value is a bool whatever they are applied to."""
