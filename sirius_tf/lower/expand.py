# SPDX-License-Identifier: Apache-2.0
"""Expansion along a loop: what a body defines, as tensors subscripted by the iteration.

A body is lowered as if it ran once: `s[i] = x[t, i] + h[t, i]`. Then every tensor that varies,
because its definition mentions t or a tensor that varies, is subscripted by t:
`s[t, i] = x[t, i] + h[t, i]` for 0 <= t < T. The others are loop-invariant and stay as they are,
but for what must hold, which it need not where there is no iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from sirius_tf.ir.affine import Affine, symbol
from sirius_tf.ir.expr import Expr, Load, names_in, rewrite, substitute
from sirius_tf.ir.program import Guard, Iter, Statement, Tensor


def varying(statements: Sequence[Statement], local: Iterable[str], loop: Iter) -> set[str]:
    """The `local` tensors whose definitions depend on the iterator: a least fixed point."""
    local, found = set(local), set[str]()
    while True:
        more = {
            s.target
            for s in statements
            if s.target in local - found
            and (s.demands or _mentions(s, loop.name) or any(x.tensor in found for x in s.loads))
        }
        if not more:
            return found
        found |= more


def _mentions(s: Statement, name: str) -> bool:
    subscripts = (n for i in s.index for n in i.names())
    return name in subscripts or name in names_in(s.value)


def expand_tensor(tensor: Tensor, trips: Affine) -> Tensor:
    """The tensor with one slice per iteration, of which there are `trips` at most."""
    return replace(tensor, shape=(trips, *tensor.shape))


def expand_statement(s: Statement, expanded: set[str], loop: Iter) -> Statement:
    """The statement for every iteration if its target is expanded; reads follow in any case.

    What is the same in all iterations is needed if there is a first one: go[t] becomes go[0].
    """
    t = symbol(loop.name)

    def leaf(expr: Expr) -> Expr | None:
        match expr:
            case Load(tensor, index, dtype) if tensor in expanded:
                return Load(tensor, (t, *index), dtype)
        return None

    s = replace(s, value=rewrite(s.value, leaf), guards=_rewritten(s.guards, leaf))
    if s.target not in expanded:
        return s if loop in s.iters else replace(s, guards=_first(s.guards, loop))
    return replace(s, iters=(loop, *s.iters), index=(t, *s.index))


def _first(guards: tuple[Guard, ...], loop: Iter) -> tuple[Guard, ...]:
    found = ((guard, substitute(guard.condition, {loop.name: 0})) for guard in guards)
    return tuple(replace(guard, condition=new) for guard, new in found if isinstance(new, Load))


def _rewritten(guards: tuple[Guard, ...], leaf: Callable[[Expr], Expr | None]) -> tuple[Guard, ...]:
    found = ((guard, rewrite(guard.condition, leaf)) for guard in guards)
    return tuple(replace(guard, condition=new) for guard, new in found if isinstance(new, Load))


def forward(
    statements: Sequence[Statement], carried: set[str], expanded: set[str]
) -> list[Statement]:
    """Where h[t + 1, i] = m[t, i], what defines m defines h instead, and m is gone."""
    same: dict[str, str] = {}
    guards = {(s.target, s.guards) for s in statements}
    kept = {guard.condition.tensor for s in statements for guard in s.guards}
    for s in statements:
        if s.target in carried and isinstance(s.value, Load) and s.value.tensor in expanded - kept:
            m = s.value
            alike = all(found == s.guards for name, found in guards if name == m.tensor)
            if alike and m.index[1:] == s.index[1:] and m.index[0] == s.index[0] - 1:
                same.setdefault(m.tensor, s.target)

    def leaf(expr: Expr) -> Expr | None:
        match expr:
            case Load(tensor, (Affine() as t, *rest), dtype) if tensor in same:
                return Load(same[tensor], (t + 1, *rest), dtype)
        return None

    result = []
    for s in statements:
        s = replace(s, value=rewrite(s.value, leaf))
        if s.target in same:
            s = replace(s, target=same[s.target], index=(s.index[0] + 1, *s.index[1:]))
        if s.value != Load(s.target, s.index, s.value.dtype):
            result.append(s)
    return result
