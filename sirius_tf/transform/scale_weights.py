# SPDX-License-Identifier: Apache-2.0
"""Constant factors of sums go into constant weights, as those of a batch normalization.

    y[p, c] = y[p, c] * f[c] + o[c],  y[p, c] = sum over k of x[p, k] * w[k, c]
    ->  y[p, c] = y[p, c] + o[c],  y[p, c] = sum over k of x[p, k] * v[k, c],  v = w[k, c] * f[c]

Every weight is rounded once more.
"""

from __future__ import annotations

from dataclasses import replace

from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import Call, Expr, Load, names_in, rewrite, walk
from sirius_tf.ir.grids import elements
from sirius_tf.ir.program import Program, Statement, Tensor
from sirius_tf.ir.rewrite import fresh


def scale_weights(program: Program) -> Program:
    """The program with constant factors of sums in their weights."""
    made: dict[tuple[Load, Load], Tensor] = {}
    statements = tuple(_scaled(program, s, made) for s in program.statements)
    read = {load.tensor for s in statements for load in s.loads}
    kept = tuple(t for t in program.tensors if t.role != "constant" or t.name in read)
    return replace(program, tensors=(*kept, *made.values()), statements=statements)


def _scaled(program: Program, s: Statement, made: dict[tuple[Load, Load], Tensor]) -> Statement:
    match s.value, s.reduce:
        case Call("mul", (Load() as a, Load() as b), "float32"), reduce if reduce is not None:
            constant = [program.tensor[load.tensor].role == "constant" for load in (a, b)]
        case _:
            return s
    if reduce.op != "add" or s.finish is None or constant.count(True) != 1:
        return s
    weights = a if constant[0] else b
    factors = [f for e in walk(s.finish) if (f := _factor(program, s, e))]
    if len(set(factors)) != 1 or len(factors) != list(walk(s.finish)).count(s.result):
        return s
    factor = factors[0]
    extents = {i.name: i.extent for i in s.all_iters}
    names = names_in(weights)
    plain = all(isinstance(i, Affine) for load in (weights, factor) for i in load.index)
    if not plain or not names_in(factor) <= names <= extents.keys():
        return s
    if not all(extents[n].is_const for n in names):
        return s
    box = {n: e.const for n, e in extents.items() if n in names}
    key = weights, factor
    if key not in made:
        old = program.tensor[weights.tensor]
        arrays = [program.tensor[load.tensor].value for load in key]
        values = [elements(a, x, box) for a, x in zip(arrays, key, strict=True) if a is not None]
        shape = tuple(affine(n) for n in box.values())
        name = fresh(f"{old.name}_scaled{len(made)}", program.tensor)
        made[key] = replace(old, name=name, shape=shape, value=values[0] * values[1])
    scaled = Load(made[key].name, tuple(symbol(n) for n in box), "float32")
    pair = (scaled, b) if weights is a else (a, scaled)
    finish = rewrite(s.finish, lambda e: s.result if _factor(program, s, e) else None)
    return replace(s, value=Call("mul", pair, "float32"), finish=finish)


def _factor(program: Program, s: Statement, expr: Expr) -> Load | None:
    """The constant that an expression is the result of a sum times."""
    if not (isinstance(expr, Call) and expr.fn == "mul" and s.result in expr.args):
        return None
    factor = expr.args[expr.args[0] == s.result]
    if not isinstance(factor, Load) or program.tensor[factor.tensor].role != "constant":
        return None
    return factor
