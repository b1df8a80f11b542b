# SPDX-License-Identifier: Apache-2.0
"""Quasi-affine expressions agree with Python's integers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sirius_tf.ir.affine import Affine, affine
from tests.support.strategies import i, ints, j, trees

pytestmark = pytest.mark.ir

values = st.fixed_dictionaries({"i": ints, "j": ints, "N": ints})


@given(trees(), trees(), st.integers(1, 9), values)
def test_operators_agree_with_integers(a, b, d, env):
    x, y = a.evaluate(env), b.evaluate(env)
    assert (a + b).evaluate(env) == x + y
    assert (a - b).evaluate(env) == x - y
    assert (3 - a).evaluate(env) == 3 - x
    assert (a * d).evaluate(env) == x * d
    assert (a // d).evaluate(env) == x // d
    assert (a % d).evaluate(env) == x % d


@given(trees(), trees(), trees(), values)
def test_substitution_is_simultaneous(a, b, c, env):
    replaced = a.substitute({"i": b, "j": c})
    expected = a.evaluate({**env, "i": b.evaluate(env), "j": c.evaluate(env)})
    assert replaced.evaluate(env) == expected


@given(trees())
def test_canonical_form(a):
    assert all(c for _, c in a.terms)
    assert list(a.terms) == sorted(a.terms, key=lambda t: str(t[0]))
    assert a - a == Affine()
    assert (a - a).is_const


def test_exact_multiples_leave_the_floor():
    assert (4 * i + j) // 4 == i + j // 4
    assert (4 * i) // 4 == i
    assert (4 * i + 2) % 4 == affine(2)


def test_text_is_isl_syntax():
    assert str(2 * i - j + 3) == "2*i - j + 3"
    assert str(-1 * i) == "-i"
    assert str((i + 1) // 2 - 4) == "floor((i + 1)/2) - 4"
    assert str(affine(0)) == "0"


def test_names_coefficients_and_errors():
    e = 2 * i + j // 3
    assert sorted(e.names()) == ["i", "j"]
    assert (e.coefficient("i"), e.coefficient("j")) == (2, 0)
    with pytest.raises(ValueError, match="positive"):
        _ = i // 0
    with pytest.raises(KeyError):
        e.evaluate({"i": 1})
