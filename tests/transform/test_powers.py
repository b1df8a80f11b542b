# SPDX-License-Identifier: Apache-2.0
"""Small powers are products where that computes nothing twice."""

import numpy as np
import pytest

from sirius_tf.ir.expr import Call, Const, walk
from sirius_tf.ir.interp import run
from sirius_tf.ir.program import Reduce
from sirius_tf.pipeline import PIPELINE, STRICT
from sirius_tf.transform.powers import multiply_out
from tests.support import saved
from tests.support.programs import F, b, call, it, k, load, program, simplified, stmt, tensor

pytestmark = pytest.mark.ir

X = load("x", b)
NUMBERS = np.array([-np.inf, np.inf, np.nan, -0.0, 1e30, -1e-30, 1.7, -2.3], F)


def power(base, exponent):
    """y[b] = pow(base, exponent) on as many numbers as there are above."""
    tensors = [tensor("x", [8], role="input"), tensor("y", [8], role="output")]
    value = call("pow", base, Const(exponent, F))
    return program("power", [], tensors, [stmt("S", [it("b", 8)], "y", [b], value)], [8])


def functions(made):
    values = (e for s in made.statements for e in walk(s.value))
    return [e.fn for e in values if isinstance(e, Call)]


@pytest.mark.parametrize(("exponent", "products"), [(3.0, 2), (4.0, 3)])
def test_a_power_is_a_product(exponent, products):
    made = multiply_out(power(X, exponent))
    assert functions(made) == ["mul"] * products
    with np.errstate(all="ignore"):
        have, want = (run(p, {"x": NUMBERS})[0] for p in (made, power(X, exponent)))
    np.testing.assert_allclose(have, want, 4 * np.finfo(F).eps, 0)
    assert np.signbit(have).tolist()[:2] == np.signbit(want).tolist()[:2]


@pytest.mark.parametrize(
    "given", [power(X, 5.0), power(X, 2.5), power(X, -3.0), power(call("exp", X), 3.0)]
)
def test_other_powers_stay(given):
    assert multiply_out(given) == given


def test_what_is_cheap_is_written_twice():
    assert functions(multiply_out(power(call("add", X, X), 3.0))) == ["mul", "mul", *["add"] * 3]


def test_values_of_sums_too():
    tensors = [tensor("x", [8, 3], role="input"), tensor("y", [8], role="output")]
    cubed = call("pow", load("x", b, k), Const(3.0, F))
    sums = stmt("S", [it("b", 8)], "y", [b], cubed, Reduce("add", (it("k", 3),)))
    assert "pow" not in functions(multiply_out(program("sums", [], tensors, [sums], [8])))


def test_the_approximate_gelu_has_no_power_but_with_strict_arithmetic():
    gelu = saved.read("normalized")
    assert "pow" in functions(simplified(gelu, STRICT))
    assert "pow" not in functions(simplified(gelu, PIPELINE))
