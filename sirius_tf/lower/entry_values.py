# SPDX-License-Identifier: Apache-2.0
"""Entry-time values: sizes and conditions that are known before the region runs, from
expressions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import product

import numpy as np

from sirius_tf.ir.affine import Affine, affine
from sirius_tf.ir.dtypes import HALF, INTEGER, numpy_dtype
from sirius_tf.ir.expr import Call, Const, Expr, Index, Load, loads, rewrite
from sirius_tf.ir.functions import FUNCTIONS
from sirius_tf.ir.polynomial import Poly, poly
from sirius_tf.ir.program import UNBOUNDED, Tensor
from sirius_tf.lower.params import Params
from sirius_tf.lower.value import Host, Value, unflatten

HOST_LIMIT = 64
"""Integer tensors of more elements than this are never treated as symbolic."""


def small(value: Value, element: Callable[[Expr], Poly | Expr | None]) -> Host | None:
    """`element` of every element of a small integer or bool tensor; None if one is None."""
    if value.dtype not in INTEGER | {"bool"}:
        return None
    if not all(s.is_const for s in value.shape):
        return None
    shape = [s.const for s in value.shape]
    if math.prod(shape) > HOST_LIMIT:
        return None
    result = np.empty(shape, object)
    for point in product(*map(range, shape)):
        pairs = zip(value.dims, point, strict=True)
        at = [i for dim, p in pairs for i in (unflatten(dim, affine(p)) if dim else ())]
        found = element(value.at(tuple(at)))
        if found is None:
            return None
        result[point] = found
    return result


def to_poly(expr: Expr, tensors: Mapping[str, Tensor], params: Params | None) -> Poly | None:
    """The expression as a polynomial, or None. With `params`, integers among the
    elements of inputs become parameters."""
    match expr:
        case Const(number):
            return poly(int(number))
        case Index(position):
            return poly(position)
        case Call("add" | "mul", (left, right)):
            a, b = to_poly(left, tensors, params), to_poly(right, tensors, params)
            if a is None or b is None:
                return None
            return a + b if expr.fn == "add" else a * b
        case Load(name):
            at = _constant_index(expr)
            if at is not None and (value := tensors[name].value) is not None:
                return poly(int(value[at]))
            if at is None or tensors[name].role != "input" or params is None:
                return None
            if expr.dtype in ("int32", "int64"):  # as parameters are: others are no sizes, or wrap
                return params.define("_".join(map(str, (name, "at", *at))), expr, 1, UNBOUNDED)
    return None


def to_condition(expr: Expr, tensors: Mapping[str, Tensor]) -> Expr | None:
    """With constants folded, if nothing but sizes and elements of inputs enters it."""

    def folded(node: Expr) -> Expr | None:
        match node:
            case Load(name, _, dtype):
                at, value = _constant_index(node), tensors[name].value
                return (
                    Const(value[at].item(), dtype) if at is not None and value is not None else None
                )
            case Call(fn, args, dtype):
                given = [a.value for a in args if isinstance(a, Const)]
                if len(given) == len(args) and fn != "bounded":
                    result = np.asarray(FUNCTIONS[fn].evaluate(*given))
                    return Const(result.astype(numpy_dtype(dtype)).item(), dtype)
        return None

    expr = rewrite(expr, folded)
    for load in loads(expr):
        if load.dtype in HALF:  # the code that runs on entry is for any CPU: it has no conversion
            return None
        if _constant_index(load) is None or tensors[load.tensor].role != "input":
            return None
    return expr


def _constant_index(load: Load) -> tuple[int, ...] | None:
    at = tuple(i.const for i in load.index if isinstance(i, Affine) and i.is_const)
    return at if len(at) == len(load.index) else None
