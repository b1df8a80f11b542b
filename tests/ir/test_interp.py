# SPDX-License-Identifier: Apache-2.0
"""The interpreter against plain numpy."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sirius_tf.errors import InvalidArgument, Unsupported, VerifyError
from sirius_tf.ir import interp
from sirius_tf.ir.affine import symbol
from sirius_tf.ir.expr import Const, Index
from sirius_tf.ir.functions import FUNCTIONS, is_generated
from sirius_tf.ir.interp import run
from sirius_tf.ir.order import interval
from sirius_tf.ir.program import Check, Reduce
from sirius_tf.ir.scc import strongly_connected
from sirius_tf.ir.verify import verify
from tests.support.programs import (
    B,
    T,
    b,
    call,
    copy,
    dense,
    gather,
    ge,
    i,
    it,
    j,
    k,
    load,
    lstm,
    param,
    program,
    softmax,
    stmt,
    t,
    tensor,
)
from tests.support.strategies import trees

pytestmark = pytest.mark.ir


def floats(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check_run(p, **inputs):
    verify(p)
    (y,) = run(p, inputs)
    return y


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("chunk", [1 << 24, 1000])
def test_matmul(rows, chunk, monkeypatch):
    monkeypatch.setattr(interp, "CHUNK", chunk)
    p, x = dense(), floats(rows, 499)
    y = check_run(p, x=x)
    assert y.dtype == np.float32
    expected = x.astype(np.float64) @ p.tensor["w"].value
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)


def test_large_domains_are_split(monkeypatch):
    seen = []
    define = interp._Machine.define
    monkeypatch.setattr(interp, "CHUNK", 20)
    monkeypatch.setattr(
        interp._Machine, "define", lambda *args: (seen.append(args[3]), define(*args))
    )
    x = floats(7, 5)
    np.testing.assert_allclose(check_run(softmax(), x=x).sum(1), np.ones(7), rtol=1e-6)
    pieces = [len(ranges["b"]) * len(ranges.get("i", [0])) for ranges in seen]
    assert len(pieces) > 4
    assert max(pieces) <= 20


def test_an_empty_statement_is_no_cycle():
    p = copy(load("y", b))
    assert check_run(p, x=floats(0)).shape == (0,)
    with pytest.raises(VerifyError, match="cycle"):
        run(p, {"x": floats(1)})


@given(trees(), st.tuples(*[st.integers(-6, 6)] * 3), st.tuples(*[st.integers(0, 4)] * 3))
def test_intervals_are_safe(a, lows, widths):
    boxes = {n: (lo, lo + w) for n, lo, w in zip(["i", "j", "N"], lows, widths, strict=True)}
    low, high = interval(a, boxes)
    corners = itertools.product(*(range(lo, hi + 1) for lo, hi in boxes.values()))
    values = [a.evaluate(dict(zip(boxes, point, strict=True))) for point in corners]
    assert low <= min(values) <= max(values) <= high


def test_intervals_are_exact_where_each_name_occurs_once():
    assert interval(b // 2 - 3 * i, {"b": (0, 5), "i": (1, 2)}) == (-6, -1)


def test_constants_can_be_overridden():
    p = dense(4, 2)
    (y,) = run(p, {"x": floats(3, 4)}, {"w": np.zeros((4, 2), np.float32)})
    assert not y.any()


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_softmax(rows):
    x = floats(rows, 5)
    e = np.exp(x - x.max(1, keepdims=True))
    y = check_run(softmax(), x=x)
    assert y.shape == (rows, 5)
    np.testing.assert_allclose(y, e / e.sum(1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("steps", [0, 1, 6])
def test_lstm(steps):
    x, u = floats(steps, 2, 12), floats(3, 12, seed=2)
    h = c = np.zeros((2, 3))
    for step in range(steps):
        gates = np.split(x[step] + h @ u, 4, axis=1)
        s = [1 / (1 + np.exp(-g)) for g in gates[:3]]
        c = s[1] * c + s[0] * np.tanh(gates[3])
        h = s[2] * np.tanh(c)
    np.testing.assert_allclose(check_run(lstm(), x=x, u=u), h, rtol=1e-5, atol=1e-6)


def test_nested_loops():
    """y accumulates row after row, and along each row starts from the sum of the row before."""
    loop, inner = it("t", T, True), it("i", 3, True)
    p = program(
        "nested",
        [param("T", "x", 0)],
        [
            tensor("x", [T, 3], role="input"),
            tensor("a", [T, 4]),
            tensor("s", [T + 1]),
            tensor("y", [], role="output"),
        ],
        [
            stmt("out", [], "y", [], load("s", T)),
            stmt("next", [loop], "s", [t + 1], call("neg", load("a", t, 3))),
            stmt(
                "step",
                [loop, inner],
                "a",
                [t, i + 1],
                call("add", call("mul", load("a", t, i), Const(2.0, "float32")), load("x", t, i)),
            ),
            stmt("begin", [loop], "a", [t, 0], load("s", t)),
            stmt("zero", [], "s", [0], Const(1.0, "float32")),
        ],
        [],
    )
    x = floats(4, 3)
    s = 1.0
    for row in x:
        for value in row:
            s = 2 * s + value
        s = -s
    np.testing.assert_allclose(check_run(p, x=x), s, rtol=1e-5)


def test_gather_and_out_of_range():
    table = floats(4, 2)
    ids = np.array([3, 0, 3], np.int32)
    np.testing.assert_array_equal(check_run(gather(), ids=ids, table=table), table[ids])
    for bad in (4, -1):
        with pytest.raises(InvalidArgument, match=rf"index {bad} is not in \[0, 4\)"):
            run(gather(), {"ids": np.array([1, bad], np.int32), "table": table})


def test_an_output_without_dimensions_is_an_array():
    total = stmt("S", [], "y", [], load("x", k), Reduce("add", (it("k", 3),)))
    tensors = [tensor("x", [3], role="input"), tensor("y", [], role="output")]
    (y,) = run(program("total", [], tensors, [total], []), {"x": floats(3)})
    assert isinstance(y, np.ndarray) and y.shape == ()


@pytest.mark.parametrize(
    ("op", "expected"), [("add", 0), ("mul", 1), ("max", -np.inf), ("min", np.inf)]
)
@pytest.mark.parametrize("product", [False, True])
def test_empty_reduction_is_the_identity(op, expected, product):
    n = symbol("N")
    value = load("x", b, k)
    p = program(
        "empty",
        [param("B", "x", 0), param("N", "x", 1)],
        [tensor("x", [B, n], role="input"), tensor("y", [B], role="output")],
        [
            stmt(
                "S",
                [it("b", B)],
                "y",
                [b],
                call("mul", value, value) if product else value,
                Reduce(op, (it("k", n),)),
            )
        ],
        [B],
    )
    assert check_run(p, x=floats(2, 0)).tolist() == [expected] * 2
    x = floats(2, 3)
    ufunc = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[op]
    expected = ufunc.reduce(x * x if product else x, axis=1)
    np.testing.assert_allclose(check_run(p, x=x), expected, rtol=1e-5)


def test_sum_over_an_iterator_no_factor_uses():
    value = call("mul", load("x", b), load("x", b))
    p = copy(value, reduce=Reduce("add", (it("j", 3), it("k", 2))))
    np.testing.assert_allclose(check_run(p, x=np.float32([1, 2])), [6, 24])


def test_max_propagates_nan():
    p = copy(load("x", j), reduce=Reduce("max", (it("j", B),)))
    assert np.isnan(check_run(p, x=np.float32([1, np.nan]))).all()


def test_concat_reads_its_own_earlier_part():
    """Statements that write disjoint boxes of a tensor are no cycle."""
    parts = [tensor("cat", [6])]
    statements = [
        stmt("second", [it("i", 3)], "cat", [i + 3], call("neg", load("cat", i))),
        stmt("first", [it("i", 3)], "cat", [i], Const(2.0, "float32")),
    ]
    p = copy(load("cat", 5 - b), tensors=parts, statements=statements)
    assert check_run(p, x=floats(4)).tolist() == [-2, -2, -2, 2]


def test_checks_and_parameters():
    p = copy(checks=[Check(ge("B", 2), "node copy: too few rows")])
    assert check_run(p, x=floats(2)).shape == (2,)
    with pytest.raises(InvalidArgument, match="node copy: too few rows"):
        run(p, {"x": floats(1)})


def test_scalar_input_as_parameter():
    count = load("n", dtype="int32")
    p = copy(
        value=Index(symbol("N") + b, "float32"),
        params=[
            param("B", "x", 0),
            dataclasses.replace(param("N", "x", 0), value=call("mul", count, count, dtype="int32")),
        ],
        tensors=[tensor("n", [], "int32", "input")],
    )
    y = check_run(p, x=floats(2), n=np.array(3, np.int32))
    assert y.tolist() == [9, 10]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "missing"),
        ({"x": np.zeros(2)}, "float64, not float32"),
        ({"x": np.zeros((2, 2), np.float32)}, "shape"),
    ],
)
def test_bad_inputs(inputs, message):
    with pytest.raises(InvalidArgument, match=message):
        run(copy(), inputs)


def test_ill_formed_programs_are_found():
    x = {"x": floats(4)}
    zero = Const(0.0, "float32")
    hole = [tensor("t", [B])]
    half = [stmt("h", [it("i", 2)], "t", [i], zero)]
    bad = {
        "undefined element is read, t": copy(load("t", b), tensors=hole, statements=half),
        r"no statement defines y\[3\], an output": copy(iters=[("b", B - 1)]),
        "defined twice": copy(target=(b // 2,)),
        "defined twice in": copy(statements=[stmt("again", [], "y", [0], zero)]),
        "axis 0 of x": copy(load("x", b - 1)),
        "axis 0 of y": copy(target=(b + 1,)),
        "cycle of dependences": copy(load("y", b)),
        "context": copy(context=[B - 5]),
        "parameter B is 4, below 5": copy(params=[param("B", "x", 0, minimum=5)]),
    }
    for message, p in bad.items():
        with pytest.raises(VerifyError, match=message):
            run(p, x)


def test_functions():
    x = np.float32([-1.5, -0.5, 0.0, 0.5, 2.5])
    f = {name: function.evaluate for name, function in FUNCTIONS.items()}
    np.testing.assert_allclose(f["erf"](x), [math.erf(v) for v in x], rtol=1e-6)
    np.testing.assert_allclose(f["sigmoid"](x), 1 / (1 + np.exp(-x)), rtol=1e-6)
    assert f["round"](x).tolist() == [-2, 0, 0, 0, 2]
    a, d = np.int32([7, -7, 7, -7, 6]), np.int32([2, 2, -2, -2, -3])
    assert f["truncdiv"](a, d).tolist() == [3, -3, -3, 3, -2]
    assert f["floordiv"](a, d).tolist() == [3, -4, -4, 3, -2]
    assert f["floordiv"](np.float32(1), np.float32(0.1)) == 10  # the quotient is 10 once rounded
    assert f["floormod"](a, d).tolist() == [1, 1, -1, -1, 0]
    assert np.isnan(f["max"](np.float32(np.nan), x)).all()


@pytest.mark.parametrize("name", sorted(fn for fn in FUNCTIONS if is_generated(fn, "float32")))
def test_float32_stays_float32(name):
    function = FUNCTIONS[name]
    x = np.float32([0.25, 0.5])
    first = x > 0.3 if name == "select" else x
    dtype = function.evaluate(first, *[x] * (function.arity - 1)).dtype
    assert dtype in (np.float32, np.bool_)


def test_strongly_connected():
    # 0 <- 1 <-> 2 <- 3, 3 <- 3
    assert strongly_connected([[], [0, 2], [1], [2, 3]]) == [[0], [1, 2], [3]]
    assert strongly_connected([[1], [2], [3], [1]]) == [[1, 2, 3], [0]]


def test_errors_carry_their_parts():
    error = Unsupported("model/x", "Where", "dynamic shape")
    assert (error.node, error.op, error.reason) == ("model/x", "Where", "dynamic shape")
    assert str(error) == "model/x (Where): dynamic shape"
