# SPDX-License-Identifier: Apache-2.0
"""The text of a Program."""

import pytest

from sirius_tf.ir.affine import affine
from sirius_tf.ir.expr import Call, Const, Index, index
from sirius_tf.ir.printer import show, show_expr, show_statement
from sirius_tf.ir.program import Check
from tests.support.programs import F, b, call, copy, dense, ge, i, it, load, lstm, stmt

pytestmark = pytest.mark.ir

DENSE = """\
program dense(x)
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
less, p = call("lt", x, y, dtype="bool"), load("p", dtype="bool")
one, n = Const(1, "int32"), load("n", dtype="int32")
CASES = {
    "(x[] + y[]) * z[]": call("mul", call("add", x, y), z),
    "x[] + y[] * z[]": call("add", x, call("mul", y, z)),
    "x[] - y[] - z[]": call("sub", call("sub", x, y), z),
    "x[] - (y[] - z[])": call("sub", x, call("sub", y, z)),
    "x[] / (y[] * z[])": call("div", x, call("mul", y, z)),
    "-(x[] + y[])": call("neg", call("add", x, y)),
    "neg(-1.0)": call("neg", Const(-1.0, F)),
    "x[] < y[] and not (x[] == y[])": call(
        "and", less, call("not", call("eq", x, y, dtype="bool"), dtype="bool"), dtype="bool"
    ),
    "(x[] < y[]) == p[]": call("eq", less, p, dtype="bool"),
    "select(x[] < y[], exp(x[]), 0.0)": call("select", less, call("exp", x), Const(0.0, F)),
    "int32(z[]) * 1": Call("mul", (Call("cast", (z,), "int32"), one), "int32"),
    "n[] + b": Call("add", (n, Index(b, "int32")), "int32"),
    "select(p[], b:int32, 1:int32)": Call("select", (p, Index(b, "int32"), one), "int32"),
    "exp(0.5:float64)": Call("exp", (Const(0.5, "float64"),), "float64"),
    "(x[] * y[]):float64": Call("mul", (x, y), "float64"),
    "n[] - (1)": Call("sub", (n, Index(affine(1), "int32")), "int32"),
    "mul(b + 1, 2)": call("mul", index(b + 1), Const(2, "int64"), dtype="int64"),
    "add(2*b, 3)": call("add", Index(2 * b, "int64"), Const(3, "int64"), dtype="int64"),
    "t[bounded(n[], 4), i]": load("t", call("bounded", n, Const(4, "int32"), dtype="int32"), i),
    "floor((b)/2) // 3": call("floordiv", index(b // 2), Const(3, "int64"), dtype="int64"),
}


@pytest.mark.parametrize("text", CASES)
def test_expressions(text):
    assert show_expr(CASES[text]) == text


def test_iterators_of_a_statement():
    s = stmt("S", [it("b", 3)], "y", [b], x, origin=("p", "q"))
    assert show_statement(s) == "S: y[b] = x[]   for b < 3   # p, q"
