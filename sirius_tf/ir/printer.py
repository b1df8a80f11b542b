# SPDX-License-Identifier: Apache-2.0
"""A Program as text for people: recurrence equations, one a line."""

from __future__ import annotations

from collections.abc import Iterator

from sirius_tf.ir.affine import Affine
from sirius_tf.ir.expr import Call, Const, Dim, Expr, Index, Load
from sirius_tf.ir.program import Iter, Param, Program, Statement, Tensor

# Symbol and binding strength; every operator associates to the left.
_INFIX = {
    "or": ("or", 1),
    "and": ("and", 2),
    "eq": ("==", 3),
    "ne": ("!=", 3),
    "lt": ("<", 3),
    "le": ("<=", 3),
    "gt": (">", 3),
    "ge": (">=", 3),
    "add": ("+", 4),
    "sub": ("-", 4),
    "mul": ("*", 5),
    "div": ("/", 5),
    "floordiv": ("//", 5),
    "floormod": ("%", 5),
}
_PREFIX = {"neg": "-", "not": "not "}
_UNARY = 6
_ATOM = 7
_REDUCTION = {"add": "sum", "mul": "product", "and": "all", "or": "any"}


def show(program: Program) -> str:
    """The whole program; empty sections are left out."""
    sections = (
        ("params", [_show_param(p) for p in program.params]),
        ("context", [f"{a} >= 0" for a in program.context]),
        ("checks", [f"{show_expr(c.condition)}   # {c.message}" for c in program.checks]),
        ("messages", [f"{k}: {message}" for k, message in enumerate(program.messages)]),
        ("tensors", [_show_tensor(t) for t in program.tensors]),
        ("statements", [show_statement(s) for s in program.statements]),
        ("outputs", [f"{o.tensor}: {_tuple(o.shape)}" for o in program.outputs]),
    )
    return "\n".join(_lines(program.name, sections)) + "\n"


def show_statement(statement: Statement) -> str:
    """`S3: y[b, n] = sum over k of x[b, k] * w[k, n]   for b < B, n < 16, k < 499   # origin`."""
    element = f"{statement.target}[{_affines(statement.index)}] = "
    text = f"{statement.name}: {element}"
    if statement.finish:
        text += f"{show_expr(statement.finish)}, {element}"
    if statement.reduce:
        names = ", ".join(i.name for i in statement.reduce.iters)
        operator = _REDUCTION.get(statement.reduce.op, statement.reduce.op)
        text += f"{operator} over {names} of "
    text += show_expr(statement.value)
    for guard in statement.guards:
        text += f" if {'' if guard.holds else 'not '}{show_expr(guard.condition)}"
    if statement.all_iters:
        text += "   for " + ", ".join(_show_iter(i) for i in statement.all_iters)
    if statement.origin:
        text += "   # " + ", ".join(statement.origin)
    return text


def show_expr(expr: Expr) -> str:
    """An expression in infix notation, with the parentheses it needs."""
    return _show(expr)[0]


def _lines(name: str, sections: tuple[tuple[str, list[str]], ...]) -> Iterator[str]:
    yield f"program {name}"
    for title, lines in sections:
        if lines:
            yield f"{title}:"
            yield from (f"  {line}" for line in lines)


def _show_param(param: Param) -> str:
    if param.exit:
        text = f"first {param.exit.index[0]} without {show_expr(param.exit)}, "
        text += f"at most {show_expr(param.value)}"
    else:
        text = show_expr(param.value)
    return f"{param.name} = {text}   # >= {param.minimum}, hint {param.hint}"


def _show_tensor(tensor: Tensor) -> str:
    return f"{tensor.role} {tensor.name}[{_affines(tensor.shape)}]: {tensor.dtype}"


def _show_iter(it: Iter) -> str:
    later = f", {it.shift} later" if it.shift else ""
    return f"{it.name} < {it.extent}" + (f" in order{later}" if it.loop else "")


def _affines(index: tuple[Affine, ...]) -> str:
    return ", ".join(str(i) for i in index)


def _tuple(shape: tuple[Expr, ...]) -> str:
    return "[" + ", ".join(show_expr(e) for e in shape) + "]"


def _show(expr: Expr) -> tuple[str, int]:
    """Text and binding strength of its outermost operator."""
    match expr:
        case Const(value, _):
            text = str(value)
            return text, _UNARY if text.startswith("-") else _ATOM
        case Index(value, _):
            return str(value), _affine_strength(value)
        case Dim(tensor, axis, _):
            return f"dim({tensor}, {axis})", _ATOM
        case Load(tensor, index, _):
            inner = ", ".join(str(i) if isinstance(i, Affine) else show_expr(i) for i in index)
            return f"{tensor}[{inner}]", _ATOM
        case Call():
            return _show_call(expr)


def _show_call(call: Call) -> tuple[str, int]:
    if call.fn in _INFIX and len(call.args) == 2:
        operator, strength = _INFIX[call.fn]
        # Comparisons do not chain: both operands must bind tighter.
        left = _wrapped(call.args[0], strength + 1 if strength == 3 else strength)
        return f"{left} {operator} {_wrapped(call.args[1], strength + 1)}", strength
    if call.fn in _PREFIX and len(call.args) == 1:
        return _PREFIX[call.fn] + _wrapped(call.args[0], _ATOM), _UNARY
    name = call.dtype if call.fn == "cast" else call.fn
    return f"{name}({', '.join(show_expr(a) for a in call.args)})", _ATOM


def _wrapped(expr: Expr, strength: int) -> str:
    text, own = _show(expr)
    return text if own >= strength else f"({text})"


def _affine_strength(value: Affine) -> int:
    if len(value.terms) + (value.const != 0) > 1:
        return _INFIX["add"][1]
    if value.terms:
        coefficient = value.terms[0][1]
        return _ATOM if coefficient == 1 else _INFIX["mul"][1]
    return _ATOM if value.const >= 0 else _UNARY
