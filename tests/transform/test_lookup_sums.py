# SPDX-License-Identifier: Apache-2.0
"""Sums over a row of a constant that data picks are picked from the sums over all rows."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.ir.expr import Load
from sirius_tf.ir.program import Guard, Reduce
from sirius_tf.ir.verify import verify
from sirius_tf.pipeline import PIPELINE
from sirius_tf.transform import lookup_sums
from tests.support.parity import check, program_of
from tests.support.programs import (
    B,
    call,
    index,
    it,
    load,
    param,
    program,
    simplified,
    stmt,
    symbol,
    tensor,
)

RNG = np.random.default_rng(5)
ROWS, WIDTH, COLUMNS = 11, 24, 40
E, W = (RNG.standard_normal(s).astype("f") for s in ((ROWS, WIDTH), (WIDTH, COLUMNS)))
V = RNG.standard_normal((COLUMNS, COLUMNS)).astype("f")


def sums(fn, passes=PIPELINE):
    """The sums that are left of a function of row numbers."""
    program = simplified(program_of(fn, np.zeros(2, "i")), passes)
    verify(program)
    return [s for s in program.statements if s.reduce and s.reduce.op == "add"]


def ids(size):
    return [RNG.integers(0, ROWS, size).astype("i")]


def product(i):
    return tf.gather(E, i) @ W


def item(i):
    """A network of its own for what is looked up."""
    return tf.nn.relu(product(i) + 1.0) @ V


def decoder(i):
    """A recurrence that looks up what it has chosen, until that is row 3."""

    def step(t, h, token):
        h = tf.tanh(0.1 * (tf.gather(E, token) @ W + h @ V))
        return t + 1, h, tf.argmax(h[:, :ROWS], 1, output_type=tf.int32)

    state = (0, tf.zeros((tf.shape(i)[0], COLUMNS)), i)
    shapes = (tf.TensorShape([]), tf.TensorShape([None, COLUMNS]), tf.TensorShape([None]))
    going = lambda t, h, token: (t < 9) & tf.reduce_any(token != 3)
    return tf.while_loop(going, step, state, shapes)


def branch(i):
    taken = tf.reduce_sum(i) > 9
    return tf.cond(taken, lambda: product(i), lambda: tf.zeros((tf.shape(i)[0], COLUMNS)))


@pytest.mark.parametrize(
    ("fn", "left"),
    [
        (product, 0),
        (lambda i: tf.nn.relu(tf.gather(E, i) * 4.0 @ W + 1.0), 0),
        (lambda i: tf.gather(E, i) @ W + tf.gather(E, i) @ (W * 2.0), 0),
        (lambda i: tf.reduce_sum(tf.gather(E, i) ** 2, 1), 0),
        (lambda i: tf.gather(E, i)[:, ::2] @ W[::2], 0),
        (lambda i: tf.cast(tf.gather(E.astype("i"), i) @ W.astype("i"), tf.float32), 0),
        (decoder, 1),
        (branch, 1),  # of what decides
        (item, 0),
        (lambda i: tf.gather(E, i) @ W @ V, 0),
        (lambda i: (tf.gather(E, i) + tf.gather(E, i // 2)) @ W, 1),  # two rows decide
        (lambda i: tf.gather(E, i) * tf.cast(i, tf.float32)[:, None] @ W, 1),  # and data
        (lambda i: tf.reduce_sum(tf.gather(E, i), 0), 1),  # a sum over rows
        (lambda i: tf.gather(E, i, axis=0) @ tf.cast(tf.fill((WIDTH, 3), i[0] % 5), "float32"), 1),
    ],
)
def test_results_are_those_of_tensorflow(fn, left):
    check(fn, (None,), dtypes=["int32"], sizes=(1, 7, 33), arrays=ids)
    assert len(sums(fn)) == left


def test_a_row_that_is_not_there_fails():
    for fn in (product, decoder):
        ids = lambda n: [np.full(n, ROWS, "i")]
        fails = rf"index {ROWS} is not in \[0, {ROWS}\)"
        check(fn, (None,), dtypes=["int32"], sizes=(1,), arrays=ids, fails=fails)


def through(rows):
    return lambda i: tf.gather(rows, i) @ W


def test_what_is_not_finite_stays_so():
    for value in (np.nan, np.inf):
        bad = E.copy()
        bad[4, 2] = value
        check(through(bad), (None,), dtypes=["int32"], arrays=ids)


def twice(i):
    """Products of the same rows and weights."""
    e, w = tf.constant(E), tf.constant(W)
    return tf.gather(e, i) @ w + tf.tanh(tf.gather(e, i // 2) @ w)


def test_a_product_is_left_where_there_is_no_room(monkeypatch):
    monkeypatch.setattr(lookup_sums, "LARGEST_CONSTANT", ROWS * COLUMNS)
    assert not sums(product)
    assert len(sums(lambda i: product(i) + tf.gather(E, i) @ (W * 2.0))) == 1
    assert not sums(twice)
    monkeypatch.setattr(lookup_sums, "LARGEST_CONSTANT", ROWS * COLUMNS - 1)
    assert len(sums(product)) == 1
    check(product, (None,), dtypes=["int32"], arrays=ids)


def test_it_can_be_left_out():
    assert len(sums(product, PIPELINE.without(["lookup_sums"]))) == 1


@pytest.mark.parametrize("under_guard", [True, False])
def test_what_is_looked_up_on_a_branch_is_looked_up_there(under_guard):
    """Elsewhere the number of the row may be none, and to look for it would fail the call."""
    b, j, k = (symbol(name) for name in "bjk")
    row = call("bounded", load("ids", b, dtype="int32"), index(ROWS, "int32"), dtype="int32")
    p, over = Load("p", (), "bool"), Reduce("add", (it("k", WIDTH),))
    looked_up = stmt("S0", [it("b", B), it("k", WIDTH)], "u", [b, k], load("E", row, k))
    product = call("mul", load("u", b, k), load("W", k, j))
    total = stmt("S1", [it("b", B), it("j", COLUMNS)], "y", [b, j], product, over)
    guards = (Guard(p),)
    before = program(
        "looked_up",
        [param("B", "ids", 0)],
        [
            tensor("ids", [B], "int32", "input"),
            tensor("p", [], "bool", "input"),
            tensor("E", [ROWS, WIDTH], role="constant", value=E),
            tensor("W", [WIDTH, COLUMNS], role="constant", value=W),
            tensor("u", [B, WIDTH]),
            tensor("y", [B, COLUMNS], role="output"),
        ],
        [replace(looked_up, guards=guards), replace(total, guards=guards if under_guard else ())],
        [B, COLUMNS],
    )
    after = lookup_sums.pick_sums(before)
    assert (after is before) == (not under_guard)
