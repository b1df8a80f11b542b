# SPDX-License-Identifier: Apache-2.0
"""Programs are read back from their texts."""

import re
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sirius_tf.compile import laid_out
from sirius_tf.errors import SiriusError
from sirius_tf.ir import files
from sirius_tf.ir.affine import affine
from sirius_tf.ir.expr import Call, Const, Dim, Index, Load, call, index
from sirius_tf.ir.functions import FUNCTIONS
from sirius_tf.ir.parser import parse
from sirius_tf.ir.printer import show
from sirius_tf.ir.program import UNLIMITED, Check, Guard, Iter, Param, Reduce
from tests.support import programs
from tests.support.programs import B, F, T, b, copy, dense, ge, i, it, load, lstm, stmt, t, tensor

pytestmark = pytest.mark.ir

ALL = [programs.dense, programs.softmax, programs.lstm, programs.gather, programs.copy]


def agrees(program):
    """Whether the program, values aside, is what its text says; and so is the text."""
    found = parse(show(program))
    assert found == program
    assert show(found) == show(program)
    return found


@pytest.mark.parametrize("make", ALL)
def test_programs_and_what_is_scheduled_of_them(make):
    agrees(make())
    agrees(laid_out(make())[0])


def controlled():
    """A loop that data ends, with branches, wavefronts, and an assertion."""
    go, p = load("go", t, dtype="bool"), load("p", t, dtype="bool")
    trips = Param("X", Const(UNLIMITED, "int64"), 0, 3, go)
    base = copy(
        params=[programs.param("B", "x", 0), Param("n", Const(7, "int32"), -2, 5), trips],
        tensors=[tensor("go", [T], "bool"), tensor("p", [T], "bool"), tensor("acc", [T, B])],
        checks=[
            Check(ge("B", 2), "node (Op): too\nfew   # rows\\n"),
            Check(ge("B", -1), "", narrow=True),
        ],
        context=[2 * B + (B + 1) // 2 - 3],
    )
    loop = Iter("t", affine(T), True, 0)
    later = replace(loop, shift=-2)
    ok = Call("demand", (load("go", t, dtype="bool"), Const(1, "int64")), "bool")
    return replace(
        base,
        messages=("äé\u2028: x", "   # y"),
        statements=(
            *base.statements,
            stmt("S1", [loop, it("b", B)], "acc", [t, b], Const(1.0, F), Reduce("max", ())),
            replace(
                stmt("S2", [later], "p", [t], ok, origin=("a/b", "c")),
                guards=(Guard(go), Guard(p, False)),
            ),
        ),
    )


def test_control_and_messages():
    program = agrees(controlled())
    assert "X = first t without go[t], at most (2147483648)   # >= 0, hint 3" in show(program)
    assert " if go[t] if not p[t]   for t < T in order, -2 later   # a/b, c" in show(program)


def test_epilogue():
    program = dense()
    s = program.statements[0]
    finish = call("max", call("add", s.result, load("c", programs.symbol("n"))), Const(0.0, F))
    finished = replace(s, finish=finish)
    c = tensor("c", [16], role="constant", value=np.zeros(16, F))
    text = show(agrees(replace(program, tensors=(*program.tensors, c), statements=(finished,))))
    assert "y[b, n] = max(acc + c[n], 0.0) where acc = sum over k of x[b, k] * w[k, n]" in text


def test_values(tmp_path):
    """Short ones are part of the text; long ones lie beside it, those of bfloat16 too."""
    short = np.array([0.1, -np.inf, np.nan], F)
    long = np.arange(12).astype(ml_dtypes.bfloat16)
    tensors = [
        tensor("s", [3], role="constant", value=short),
        tensor("k", [], "bool", "constant", np.array(True)),
        tensor("h", [12], "bfloat16", "constant", long),
    ]
    files.write(copy(tensors=tensors), tmp_path / "copy.txt")
    assert "  constant s[3]: float32 = [0.1, -inf, nan]\n" in (tmp_path / "copy.txt").read_text()
    found = files.read(tmp_path / "copy.txt").tensor
    np.testing.assert_array_equal(found["s"].value, short)
    np.testing.assert_array_equal(found["h"].value, long)
    assert found["k"].value == np.array(True) and found["k"].value.dtype == np.bool_
    (tmp_path / "copy.npz").unlink()
    assert files.read(tmp_path / "copy.txt").tensor["h"].value is None


DTYPES = ("float32", "float64", "int32", "int64", "bool", "bfloat16")
NUMBERS = {"f": st.floats(), "b": st.booleans()}
AFFINES = st.builds(
    lambda c, d, e, f: c * b + ((d * i + e) // f) * d + e,
    *[st.integers(-3, 3)] * 3,
    st.integers(1, 4),
)


def _literals(dtype):
    kind = "f" if "float" in dtype else dtype[0]
    return st.builds(Const, NUMBERS.get(kind, st.integers(-9, 9)), st.just(dtype))


LEAVES = st.one_of(
    st.sampled_from(DTYPES).flatmap(_literals),
    st.builds(Index, AFFINES, st.sampled_from(("int32", "int64", "float32"))),
    st.sampled_from([load(f"of_{d}", b, dtype=d) for d in DTYPES]),
    st.sampled_from([Dim("x", 1), Dim("x", 0, "int32")]),
)


def _calls(expressions):
    plain = st.sampled_from(sorted(FUNCTIONS)).flatmap(
        lambda fn: st.builds(
            lambda args, dtype: Call(fn, tuple(args), dtype),
            st.lists(expressions, min_size=FUNCTIONS[fn].arity, max_size=FUNCTIONS[fn].arity),
            st.sampled_from(DTYPES),
        )
    )
    at = st.builds(lambda e: Call("bounded", (e, Const(3, "int32")), e.dtype), expressions)
    element = st.builds(lambda a, e: Load("of_2", (a, e), F), AFFINES, at)
    return st.one_of(plain, element)


@given(st.recursive(LEAVES, _calls, max_leaves=12))
def test_any_expression(expr):
    """Dtypes that do not follow from others are written, and parentheses where they are needed."""
    tensors = [tensor(f"of_{d}", [B], d, "input") for d in DTYPES]
    tensors.append(tensor("of_2", [B, B], F, "input"))
    target = tensor("z", [B], expr.dtype)
    agrees(
        copy(
            tensors=[*tensors, target],
            statements=[stmt("Z", [it("b", B), it("i", 9)], "z", [b], expr)],
            checks=[Check(expr, "")],
        )
    )


def test_integers_in_sizes_are_affine():
    text = show(dense())
    assert parse(text).outputs[0].shape == (index(B), index(16))
    assert parse(text.replace("[B, 16]\n", "[B, (16)]\n")).outputs[0].shape[1] == Const(16, "int64")


@pytest.mark.parametrize("name", ["12", "where", "acc", "over", "if", "for"])
def test_any_name(name):
    """TensorFlow may call a node so."""
    renamed = re.sub(r"\bx\b", name, show(copy()))
    assert parse(renamed).statements[0].value == load(name, b)


BROKEN = {
    "h[T, b, i]": ("q[T, b, i]", r"line 14: 'q' is not known, before '\[ T , b"),
    "for b < B, i < 3": ("for b < B, i 3", r"line 14: '<' is missing, before '3' in"),
    "y[b, i] =": ("y[b, i * b] =", "line 14: this is not affine"),
    "temp z": ("tmp z", "line 9: tmp is none of input, constant, temp, output"),
    "sigmoid(": ("swish(", "line 15: .*swish.* is not known"),
    "tanh(c[t + 1, b, i])": ("tanh(c[t + 1, b, i]) 2", "line 15: there is more, before '2"),
    "+ hu[t, b, i]": ("+ )", r"line 17: an operand is missing, before '\)"),
    "program lstm": ("lstm", "begins with: program NAME"),
}


@pytest.mark.parametrize("part", BROKEN)
def test_errors_say_where(part):
    wrong, message = BROKEN[part]
    with pytest.raises(SiriusError, match=message):
        parse(show(lstm()).replace(part, wrong, 1))
