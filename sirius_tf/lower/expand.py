# SPDX-License-Identifier: Apache-2.0
"""Expansion along a loop: what a body defines, as tensors subscripted by the iteration.

A body is lowered as if it ran once: `s[i] = x[t, i] + h[t, i]`. Then every tensor that varies,
because its definition mentions t or a tensor that varies, is subscripted by t:
`s[t, i] = x[t, i] + h[t, i]` for 0 <= t < T. The others are loop-invariant and stay as they are,
but for what must hold, which it need not where there is no iteration.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sirius_tf.ir.affine import Affine, symbol
from sirius_tf.ir.expr import Load, names_in
from sirius_tf.ir.program import Iter, Statement, Tensor
from sirius_tf.ir.rewrite import along, move, substitute_in


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
    s = move(s, expanded, lambda x: replace(x, index=(t, *x.index)))
    if s.target in expanded:
        return replace(s, iters=(loop, *s.iters))
    return s if loop in s.iters else substitute_in(s, {loop.name: 0})


def forward(
    statements: Sequence[Statement], carried: set[str], expanded: set[str]
) -> list[Statement]:
    """Forward the results of a body: if h[t + 1, i] = m[t, i], the definition of m defines h
    instead, and m is gone."""
    same: dict[str, str] = {}
    guards = {(s.target, s.guards) for s in statements}
    kept = {guard.condition.tensor for s in statements for guard in s.guards}
    for s in statements:
        if s.target in carried and isinstance(s.value, Load) and s.value.tensor in expanded - kept:
            m = s.value
            alike = all(found == s.guards for name, found in guards if name == m.tensor)
            if alike and m.index[1:] == s.index[1:] and m.index[0] == s.index[0] - 1:
                same.setdefault(m.tensor, s.target)

    def carried_on(load: Load) -> Load:
        return replace(along(load, 0, lambda t: t + 1), tensor=same[load.tensor])

    moved = (move(s, same, carried_on) for s in statements)
    return [s for s in moved if s.value != s.result]
