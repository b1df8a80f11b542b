# SPDX-License-Identifier: Apache-2.0
"""Mutants of Python: another operator, constant or result, a negated condition, a step left out."""

import ast
from collections.abc import Iterator

from tests.mutation.mutant import Mutant, replaced

#: Tokens and what takes their place.
COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
Change = tuple[ast.AST, ast.AST]  # a node and what takes its place


def mutants(file: str, text: str) -> Iterator[Mutant]:
    """Every mutant of a module."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    data = text.encode()
    for old, new in changes(ast.parse(text)):
        span = (
            starts[old.lineno - 1] + old.col_offset,
            starts[old.end_lineno - 1] + old.end_col_offset,
        )
        start, end = (len(data[:k].decode()) for k in span)
        code = ast.unparse(ast.fix_missing_locations(new))
        yield replaced(file, text, start, end, code if isinstance(new, ast.stmt) else f"({code})")


def changes(node: ast.AST) -> Iterator[Change]:
    """The changes of a node and of what is below it."""
    yield from expression_changes(node)
    yield from statement_changes(node)
    for child in children(node):
        yield from changes(child)


def children(node: ast.AST) -> list[ast.AST]:
    """Parts that run: no annotations or decorators; assertions and texts may say what they like."""
    match node:
        case ast.Assert() | ast.JoinedStr():
            return []
        case ast.FunctionDef(args=args, body=body):
            return [*args.defaults, *filter(None, args.kw_defaults), *body]
        case ast.ClassDef(body=body):
            return list(body)
        case ast.AnnAssign(value=value):
            return [value] if value else []
        case ast.keyword(arg="strict"):  # of zip
            return []
    return list(ast.iter_child_nodes(node))


def expression_changes(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.Compare(left, ops, others):
            for k, op in enumerate(ops):
                for other in COMPARISONS[type(op)]:
                    yield node, ast.Compare(left, [*ops[:k], other(), *ops[k + 1 :]], others)
        case ast.BinOp(left, op, right) if type(op) in ARITHMETIC:
            yield node, ast.BinOp(left, ARITHMETIC[type(op)](), right)
        case ast.BoolOp(op, values):
            yield node, ast.BoolOp(ast.And() if isinstance(op, ast.Or) else ast.Or(), values)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield node, operand
        case ast.Constant(value=bool(value)):
            yield node, ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield node, ast.Constant(value + 1)
        case ast.Call(ast.Name(name), args, keywords) if name in CALLS:
            yield node, ast.Call(ast.Name(CALLS[name]), args, keywords)
        case ast.IfExp(test):
            yield test, ast.UnaryOp(ast.Not(), test)
        case ast.comprehension(ifs=conditions):
            for condition in conditions:
                yield condition, ast.Constant(True)


def statement_changes(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.If(test) | ast.While(test):
            yield test, ast.UnaryOp(ast.Not(), test)
        case ast.Return(value) if value and ast.unparse(value) != "None":
            yield node, ast.Return(ast.Constant(None))
        case ast.Expr(ast.Call()) | ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break():
            yield node, ast.Pass()
