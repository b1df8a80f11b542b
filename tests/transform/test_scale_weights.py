# SPDX-License-Identifier: Apache-2.0
"""Constant factors of sums go into constant weights."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.ir.expr import Call, walk
from sirius_tf.ir.interp import run
from sirius_tf.ir.program import Reduce
from sirius_tf.pipeline import PIPELINE, STRICT
from sirius_tf.transform.scale_weights import scale_weights
from tests.support.parity import check, program_of
from tests.support.programs import (
    B,
    b,
    call,
    it,
    k,
    load,
    param,
    program,
    simplified,
    stmt,
    symbol,
    tensor,
)

n = symbol("n")
RNG = np.random.default_rng(4)
WEIGHTS, FACTORS = (RNG.standard_normal(s).astype(np.float32) for s in ((33, 19), (19,)))
FILTERS = RNG.standard_normal((3, 3, 5, 2)).astype(np.float32)


def products(fn, passes=PIPELINE):
    """Multiplications of the last statement that come after its sum."""
    program = simplified(program_of(fn, np.zeros((2, 33), "f")), passes)
    (last,) = (s for s in program.statements if s.reduce)
    return sum(1 for e in walk(last.finish or last.value) if isinstance(e, Call) and e.fn == "mul")


def normalized(x):
    return tf.nn.relu((x @ WEIGHTS) * FACTORS + 1.0)


def test_a_factor_by_column_goes_into_the_weights():
    check(normalized, (None, 33))
    assert products(normalized) == 0
    assert products(normalized, STRICT) == 1


def test_filters_of_convolutions_take_factors_too():
    def fn(x):
        y = tf.nn.depthwise_conv2d(x, FILTERS, (1, 1, 1, 1), "SAME")
        return tf.nn.relu6(y * FACTORS[:10] + FACTORS[:10])

    check(fn, (None, 7, 9, 5), sizes=(0, 1, 3))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: tf.nn.relu(x @ WEIGHTS) * FACTORS,  # a factor of something else
        lambda x: (lambda y: y * FACTORS + y)(x @ WEIGHTS),  # the sum is used without it, too
        lambda x: (x @ WEIGHTS) * tf.reduce_sum(x),  # no constant
    ],
)
def test_other_factors_stay(fn):
    check(fn, (None, 33), sizes=(1, 7))
    program = simplified(program_of(fn, np.zeros((2, 33), "f")))
    assert not any("scaled" in t.name for t in program.tensors)


@pytest.mark.parametrize("first", ["sum", "factor"])
@pytest.mark.parametrize(("op", "scaled"), [("add", True), ("max", False), ("min", False)])
def test_factors_go_into_sums_alone(op, scaled, first):
    """max(x * w) * f is another number than max(x * (w * f)) where f is negative."""
    product = call("mul", load("x", b, k), load("w", k, n))
    s = stmt("S", [it("b", B), it("n", 19)], "y", [b, n], product, Reduce(op, (it("k", 33),)))
    pair = s.result, load("f", n)
    s = replace(s, finish=call("mul", *(pair if first == "sum" else pair[::-1])))
    tensors = [
        tensor("x", [B, 33], role="input"),
        tensor("w", [33, 19], role="constant", value=WEIGHTS),
        tensor("f", [19], role="constant", value=FACTORS),
        tensor("y", [B, 19], role="output"),
    ]
    before = program("scaled", [param("B", "x", 0)], tensors, [s], [B, 19])
    after = scale_weights(before)
    assert (after != before) == scaled and FACTORS.min() < 0 < FACTORS.max()
    x = RNG.standard_normal((5, 33)).astype(np.float32)
    (want,), (got,) = (run(p, {"x": x}) for p in (before, after))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
