# SPDX-License-Identifier: Apache-2.0
import itertools
import random

import pytest

from sirius_tf.ir.affine import symbol
from sirius_tf.ir.expr import Const
from sirius_tf.ir.polynomial import NotAffineError, poly
from sirius_tf.lower.params import Params

pytestmark = pytest.mark.ir

A, B, C = (poly(symbol(n)) for n in "abc")


def random_poly(rng: random.Random):
    p = poly(0)
    for _ in range(rng.randint(1, 3)):
        term = poly(rng.choice([-3, -1, 1, 2, 4]))
        for factor in rng.choices([A, B, C], k=rng.randint(0, 2)):
            term = term * factor
        p = p + term
    return p


def test_ring_agrees_with_integers_and_division_inverts_product():
    rng = random.Random(1)
    for _ in range(300):
        p, q = random_poly(rng), random_poly(rng)
        for point in itertools.product([-2, 0, 3], repeat=3):
            values = dict(zip("abc", point, strict=True))
            assert (p * q - p).evaluate(values) == p.evaluate(values) * (q.evaluate(values) - 1)
        if q.terms:
            assert (p * q).exact_div(q) == p


def test_division_that_leaves_a_remainder():
    assert (A * 3).exact_div(2) is None
    assert (A + 1).exact_div(A) is None
    assert A.exact_div(0) is None


def test_affine_round_trip_and_factors():
    assert poly((A * 2 + B - 3).to_affine()) == A * 2 + B - 3
    with pytest.raises(NotAffineError):
        (A * B).to_affine()
    for p in (A * B * 12, A * A * (B * 2 + 4), poly(1), poly(0), A + 1, A * (B + C)):
        product = poly(1)
        for factor in p.factors():
            product = product * factor
        assert product == p


def test_equal_polynomials_hash_alike():
    assert len({(A + B) * (A - B), A * A - B * B}) == 1


def test_opaque_parameters_only_where_needed():
    params = Params()
    n = params.define("n", Const(5, "int64"), 5)
    assert params.opaque("floordiv", n * 4, 4) == n
    assert params.opaque("floordiv", n * 4 - 1, 4) == n - 1
    assert params.opaque("floormod", n * 4 - 1, 4) == poly(3)
    assert params.opaque("floormod", n * 4, n) == poly(0)
    assert params.opaque("max", n + 2, 1) == n + 2
    assert len(params.defined) == 1
    half = params.opaque("floordiv", n, 2)
    assert params.opaque("floordiv", n, 2) == half
    assert params.defined[-1].hint == 2 and params.defined[-1].minimum == 0
