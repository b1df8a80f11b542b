# SPDX-License-Identifier: Apache-2.0
"""The functions of `Call`, a row for each: all that is known of one whatever the target.

A row has the meaning, as numpy code on arrays that broadcast. The dtype of the result is the
caller's business: the interpreter converts it to the dtype of the Call. So `cast` is the identity
here, and a function may compute in a wider type than it returns. `select` evaluates both branches.
NaN propagates through `max` and `min`.

How a target spells a function is in its table: codegen/scalar.py, codegen/vector.py and
codegen/cuda/scalar.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sirius_tf.errors import InvalidArgument
from sirius_tf.ir.dtypes import FLOAT, INTEGER

Array = npt.NDArray[Any]


SLOW = 10.0
"""The cost of exp, tanh, ..., and of what a processor divides."""


@dataclass(frozen=True)
class Function:
    """A scalar function of `arity` arguments.

    `dtypes`: those of results for which there is code, on every target; None for any. A `predicate`
    is a bool, whatever it is applied to. `cost`: vector operations that take as long. `short`:
    whether it is an instruction or two, of which there may be one for each register of a block.
    `fails`: what can make the call fail, a zero as second argument or what a condition says of
    data. `symbol`: the operator that it is printed as, and how strongly that binds.
    `elementary`: whether the headers of all targets have it under its name (sirius_math.h).
    `ops`: the ops of TensorFlow that are the function, and no more than that.
    """

    arity: int
    evaluate: Callable[..., Array]
    dtypes: Set[str] | None
    cost: float = 1.0
    short: bool = True
    fails: Literal["", "divisor", "data"] = ""
    symbol: tuple[str, int] | None = None
    predicate: bool = False
    elementary: bool = False
    ops: tuple[str, ...] = ()


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


def divisor(y: Array) -> Array:
    """`y`, or InvalidArgument if an integer in it is zero."""
    if not np.all(y):
        raise InvalidArgument("integer division by zero")
    return y


def floordiv(x: Array, y: Array) -> Array:
    """Quotient rounded toward minus infinity; of floats that of x / y, as TensorFlow has it, where
    numpy has that of the exact quotient."""
    floating = str(np.result_type(x, y)) in FLOAT
    return np.asarray(
        np.floor(np.true_divide(x, y)) if floating else np.floor_divide(x, divisor(y))
    )


def floormod(x: Array, y: Array) -> Array:
    """Rest of an integer floor division."""
    return np.asarray(np.mod(x, divisor(y)))


def truncdiv(x: Array, y: Array) -> Array:
    """Integer quotient rounded toward zero."""
    quotient = np.floor_divide(x, divisor(y))
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


def _places(by: Array) -> Array:
    """The bits to shift by: as many as an integer has but one at most, and none for less."""
    return np.clip(by, 0, 8 * by.dtype.itemsize - 1)


def lshift(x: Array, by: Array) -> Array:
    """`x` shifted to the left, as TensorFlow's kernels have it where C has no result."""
    return np.left_shift(x, _places(np.asarray(by)))


def rshift(x: Array, by: Array) -> Array:
    """`x` shifted to the right, with copies of its sign, as `lshift` is."""
    return np.right_shift(x, _places(np.asarray(by)))


def _identity(x: Array) -> Array:
    return x


_NUMBER = FLOAT | INTEGER


def _operator(symbol: str, strength: int, evaluate: Callable[..., Array], *ops: str) -> Function:
    return Function(2, evaluate, _NUMBER, symbol=(symbol, strength), ops=ops)


def _comparison(symbol: str, evaluate: Callable[..., Array], *ops: str) -> Function:
    return Function(2, evaluate, None, symbol=(symbol, COMPARISON), predicate=True, ops=ops)


def _bits(evaluate: Callable[..., Array], *ops: str) -> Function:
    return Function(2, evaluate, INTEGER, ops=ops)


def _elementary(arity: int, evaluate: Callable[..., Array], *ops: str) -> Function:
    return Function(arity, evaluate, FLOAT, SLOW, short=False, elementary=True, ops=ops)


COMPARISON, SUM, PRODUCT, UNARY = 3, 4, 5, 6
"""The strengths with which operators bind."""

FUNCTIONS: Mapping[str, Function] = {
    "add": _operator("+", SUM, np.add, "Add", "AddV2"),
    "sub": _operator("-", SUM, np.subtract, "Sub"),
    "mul": _operator("*", PRODUCT, np.multiply, "Mul"),
    "div": Function(2, np.true_divide, FLOAT, SLOW, symbol=("/", PRODUCT), ops=("RealDiv",)),
    "floordiv": Function(
        2, floordiv, _NUMBER, SLOW, False, "divisor", ("//", PRODUCT), ops=("FloorDiv",)
    ),
    "floormod": Function(
        2, floormod, INTEGER, SLOW, False, "divisor", ("%", PRODUCT), ops=("FloorMod",)
    ),
    "truncdiv": Function(2, truncdiv, INTEGER, SLOW, False, "divisor", ops=("TruncateDiv",)),
    "max": Function(2, np.maximum, _NUMBER, ops=("Maximum",)),
    "min": Function(2, np.minimum, _NUMBER, ops=("Minimum",)),
    "neg": Function(1, np.negative, _NUMBER, symbol=("-", UNARY), ops=("Neg",)),
    "abs": Function(1, np.abs, _NUMBER, ops=("Abs",)),
    "sign": Function(1, np.sign, _NUMBER, 4.0, short=False, ops=("Sign",)),
    "pow": _elementary(2, np.power, "Pow"),
    "exp": _elementary(1, np.exp, "Exp"),
    "expm1": _elementary(1, np.expm1, "Expm1"),
    "log": _elementary(1, np.log, "Log"),
    "log1p": _elementary(1, np.log1p, "Log1p"),
    "tanh": _elementary(1, np.tanh, "Tanh"),
    "sigmoid": _elementary(1, sigmoid, "Sigmoid"),
    "erf": _elementary(1, erf, "Erf"),
    "erfc": _elementary(1, erfc, "Erfc"),
    "sin": _elementary(1, np.sin, "Sin"),
    "cos": _elementary(1, np.cos, "Cos"),
    "atan2": _elementary(2, np.arctan2, "Atan2"),
    "sqrt": Function(1, np.sqrt, FLOAT, ops=("Sqrt",)),
    "rsqrt": Function(1, rsqrt, FLOAT, SLOW, short=False, ops=("Rsqrt",)),
    "floor": Function(1, np.floor, FLOAT, ops=("Floor",)),
    "ceil": Function(1, np.ceil, FLOAT, ops=("Ceil",)),
    "round": Function(1, np.rint, FLOAT, ops=("Round", "Rint")),  # half to even, as tf.round
    "eq": _comparison("==", np.equal, "Equal"),
    "ne": _comparison("!=", np.not_equal, "NotEqual"),
    "lt": _comparison("<", np.less, "Less"),
    "le": _comparison("<=", np.less_equal, "LessEqual"),
    "gt": _comparison(">", np.greater, "Greater"),
    "ge": _comparison(">=", np.greater_equal, "GreaterEqual"),
    "and": Function(
        2, np.logical_and, None, symbol=("and", 2), predicate=True, ops=("LogicalAnd",)
    ),
    "or": Function(2, np.logical_or, None, symbol=("or", 1), predicate=True, ops=("LogicalOr",)),
    "not": Function(
        1, np.logical_not, None, symbol=("not ", UNARY), predicate=True, ops=("LogicalNot",)
    ),
    "isnan": Function(1, np.isnan, None, predicate=True, ops=("IsNan",)),
    "isfinite": Function(1, np.isfinite, None, 2.0, predicate=True, ops=("IsFinite",)),
    "bitand": _bits(np.bitwise_and, "BitwiseAnd"),
    "bitor": _bits(np.bitwise_or, "BitwiseOr"),
    "bitxor": _bits(np.bitwise_xor, "BitwiseXor"),
    "lshift": Function(2, lshift, INTEGER, 4.0, short=False, ops=("LeftShift",)),
    "rshift": Function(2, rshift, INTEGER, 4.0, short=False, ops=("RightShift",)),
    "select": Function(3, np.where, None),
    "cast": Function(1, _identity, None, short=False),  # of 64 bits, several instructions
    "bounded": Function(2, bounded, INTEGER, SLOW, False, "data"),
    "demand": Function(2, demand, None, SLOW, False, "data", predicate=True),
}

PREDICATES = frozenset(fn for fn, row in FUNCTIONS.items() if row.predicate)
OPERATORS = frozenset(fn for fn, row in FUNCTIONS.items() if row.symbol)
ELEMENTARY = frozenset(fn for fn, row in FUNCTIONS.items() if row.elementary)


def is_generated(fn: str, dtype: str) -> bool:
    """Whether generated code has `fn` with a result of `dtype`."""
    dtypes = FUNCTIONS[fn].dtypes
    return dtypes is None or dtype in dtypes
