# SPDX-License-Identifier: Apache-2.0
"""Statements with other expressions, elements or names: every pass rewrites them by these.

Each function changes all of a statement that its change is about, in the value, the epilogue and
the guards alike, so that it is right before and after every pass. A pass that is to change less
than that replaces the one field, and says why.

An element is a Load. The one that a statement defines is its `result`, which in an epilogue stands
for what was reduced: it moves with the target, and is not among what is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterator, Mapping
from dataclasses import replace
from itertools import count

from sirius_tf.ir.affine import Affine, AffineLike
from sirius_tf.ir.expr import Expr, Index, Load, rewrite, substitute
from sirius_tf.ir.program import Guard, Iter, Program, Statement

# Programs


def map_statements(program: Program, fn: Callable[[Statement], Statement]) -> Program:
    """The program with `fn` of each statement."""
    return replace(program, statements=tuple(map(fn, program.statements)))


# Expressions


def map_exprs(s: Statement, fn: Callable[[Expr], Expr]) -> Statement:
    """The statement with `fn` of its value, of its epilogue, and of what its guards test."""
    return replace(
        s,
        value=fn(s.value),
        finish=fn(s.finish) if s.finish else None,
        guards=tuple(Guard(_element(fn(g.condition)), g.holds) for g in s.guards),
    )


def _element(expr: Expr) -> Load:
    assert isinstance(expr, Load), "a guard tests an element"
    return expr


def finished(s: Statement, result: Expr) -> Expr:
    """The epilogue of a statement, applied to `result`."""
    return rewrite(s.finish, lambda e: result if e == s.result else None) if s.finish else result


# Elements


def replace_loads(expr: Expr, names: Container[str], fn: Callable[[Load], Expr]) -> Expr:
    """The expression with `fn` of each Load of the tensors `names`, innermost Loads first."""

    def of_load(node: Expr) -> Expr | None:
        return fn(node) if isinstance(node, Load) and node.tensor in names else None

    return rewrite(expr, of_load)


def map_loads(s: Statement, names: Container[str], fn: Callable[[Load], Expr]) -> Statement:
    """The statement with `fn` of each Load of the tensors `names`; what it defines stays."""

    def read(load: Load) -> Expr:
        return load if load == s.result else fn(load)

    return map_exprs(s, lambda e: replace_loads(e, names, read))


def move(s: Statement, names: Container[str], to: Callable[[Load], Load]) -> Statement:
    """The statement with the elements of the tensors `names`, which it reads or defines, elsewhere.

    y[t] = x[t - 1],  with x[t] at z[2 t]  and y[t] at z[2 t + 1]:   z[2 t + 1] = z[2 t - 2]
    """
    moved = map_exprs(s, lambda e: replace_loads(e, names, to))
    if s.target not in names:
        return moved
    place = to(s.result)
    index = tuple(i for i in place.index if isinstance(i, Affine))
    return replace(moved, target=place.tensor, index=index)


def define_elsewhere(s: Statement, target: str, index: tuple[Affine, ...]) -> Statement:
    """The statement with another element that it defines; what it reads stays."""
    result = Load(target, index, s.value.dtype)
    return replace(s, target=target, index=index, finish=finished(s, result) if s.finish else None)


def rename_loads(s: Statement, names: Mapping[str, str]) -> Statement:
    """The statement that reads tensors by other names."""
    return map_loads(s, names, lambda x: replace(x, tensor=names[x.tensor]))


def rename_tensors(s: Statement, names: Mapping[str, str]) -> Statement:
    """The statement with other names for the tensors that it reads and defines."""
    return move(s, names, lambda x: replace(x, tensor=names[x.tensor]))


def along(load: Load, axis: int, fn: Callable[[Affine], Affine]) -> Load:
    """The element with `fn` of its subscript along an axis, which does not depend on data."""
    place = load.index[axis]
    assert isinstance(place, Affine), f"a subscript of {load.tensor} depends on data"
    return replace(load, index=(*load.index[:axis], fn(place), *load.index[axis + 1 :]))


# Affine expressions


def map_affines(s: Statement, fn: Callable[[Affine], Affine]) -> Statement:
    """The statement with `fn` of its subscripts and indices, which come in an order of their own.

    Extents stay: they say how many instances there are, not what one of them does.
    """

    def of_node(expr: Expr) -> Expr | None:
        match expr:
            case Index(value, dtype):
                return Index(fn(value), dtype)
            case Load(tensor, index, dtype):
                places = tuple(fn(i) if isinstance(i, Affine) else i for i in index)
                return Load(tensor, places, dtype)
        return None

    s = replace(s, index=tuple(map(fn, s.index)))
    return map_exprs(s, lambda e: rewrite(e, of_node))


def map_iters(s: Statement, fn: Callable[[Iter], Iter]) -> Statement:
    """The statement with `fn` of its iterators, those that it reduces over included."""
    reduce = replace(s.reduce, iters=tuple(map(fn, s.reduce.iters))) if s.reduce else None
    return replace(s, iters=tuple(map(fn, s.iters)), reduce=reduce)


def substitute_in(s: Statement, values: Mapping[str, AffineLike]) -> Statement:
    """The statement with affine expressions for names of parameters and iterators, all at once.

    Its own iterators stay declared as they are.
    """
    s = map_iters(s, lambda i: replace(i, extent=i.extent.substitute(values)))
    s = replace(s, index=tuple(i.substitute(values) for i in s.index))
    return map_exprs(s, lambda e: substitute(e, values))


# Names


def fresh(stem: str, taken: Collection[str]) -> str:
    """The first of `stem`, stem_1, stem_2, ... that is not taken."""
    return stem if stem not in taken else next(numbered(f"{stem}_", taken, 1))


def numbered(stem: str, taken: Collection[str], first: int = 0) -> Iterator[str]:
    """The names stem0, stem1, stem2, ... that are not taken."""
    return (name for k in count(first) if (name := f"{stem}{k}") not in taken)
