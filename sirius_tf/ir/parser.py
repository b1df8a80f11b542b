# SPDX-License-Identifier: Apache-2.0
"""Reads what `printer.show` prints: `parse(show(program)) == program`, if the program verifies.

By recursive descent, a line at a time. Expressions are typed as they are read: a literal has the
dtype "" until the call is complete that it is an argument of (see printer.py). Sums and products of
literals are affine expressions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar, get_args

import numpy as np

from sirius_tf.errors import SiriusError
from sirius_tf.ir import printer
from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.dtypes import numpy_dtype
from sirius_tf.ir.expr import Call, Const, Dim, DType, Expr, Index, Load
from sirius_tf.ir.functions import FUNCTIONS, Array
from sirius_tf.ir.program import (
    Check,
    Guard,
    Iter,
    Output,
    Panels,
    Param,
    Program,
    Reduce,
    ReduceOp,
    Role,
    Statement,
    Tensor,
    Tiles,
)

T = TypeVar("T")
Rule = Callable[["_Line"], T]

_NOTE = "   # "
_NUMBER = re.compile(r"\d+(\.\d*)?(e[+-]?\d+)?")
_TOKEN = re.compile(rf"{_NUMBER.pattern}(?!\w)|\w+|//|[=!<>]=|\S")
_DTYPE = re.compile(r"bool|(u?int|b?float)\d+")
_WORDS = {"inf": float("inf"), "nan": float("nan"), "True": True, "False": False}
_OPERATORS = {operator: (fn, strength) for fn, (operator, strength) in printer.INFIX.items()}
_SUM = _OPERATORS["+"][1]
_REDUCTION: dict[str, Any] = {op: op for op in get_args(ReduceOp)} | {
    word: op for op, word in printer.REDUCTION.items()
}


def parse(text: str, values: Mapping[str, Array] | None = None) -> Program:
    """The program of a text; `values` has those of constants that are too long for a text.

    SiriusError says which line is wrong.
    """
    title, sections = "", dict[str, list[tuple[int, str]]]()
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("program "):
            sections["program"] = [(number, line.removeprefix("program "))]
        elif line.startswith("  "):
            sections.setdefault(title, []).append((number, line[2:]))
        else:
            title = line.removesuffix(":")

    def read(title: str, rule: Rule[T], dtypes: Mapping[str, DType]) -> tuple[T, ...]:
        return tuple(_Line(n, line, dtypes).all(rule) for n, line in sections.get(title, ()))

    tensors = read("tensors", lambda line: line.tensor(values or {}), {})
    dtypes = {t.name: t.dtype for t in tensors}
    heads = read("program", _Line.signature, {})
    if len(heads) != 1:
        raise SiriusError("the text of a program begins with: program NAME(INPUT, ...)")
    name, inputs = heads[0]
    return Program(
        name,
        read("params", _Line.param, dtypes),
        read("checks", _Line.check, dtypes),
        read("context", _Line.nonnegative, dtypes),
        tensors,
        read("statements", _Line.statement, dtypes),
        inputs,
        read("outputs", _Line.output, dtypes),
        read("messages", _Line.message, dtypes),
    )


def parse_affine(text: str) -> Affine:
    """The affine expression of a text."""
    return _Line(1, text, {}).all(_Line.affine)


class _Line:
    """A line on its way: tokens, of which `at` are read, and what is noted behind them."""

    def __init__(self, number: int, text: str, dtypes: Mapping[str, DType]) -> None:
        code, _, self.note = text.partition(_NOTE)
        self.place, self.text, self.dtypes = number, text, dtypes
        self.tokens = [match.group() for match in _TOKEN.finditer(code)]
        self.at = 0
        self.acc: Load | None = None

    def all(self, rule: Rule[T]) -> T:
        """Parse the whole line by a rule and return its result; SiriusError, with the line, if it
        does not fit."""
        try:
            made = rule(self)
        except KeyError as error:
            raise self.error(f"{error} is not known") from None
        except ValueError as error:
            raise self.error(str(error)) from None
        if self.peek():
            raise self.error("there is more")
        return made

    def error(self, problem: str) -> SiriusError:
        rest = " ".join(self.tokens[self.at :])
        return SiriusError(f"line {self.place}: {problem}, before '{rest}' in\n  {self.text}")

    # Tokens

    def peek(self, ahead: int = 0) -> str:
        """A token that comes; "" behind the last one."""
        return next(iter(self.tokens[self.at + ahead :]), "")

    def next(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1] if self.at <= len(self.tokens) else ""

    def accept(self, *tokens: str) -> bool:
        """Whether these come, which are then read."""
        found = self.tokens[self.at : self.at + len(tokens)] == list(tokens)
        self.at += len(tokens) if found else 0
        return found

    def expect(self, *tokens: str) -> None:
        if not self.accept(*tokens):
            raise self.error(f"'{' '.join(tokens)}' is missing")

    def items(self, item: Callable[[], T]) -> tuple[T, ...]:
        """One item or more, with commas between them."""
        found = [item()]
        while self.accept(","):
            found.append(item())
        return tuple(found)

    def enclosed(self, item: Callable[[], T], end: str) -> tuple[T, ...]:
        """Items, if any, and what ends them."""
        if self.accept(end):
            return ()
        found = self.items(item)
        self.expect(end)
        return found

    # Lines

    def signature(self) -> tuple[str, tuple[str, ...]]:
        name = self.next()
        self.expect("(")
        return name, self.enclosed(self.next, ")")

    def param(self) -> Param:
        name, go = self.next(), None
        self.expect("=")
        if self.accept("first"):
            self.affine()
            self.expect("without")
            go = self.load()
            self.expect(",", "at", "most")
        value = self.size()
        minimum, hint = re.findall(r"-?\d+", self.note)
        return Param(name, value, int(minimum), int(hint), go)

    def nonnegative(self) -> Affine:
        value = self.affine()
        self.expect(">=", "0")
        return value

    def check(self) -> Check:
        condition = self.size()
        return Check(condition, _message(self.note), self.accept(",", "else", "TensorFlow"))

    def message(self) -> str:
        self.at = len(self.tokens)
        return _message(self.text.partition(": ")[2])

    def tensor(self, values: Mapping[str, Array]) -> Tensor:
        role, name = self.next(), self.next()
        if role not in get_args(Role):
            raise self.error(f"{role} is none of {', '.join(get_args(Role))}")
        self.expect("[")
        shape = self.enclosed(self.affine, "]")
        self.expect(":")
        dtype, value = self.next(), values.get(name)
        layout = self.layout()
        if self.accept("=", "["):
            elements = self.enclosed(self.number, "]")
            value = np.array(elements, numpy_dtype(dtype)).reshape([e.const for e in shape])
        elif value is not None and value.dtype.kind == "V":  # a file does not know bfloat16
            value = value.view(numpy_dtype(dtype))
        return Tensor(name, shape, dtype, role, value, layout)  # type: ignore[arg-type]

    def layout(self) -> Panels | Tiles | None:
        if self.accept("in", "panels", "along"):
            return Panels(int(self.next()))
        if not self.accept("in", "tiles", "of"):
            return None
        size = int(self.next())
        self.expect("along")
        return Tiles(int(self.next()), size)

    def output(self) -> Output:
        name = self.next()
        self.expect(":", "[")
        return Output(name, self.enclosed(self.size, "]"))

    def statement(self) -> Statement:
        name = self.next()
        self.expect(":")
        target = self.next()
        self.expect("[")
        index, dtype = self.enclosed(self.affine, "]"), self.dtypes[target]
        self.expect("=")
        finish, op, reduced = None, None, list[str]()
        if re.search(r"\bwhere acc = ", self.text):  # a tensor may be called so
            self.acc = Load(target, index, dtype)
            finish, self.acc = _typed(self.expression(), dtype), None
            self.expect("where", "acc", "=")
        if self.peek(1) == "over":
            op = _REDUCTION[self.next()]
            self.expect("over")
            reduced.extend(self.enclosed(self.next, "of"))
        value, guards = _typed(self.expression(), dtype), list[Guard]()
        while self.accept("if"):
            holds = not self.accept("not")
            guards.append(Guard(self.load(), holds))
        iters = self.items(self.iterator) if self.accept("for") else ()
        free = len(iters) - len(reduced)
        reduce = Reduce(op, iters[free:]) if op else None
        origin = tuple(self.note.split(", ")) if self.note else ()
        return Statement(
            name, iters[:free], target, index, value, reduce, origin, tuple(guards), finish
        )

    def iterator(self) -> Iter:
        name = self.next()
        self.expect("<")
        extent, shift = self.affine(), None
        loop = self.accept("in", "order")
        if self.peek(2) == "later" or self.peek(3) == "later":  # the number may be negative
            self.expect(",")
            shift = int(self.number())
            self.expect("later")
        return Iter(name, extent, loop, shift)

    # Expressions

    def size(self) -> Expr:
        """An expression that is evaluated on entry."""
        return printer.swap_integers(_typed(self.expression(), ""))

    def affine(self) -> Affine:
        found = self.expression(_SUM)
        if not _is_affine(found):
            raise self.error("this is not affine")
        return _affine(found)

    def number(self) -> float:
        if self.accept("-"):
            return -self.number()
        token = self.next()
        if token in _WORDS:
            return _WORDS[token]
        return int(token) if token.isdigit() else float(token)

    def expression(self, least: int = 0) -> Expr:
        """Parse operands joined by operators that bind at least as strongly as `least`."""
        found = self.operand()
        while (operator := _OPERATORS.get(self.peek(), ("", -1)))[1] >= least:
            self.next()
            found = _operation(operator[0], found, self.expression(operator[1] + 1))
        return found

    def operand(self) -> Expr:
        found = self.untyped()
        return replace(found, dtype=self.next()) if self.accept(":") else found

    def untyped(self) -> Expr:
        """An operand, without the dtype that may be written behind it."""
        if self.accept("("):
            inner = self.expression()
            self.expect(")")
            return Index(_affine(inner), "") if _is_affine(inner) else inner
        if self.accept("-"):
            return _negative(self.operand())
        if self.accept("not"):
            return _call("not", (self.operand(),))
        token = self.peek()
        if self.peek(1) == "[":
            return self.load()
        if self.peek(1) == "(":
            return self.call()
        if token in _WORDS or _NUMBER.fullmatch(token):
            return Const(self.number(), "")
        if not token.isidentifier():
            raise self.error("an operand is missing")
        self.next()
        return self.acc if token == "acc" and self.acc else Index(symbol(token), "")

    def load(self) -> Load:
        tensor = self.next()
        dtype = self.dtypes[tensor]
        self.expect("[")
        return Load(tensor, self.enclosed(self.subscript, "]"), dtype)

    def subscript(self) -> Affine | Expr:
        found = self.expression()
        return _affine(found) if _is_affine(found) else found

    def call(self) -> Expr:
        name = self.next()
        if self.accept("(") and name == "dim":
            tensor, axis = self.enclosed(self.next, ")")
            return Dim(tensor, int(axis))
        args = self.enclosed(self.expression, ")")
        match args:
            case (Call("div", (Index(value), Const(int(divisor))), ""),) if name == "floor":
                return Index(value // divisor, "")
            case _:
                return _call(name, args)


def _message(text: str) -> str:
    return text.encode().decode("unicode_escape")


def _is_affine(expr: Expr) -> bool:
    """Whether it is an integer, or an affine expression, whose dtype is not known yet."""
    match expr:
        case Index(_, "") | Const(int(), ""):
            return not isinstance(expr.value, bool)
        case _:
            return False


def _affine(expr: Expr) -> Affine:
    assert isinstance(expr, Const | Index)
    return affine(expr.value)  # type: ignore[arg-type]


def _typed(expr: Expr, beside: DType) -> Expr:
    """The expression, with a dtype if it is a literal that has none."""
    if isinstance(expr, Const | Index) and not expr.dtype:
        return replace(expr, dtype=printer.literal_dtype(expr, beside))
    return expr


def _negative(expr: Expr) -> Expr:
    match expr:
        case Const(value, dtype):
            return Const(-value, dtype)
        case Index(value, ""):
            return Index(-value, "")
        case _:
            return _call("neg", (expr,))


def _operation(fn: str, left: Expr, right: Expr) -> Expr:
    """An affine expression of such ones; a quotient is for `floor` to complete."""
    if not (_is_affine(left) and _is_affine(right)):
        return _call(fn, (left, right))
    a, b = _affine(left), _affine(right)
    match fn:
        case "add":
            return Index(a + b, "")
        case "sub":
            return Index(a - b, "")
        case "mul" if a.is_const:
            return Index(b * a.const, "")
        case "div" if b.is_const:
            return Call(fn, (Index(a, ""), Const(b.const, "")), "")
        case _:
            return _call(fn, (left, right))


def _call(name: str, args: tuple[Expr, ...]) -> Call:
    """A call whose literals get the dtype of what is beside them; a dtype is a cast."""
    beside = printer.dtype_beside(name, args)
    args = tuple(_typed(a, beside) for a in args)
    if name in FUNCTIONS:
        return Call(name, args, printer.call_dtype(name, args))
    if not _DTYPE.fullmatch(name):
        raise KeyError(name)
    return Call("cast", args, name)
