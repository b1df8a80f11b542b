# SPDX-License-Identifier: Apache-2.0
"""Constant folding: tensors, and parts of expressions, that depend on constants alone are computed
here."""

from __future__ import annotations

import math
from dataclasses import replace

from sirius_tf.errors import InvalidArgument
from sirius_tf.ir import interp
from sirius_tf.ir.affine import Affine, FloorDiv, symbol
from sirius_tf.ir.defuse import Uses
from sirius_tf.ir.dtypes import HALF
from sirius_tf.ir.expr import Call, Const, Expr, Index, Load, loads, names_in, walk
from sirius_tf.ir.functions import FUNCTIONS
from sirius_tf.ir.program import Iter, Output, Program, Statement, Tensor
from sirius_tf.ir.rewrite import map_exprs, map_statements, numbered

LARGEST_CONSTANT = 1 << 22  # elements of a folded constant
MOST_POINTS = 1 << 26  # evaluated for a folded constant


def _constant_loads(program: Program, expr: Expr) -> bool:
    return all(program.tensor[load.tensor].role == "constant" for load in loads(expr))


def evaluate(program: Program, statements: tuple[Statement, ...]) -> Tensor | None:
    """The tensor that statements define from constants, as a constant; None where they fail, as a
    division by zero does: calls are to fail then."""
    target = program.tensor[statements[0].target]
    needed = {load.tensor for s in statements for load in loads(s.value)}
    tensors = (replace(target, role="output"), *(program.tensor[n] for n in sorted(needed)))
    statements = tuple(replace(s, guards=()) for s in statements)
    shape = tuple(Const(extent.const, "int64") for extent in target.shape)
    outputs = (Output(target.name, shape),)
    small = Program("fold", (), (), (), tensors, statements, (), outputs)
    try:
        (value,) = interp.run(small, {})
    except InvalidArgument:
        return None
    return replace(target, role="constant", value=value)


def _foldable(program: Program, s: Statement) -> bool:
    sizes = [i.extent for i in s.all_iters]
    if s.demands or (s.guards and not total(s.value)):
        return False
    if not all(e.is_const for e in sizes) or not _constant_loads(program, s.value):
        return False
    if any(isinstance(e, Index) and not _closed(e.value, s) for e in walk(s.value)):
        return False
    return math.prod(e.const for e in sizes) <= MOST_POINTS


def total(expr: Expr) -> bool:
    """Whether nothing can fail."""
    return not any(isinstance(e, Call) and FUNCTIONS[e.fn].fails for e in walk(expr))


def _closed(value: Affine, s: Statement) -> bool:
    return set(value.names()) <= {i.name for i in s.all_iters}


def fold_tensors(program: Program) -> Program:
    """Temporaries that are defined from constants alone become constants."""
    uses, tensors, folded = Uses(program), dict(program.tensor), set[str]()
    for name, writers in uses.writers.items():
        target = program.tensor[name]
        if target.role != "temp" or not all(e.is_const for e in target.shape):
            continue
        if math.prod(e.const for e in target.shape) > LARGEST_CONSTANT:
            continue
        made = all(_foldable(program, s) for s in writers) and evaluate(program, tuple(writers))
        if made:
            tensors[name] = made
            folded.add(name)
    kept = tuple(s for s in program.statements if s.target not in folded)
    return replace(program, tensors=tuple(tensors.values()), statements=kept)


def fold_subtrees(program: Program) -> Program:
    """Parts of expressions that only constants enter become constants of their own."""
    folder = _Folder(program)
    program = map_statements(program, folder.statement)
    made = (t for t in folder.made.values() if t)
    return replace(program, tensors=(*program.tensors, *made))


class _Folder:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.made: dict[tuple[object, ...], Tensor | None] = {}

    def statement(self, s: Statement) -> Statement:
        """The statement with maximal constant parts of its expressions replaced."""
        return map_exprs(s, lambda e: self.part(s, e))

    def part(self, s: Statement, expr: Expr) -> Expr:
        if not isinstance(expr, Call) or expr.fn == "bounded" or _widening(expr):
            return expr
        if _compares_indices(expr):
            return expr
        if expr.fn == "demand":
            return Call(expr.fn, (self.part(s, expr.args[0]), expr.args[1]), expr.dtype)
        iters = self.iters(s, expr)
        folded = None if iters is None else self.fold(s, expr, iters)
        if folded is not None:
            return folded
        return Call(expr.fn, tuple(self.part(s, a) for a in expr.args), expr.dtype)

    def iters(self, s: Statement, expr: Expr) -> tuple[Iter, ...] | None:
        """The iterators that a constant expression depends on; None if it is not constant."""
        if not _constant_loads(self.program, expr):
            return None
        names = names_in(expr)
        iters = tuple(i for i in s.all_iters if i.name in names)
        if len(iters) < len(names) or not all(i.extent.is_const for i in iters):
            return None
        small = math.prod(i.extent.const for i in iters) <= LARGEST_CONSTANT
        return iters if small else None

    def fold(self, s: Statement, expr: Expr, iters: tuple[Iter, ...]) -> Expr | None:
        index = tuple(symbol(i.name) for i in iters)
        key = (expr, iters)
        if key not in self.made:
            taken = {*self.program.tensor, *(t.name for t in self.made.values() if t)}
            name, shape = next(numbered("folded", taken)), tuple(i.extent for i in iters)
            target = Tensor(name, shape, expr.dtype)
            tensors = (*self.program.tensors, target)
            one = Statement("fold", iters, name, index, expr)
            self.made[key] = evaluate(replace(self.program, tensors=tensors), (one,))
        made = self.made[key]
        if made is None:
            return None
        if next(loads(expr), None) is None and not iters:
            assert made.value is not None
            return Const(made.value.item(), expr.dtype)
        return Load(made.name, index, expr.dtype)


def _widening(expr: Call) -> bool:
    """A constant of half precision is kept so, and widened where it is read."""
    return expr.fn == "cast" and isinstance(expr.args[0], Load) and expr.args[0].dtype in HALF


def _compares_indices(expr: Call) -> bool:
    """A condition on iterators is cheaper than a table of it, and says where it holds."""
    match expr:
        case Call("and" | "or" | "not", args):
            return all(isinstance(a, Call) and _compares_indices(a) for a in args)
        case Call("eq" | "ne" | "lt" | "le" | "gt" | "ge", args):
            terms = [key for a in args if isinstance(a, Index) for key, _ in a.value.terms]
            plain = all(isinstance(a, Index | Const) for a in args)
            return bool(terms) and plain and not any(isinstance(key, FloorDiv) for key in terms)
    return False
