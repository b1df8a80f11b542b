# SPDX-License-Identifier: Apache-2.0
"""The text of a Program."""

import pytest

from sirius_tf.ir.expr import Call, Const, Index, index
from sirius_tf.ir.printer import show, show_expr, show_statement
from sirius_tf.ir.program import Check
from tests.programs import F, b, call, copy, dense, ge, i, it, load, lstm, stmt

DENSE = """\
program dense
params:
  B = dim(x, 0)   # >= 1, hint 8
context:
  B - 1 >= 0
tensors:
  input x[B, 499]: float32
  constant w[499, 16]: float32
  output y[B, 16]: float32
statements:
  S3: y[b, n] = sum over k of x[b, k] * w[k, n]   for b < B, n < 16, k < 499   # dense/MatMul
outputs:
  y: [B, 16]
"""


def test_program():
    assert show(dense()) == DENSE


def test_loop_and_check():
    text = show(lstm())
    assert (
        "  z: z[t, b, i] = x[t, b, i] + hu[t, b, i]   for t < T in order, b < B, i < 12\n" in text
    )
    text = show(copy(checks=[Check(ge("B", 2), "too few rows")]))
    assert "checks:\n  B >= 2   # too few rows\n" in text


def test_statement_without_iterators():
    assert show_statement(stmt("S", [], "y", [], Const(1.5, F))) == "S: y[] = 1.5"


x, y, z = load("x"), load("y"), load("z")
CASES = {
    "(x[] + y[]) * z[]": call("mul", call("add", x, y), z),
    "x[] + y[] * z[]": call("add", x, call("mul", y, z)),
    "x[] - y[] - z[]": call("sub", call("sub", x, y), z),
    "x[] - (y[] - z[])": call("sub", x, call("sub", y, z)),
    "x[] / (y[] * z[])": call("div", x, call("mul", y, z)),
    "-(x[] + y[])": call("neg", call("add", x, y)),
    "-(-1.0)": call("neg", Const(-1.0, F)),
    "x[] < y[] and not (x[] == y[])": call("and", call("lt", x, y), call("not", call("eq", x, y))),
    "(x[] < y[]) == z[]": call("eq", call("lt", x, y), z),
    "select(x[] > y[], exp(x[]), int32(z[]))": call(
        "select", call("gt", x, y), call("exp", x), Call("cast", (z,), "int32")
    ),
    "(b + 1) * 2": call("mul", index(b + 1), Const(2, "int64")),
    "2*b + 3": call("add", Index(2 * b, "int64"), Const(3, "int64")),
    "t[bounded(ids[b], 4), i]": load("t", call("bounded", load("ids", b), Const(4, "int32")), i),
    "floor((b)/2) // 3": call("floordiv", index(b // 2), Const(3, "int64")),
}


@pytest.mark.parametrize("text", CASES)
def test_expressions(text):
    assert show_expr(CASES[text]) == text


def test_iterators_of_a_statement():
    s = stmt("S", [it("b", 3)], "y", [b], x, origin=("p", "q"))
    assert show_statement(s) == "S: y[b] = x[]   for b < 3   # p, q"
