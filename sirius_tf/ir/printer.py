# SPDX-License-Identifier: Apache-2.0
"""A Program as text: recurrence equations, one a line, which `parser.parse` reads back.

Only dtypes that do not go without saying are written, as in `2:int32`. A tensor's is declared. A
call has the dtype of its last argument, and a predicate is a bool. A literal, which is a number or
an affine expression, has the dtype of what stands beside it in a call, else that of its kind:
float32, int64 or bool. One that is all of a statement's value has the target's.

An integer is a Const; as an affine expression it is written `(2)`. In parameters, checks and shapes
of outputs, which are about sizes, it is the other way around.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sirius_tf.ir.affine import Affine, affine
from sirius_tf.ir.dtypes import INTEGER, is_float
from sirius_tf.ir.expr import Call, Const, Dim, DType, Expr, Index, Load, rewrite
from sirius_tf.ir.functions import COMPARISON, FUNCTIONS, PREDICATES, UNARY
from sirius_tf.ir.program import Check, Iter, Panels, Param, Program, Statement, Tensor, Tiles

SHORT = 8
"""Elements of a constant that are part of the text, at most."""

INFIX, _PREFIX = (
    {fn: row.symbol for fn, row in FUNCTIONS.items() if row.symbol and row.arity == arity}
    for arity in (2, 1)
)
"""Operators and their binding strengths; those of two operands associate to the left."""
_ATOM = UNARY + 1
_AFFINE = frozenset({"add", "sub", "mul", "div", "neg"})
"""Operators that make an affine expression of literals: as calls they are written as functions."""
REDUCTION = {"add": "sum", "mul": "product", "and": "all", "or": "any"}


def show(program: Program) -> str:
    """The whole program; empty sections are left out, and so are the values of long constants."""
    sections = (
        ("params", [_show_param(p) for p in program.params]),
        ("context", [f"{a} >= 0" for a in program.context]),
        ("checks", [_show_check(c) for c in program.checks]),
        ("messages", [f"{k}: {_line(message)}" for k, message in enumerate(program.messages)]),
        ("tensors", [_show_tensor(t) for t in program.tensors]),
        ("statements", [show_statement(s) for s in program.statements]),
        ("outputs", [f"{o.tensor}: [{_sizes(o.shape)}]" for o in program.outputs]),
    )
    return "\n".join(_lines(program, sections)) + "\n"


def show_statement(statement: Statement) -> str:
    """`S3: y[b, n] = sum over k of x[b, k] * w[k, n]   for b < B, n < 16, k < 499   # origin`."""
    text = f"{statement.name}: {statement.target}[{_affines(statement.index)}] = "
    dtype = statement.value.dtype
    if statement.finish:
        result = re.escape(show_expr(statement.result))
        finish = re.sub(rf"\b{result}", "acc", _show(statement.finish, dtype)[0])
        text += f"{finish} where acc = "
    if statement.reduce:
        names = ", ".join(i.name for i in statement.reduce.iters)
        operator = REDUCTION.get(statement.reduce.op, statement.reduce.op)
        text += f"{operator} over {names} of "
    text += _show(statement.value, dtype)[0]
    for guard in statement.guards:
        text += f" if {'' if guard.holds else 'not '}{show_expr(guard.condition)}"
    if statement.all_iters:
        text += "   for " + ", ".join(_show_iter(i) for i in statement.all_iters)
    if statement.origin:
        text += "   # " + ", ".join(statement.origin)
    return text


def show_expr(expr: Expr) -> str:
    """An expression in infix notation, with the parentheses it needs."""
    return _show(expr, "")[0]


# What both the printer and the parser know of what is not written


def literal_dtype(literal: Const | Index, beside: DType) -> DType:
    """The dtype of a literal beside what has another one, or beside nothing ("")."""
    if isinstance(literal.value, bool):
        return "bool"
    return beside or ("float32" if isinstance(literal.value, float) else "int64")


def dtype_beside(fn: str, args: tuple[Expr, ...]) -> DType:
    """The dtype of literals among the arguments of a call: that of the first one that is none."""
    alike = {"select": args[1:], "demand": ()}.get(fn, args)
    return next((a.dtype for a in alike if not isinstance(a, Const | Index)), "")


def call_dtype(fn: str, args: tuple[Expr, ...]) -> DType:
    """The dtype of a call that is no cast."""
    return "bool" if fn in PREDICATES else args[-1].dtype


def swap_integers(expr: Expr) -> Expr:
    """The expression with integers that are Const as Index, and the other way around."""

    def swapped(node: Expr) -> Expr | None:
        match node:
            case Const(int(value), dtype) if dtype in INTEGER:
                return Index(affine(value), dtype)
            case Index(Affine((), value), dtype) if dtype in INTEGER:
                return Const(value, dtype)
            case _:
                return None

    return rewrite(expr, swapped)


# Lines


def _lines(program: Program, sections: tuple[tuple[str, list[str]], ...]) -> Iterator[str]:
    yield f"program {program.name}({', '.join(program.inputs)})"
    for title, lines in sections:
        if lines:
            yield f"{title}:"
            yield from (f"  {line}" for line in lines)


def _line(message: str) -> str:
    return message.encode("unicode_escape").decode()


def _show_param(param: Param) -> str:
    text = _show_size(param.value)
    if param.exit:
        text = f"first {param.exit.index[0]} without {show_expr(param.exit)}, at most {text}"
    return f"{param.name} = {text}   # >= {param.minimum}, hint {param.hint}"


def _show_tensor(tensor: Tensor) -> str:
    text = f"{tensor.role} {tensor.name}[{_affines(tensor.shape)}]: {tensor.dtype}"
    match tensor.layout:
        case Panels(axis):
            text += f" in panels along {axis}"
        case Tiles(axis, size):
            text += f" in tiles of {size} along {axis}"
        case None:
            pass
    if tensor.value is not None and tensor.value.size <= SHORT:
        text += f" = [{', '.join(str(e) for e in tensor.value.flat)}]"
    return text


def _show_iter(it: Iter) -> str:
    later = f", {it.shift} later" if it.shift is not None else ""
    return f"{it.name} < {it.extent}" + (f" in order{later}" if it.loop else "")


def _affines(index: tuple[Affine, ...]) -> str:
    return ", ".join(str(i) for i in index)


def _sizes(shape: tuple[Expr, ...]) -> str:
    return ", ".join(_show_size(e) for e in shape)


def _show_check(check: Check) -> str:
    end = ", else TensorFlow" if check.narrow else ""
    return f"{_show_size(check.condition)}{end}   # {_line(check.message)}"


def _show_size(expr: Expr) -> str:
    return show_expr(swap_integers(expr))


# Expressions


def _show(expr: Expr, beside: DType) -> tuple[str, int]:
    """Text and binding strength of its outermost operator; literals are beside a dtype."""
    text, strength, dtype = _untyped(expr, beside)
    if expr.dtype == dtype:
        return text, strength
    return f"{text if strength == _ATOM else f'({text})'}:{expr.dtype}", _ATOM


def _untyped(expr: Expr, beside: DType) -> tuple[str, int, DType]:
    """Text and strength, and the dtype that goes without saying."""
    match expr:
        case Const(value, dtype):
            return _number(value, dtype), _ATOM, literal_dtype(expr, beside)
        case Index(value, _):
            text = f"({value})" if value.is_const else str(value)
            return text, _affine_strength(value), literal_dtype(expr, beside)
        case Dim(tensor, axis, _):
            return f"dim({tensor}, {axis})", _ATOM, "int64"
        case Load(tensor, index, dtype):
            inner = ", ".join(str(i) if isinstance(i, Affine) else show_expr(i) for i in index)
            return f"{tensor}[{inner}]", _ATOM, dtype
        case Call():
            return _call(expr)


def _number(value: float, dtype: DType) -> str:
    if dtype == "bool":
        return str(bool(value))
    return str(float(value) if is_float(dtype) else int(value))


def _call(call: Call) -> tuple[str, int, DType]:
    fn, args = call.fn, call.args
    beside, dtype = dtype_beside(fn, args), call_dtype(fn, args)
    affine = fn in _AFFINE and all(isinstance(a, Const | Index) for a in args)
    if fn in INFIX and len(args) == 2 and not affine:
        operator, strength = INFIX[fn]
        # Comparisons do not chain: both operands must bind tighter.
        left = _wrapped(args[0], strength + (strength == COMPARISON), beside)
        return f"{left} {operator} {_wrapped(args[1], strength + 1, beside)}", strength, dtype
    if fn in _PREFIX and len(args) == 1 and not affine:
        operator, strength = _PREFIX[fn]
        return operator + _wrapped(args[0], _ATOM, beside), strength, dtype
    name, dtype = (call.dtype, call.dtype) if fn == "cast" else (fn, dtype)
    return f"{name}({', '.join(_show(a, beside)[0] for a in args)})", _ATOM, dtype


def _wrapped(expr: Expr, strength: int, beside: DType) -> str:
    text, own = _show(expr, beside)
    return text if own >= strength else f"({text})"


def _affine_strength(value: Affine) -> int:
    if len(value.terms) + (value.const != 0) > 1:
        return INFIX["add"][1]
    if value.terms:
        return _ATOM if value.terms[0][1] == 1 else INFIX["mul"][1]
    return _ATOM
