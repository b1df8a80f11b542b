# SPDX-License-Identifier: Apache-2.0
"""Rules of ops that compute each element from the same element of their inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf

import numpy as np

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.dtypes import is_float, number
from sirius_tf.ir.expr import Const, Expr, call
from sirius_tf.ir.functions import FUNCTIONS, OPERATORS, PREDICATES
from sirius_tf.ir.polynomial import Poly, poly
from sirius_tf.ir.program import UNBOUNDED
from sirius_tf.lower import value as values
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.rules import lowers
from sirius_tf.lower.value import Host, Value

# ops that are one function
_FUNCTIONS = {op: fn for fn, row in FUNCTIONS.items() for op in row.ops}


def _number(value: float, like: Expr) -> Expr:
    return number(value, like.dtype)


def _square(x: Expr) -> Expr:
    return call("mul", x, x)


def _unless_zero(number: Expr, result: Expr) -> Expr:
    """The result, or zero where the number is zero, whatever the result is then."""
    zero = _number(0.0, number)
    return call("select", call("eq", number, zero, dtype="bool"), zero, result)


def _div(x: Expr, y: Expr) -> Expr:
    return call("div" if is_float(x.dtype) else "truncdiv", x, y)


def _softplus(x: Expr) -> Expr:
    magnitude = call("log1p", call("exp", call("neg", call("abs", x))))
    return call("add", call("max", x, _number(0.0, x)), magnitude)


def _elu(x: Expr) -> Expr:
    positive = call("gt", x, _number(0.0, x), dtype="bool")
    return call("select", positive, x, call("expm1", x))


def _selu(x: Expr) -> Expr:
    """Klambauer et al. 2017: the two constants keep mean 0 and variance 1."""
    positive = call("gt", x, _number(0.0, x), dtype="bool")
    negative = call("mul", _number(1.7580993408473768, x), call("expm1", x))
    return call("select", positive, call("mul", _number(1.0507009873554805, x), x), negative)


def _beside(x: Expr) -> Expr:
    """The other coordinate of a point of the unit circle; NaN where there is none."""
    return call(
        "sqrt", call("mul", call("sub", _number(1.0, x), x), call("add", _number(1.0, x), x))
    )


_FORMULAS: Mapping[str, Callable[..., Expr]] = {
    "Acos": lambda x: call("atan2", _beside(x), x),
    "Asin": lambda x: call("atan2", x, _beside(x)),
    "Atan": lambda x: call("atan2", x, _number(1.0, x)),
    "ClipByValue": lambda x, low, high: call("max", call("min", x, high), low),
    "Div": _div,
    "DivNoNan": lambda x, y: _unless_zero(y, call("div", x, y)),
    "Elu": _elu,
    "Inv": lambda x: call("div", _number(1.0, x), x),
    "Invert": lambda x: call("sub", call("neg", x), _number(1.0, x)),  # in two's complement
    "IsInf": lambda x: call("eq", call("abs", x), Const(inf, x.dtype), dtype="bool"),
    "MulNoNan": lambda x, y: _unless_zero(y, call("mul", x, y)),
    "Reciprocal": lambda x: call("div", _number(1.0, x), x),
    "Relu": lambda x: call("max", x, _number(0.0, x)),
    "Relu6": lambda x: call("min", call("max", x, _number(0.0, x)), _number(6.0, x)),
    "Selu": _selu,
    "Softplus": _softplus,
    "Softsign": lambda x: call("div", x, call("add", call("abs", x), _number(1.0, x))),
    "Square": _square,
    "SquaredDifference": lambda x, y: _square(call("sub", x, y)),
    "TruncateMod": lambda x, y: call("sub", x, call("mul", call("truncdiv", x, y), y)),
    "Xdivy": lambda x, y: _unless_zero(x, call("div", x, y)),
    "Xlog1py": lambda x, y: _unless_zero(x, call("mul", x, call("log1p", y))),
    "Xlogy": lambda x, y: _unless_zero(x, call("mul", x, call("log", y))),
}

_ARITHMETIC: Mapping[str, Callable[[Lowering, Poly, Poly], Poly]] = {
    "add": lambda _, a, b: a + b,
    "sub": lambda _, a, b: a - b,
    "mul": lambda _, a, b: a * b,
    "max": lambda ctx, a, b: ctx.params.opaque("max", a, b),
    "min": lambda ctx, a, b: ctx.params.opaque("min", a, b),
    "floordiv": lambda ctx, a, b: ctx.params.opaque("floordiv", a, b),
    "floormod": lambda ctx, a, b: ctx.params.opaque("floormod", a, b),
}
_RING = frozenset({"add", "sub", "mul"})  # exact results wrap to what wrapping ones are
_CONDITIONS = PREDICATES & OPERATORS


def _may_wrap(ctx: Lowering, value: Poly) -> bool:
    """Whether arithmetic on numbers of a request may overflow: that on sizes does not."""
    return ctx.params.given(value) and not value.is_name


def _wrapped(ctx: Lowering, value: Poly, dtype: str) -> Poly:
    """An operand as TensorFlow has it, which wraps, where that makes a difference."""
    if not _may_wrap(ctx, value):
        return value
    kept = call("cast", value.to_expr(dtype), dtype="int64")
    return ctx.params.define("wrapped", kept, value.evaluate(ctx.params.hints), UNBOUNDED)


def _not_zero(ctx: Lowering, divisor: Poly) -> None:
    """Require a size by which another one is divided not to be 0: the quotient may be known."""
    if not divisor.is_const and not ctx.params.at_least(divisor, 1):
        condition = call("ne", divisor.to_expr(), Const(0, "int64"), dtype="bool")
        ctx.check(condition, "integer division by zero")


def _decide(ctx: Lowering, fn: str, a: Poly, b: Poly) -> bool | None:
    """Whether a condition holds for all sizes, or for none; None if that depends on them."""
    if _may_wrap(ctx, a) or _may_wrap(ctx, b):
        return None
    if fn in ("and", "or"):
        both = bool(a.const and b.const if fn == "and" else a.const or b.const)
        return both if a.is_const and b.is_const else None
    less, more = ctx.params.at_least(b - a, 1), ctx.params.at_least(a - b, 1)
    at_most, at_least = ctx.params.at_least(b - a, 0), ctx.params.at_least(a - b, 0)
    holds, fails = {
        "eq": (at_most and at_least, less or more),
        "ne": (less or more, at_most and at_least),
        "lt": (less, at_least),
        "le": (at_most, more),
        "gt": (more, at_most),
        "ge": (at_least, less),
    }[fn]
    return True if holds else False if fails else None


def _on_host(ctx: Lowering, fn: str, operands: list[Value]) -> Host | None:
    """The result as polynomials if both operands are, and the function allows it."""
    if len(operands) != 2 or not (fn in _ARITHMETIC or fn in _CONDITIONS):
        return None
    scalars = all(v.rank == 0 for v in operands)
    left, right = (ctx.known(v, inputs=scalars) for v in operands)
    if left is None or right is None:
        return None
    left, right = np.broadcast_arrays(left, right)
    result = np.empty(left.shape, object)
    for point in np.ndindex(*left.shape):
        a, b = values.element(left, point), values.element(right, point)
        if fn in _ARITHMETIC:
            if fn not in _RING:
                a, b = (_wrapped(ctx, x, operands[0].dtype) for x in (a, b))
            if fn in ("floordiv", "floormod"):
                _not_zero(ctx, b)
            result[point] = _ARITHMETIC[fn](ctx, a, b)
        else:
            holds = _decide(ctx, fn, a, b)
            if holds is None:
                return None
            result[point] = poly(int(holds))
    return result


@lowers(*_FUNCTIONS)
def _function(ctx: Lowering, node: Node) -> Value:
    fn, operands = _FUNCTIONS[node.op], ctx.inputs()
    host = _on_host(ctx, fn, operands)
    if host is not None:
        return ctx.from_host(host, node.dtypes[0])
    if fn in _CONDITIONS and all(ctx.entry(x) is not None for x in operands):
        dims, views = values.broadcast(operands, ctx.alike)
        return Value("bool", dims, lambda i: call(fn, *(v.at(i) for v in views), dtype="bool"))
    return ctx.map(lambda *args: call(fn, *args, dtype=node.dtypes[0]), *operands)


@lowers(*_FORMULAS)
def _formula(ctx: Lowering, node: Node) -> Value:
    return ctx.map(_FORMULAS[node.op], *ctx.inputs())


@lowers("LeakyRelu")
def _leaky_relu(ctx: Lowering, node: Node) -> Value:
    alpha = node.attr_float("alpha")

    def fn(x: Expr) -> Expr:
        positive = call("gt", x, _number(0.0, x), dtype="bool")
        return call("select", positive, x, call("mul", x, _number(alpha, x)))

    return ctx.map(fn, ctx.input(0))


@lowers("ApproximateEqual")
def _approximately(ctx: Lowering, node: Node) -> Value:
    """|x - y| <= tolerance: TF's documentation says <, its kernel does not."""
    tolerance = node.attr_float("tolerance")

    def fn(x: Expr, y: Expr) -> Expr:
        distance = call("abs", call("sub", x, y))
        return call("le", distance, _number(tolerance, x), dtype="bool")

    return ctx.map(fn, *ctx.inputs())


@lowers("Select", "SelectV2")
def _select(ctx: Lowering, node: Node) -> Value:
    condition, x, y = ctx.inputs()
    chosen = _chosen(ctx, condition, x, y)
    if chosen is not None:
        return ctx.from_host(chosen, x.dtype)
    if node.op == "Select" and condition.rank == 1:  # selects rows
        for _ in range(x.rank - 1):
            condition = values.insert_dim(condition, condition.rank)
    return ctx.map(lambda c, a, b: call("select", c, a, b), condition, x, y)


def _chosen(ctx: Lowering, condition: Value, x: Value, y: Value) -> Host | None:
    """A selection of what is known before the region runs, where the condition is known now."""
    holds, left, right = (ctx.known(v) for v in (condition, x, y))
    if holds is None or left is None or right is None or holds.shape not in ((), left.shape):
        return None
    decided = [values.element(holds.reshape(-1), (k,)) for k in range(holds.size)]
    if left.shape != right.shape or not all(p.is_const for p in decided):
        return None
    mask = np.array([bool(p.const) for p in decided], np.bool_).reshape(holds.shape)
    return np.asarray(np.where(mask, left, right), object)


@lowers("BiasAdd")
def _bias_add(ctx: Lowering, node: Node) -> Value:
    x, bias = ctx.inputs()
    if node.attrs.get("data_format") in ("NCHW", b"NCHW"):
        for _ in range(x.rank - 2):
            bias = values.insert_dim(bias, bias.rank)
    return ctx.map(lambda a, b: call("add", a, b), x, bias)


@lowers("AddN")
def _add_n(ctx: Lowering, node: Node) -> Value:
    def fn(first: Expr, *rest: Expr) -> Expr:
        for term in rest:
            first = call("add", first, term)
        return first

    return ctx.map(fn, *ctx.inputs())
