# SPDX-License-Identifier: Apache-2.0
"""Exits and branches that data decides, against TensorFlow: interpreted, and as generated code."""

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.errors import InvalidArgument, Unsupported
from sirius_tf.ir.interp import run
from sirius_tf.transform.simplify import simplify
from tests.support.parity import agree, compiled, traced

RNG = np.random.default_rng(3)
VECTOR = ([None], tf.float32)
MATRIX = ([None, None], tf.float32)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def check(fn, specs, feeds):
    """`fn` on the feeds, interpreted before and after simplification, and generated."""
    concrete, program = traced(fn, *specs)
    agree(concrete, program, *feeds, generated=compiled(program))


# Exits


def newton(x):
    """No counter bounds it: only a window of what is carried is kept."""

    def body(y):
        return 0.5 * (y + x / y)

    return tf.while_loop(lambda y: tf.reduce_max(tf.abs(y * y - x)) > 1e-4, body, [x + 1.0])[0]


@pytest.mark.parametrize("n", [0, 1, 7, 33])
def test_an_exit_that_nothing_bounds(n):
    check(newton, [VECTOR], [np.abs(floats(n)) + 0.5])


def budget(x):
    """Sums rows until there is enough, or no more."""
    going = lambda i, s: (i < tf.shape(x)[0]) & (tf.reduce_sum(s) < 10.0)
    i, s = tf.while_loop(going, lambda i, s: (i + 1, s + x[i]), (0, tf.zeros_like(x[0])))
    return s * 2.0, i


@pytest.mark.parametrize(
    "rows", [[20.0], [1.0, 2.0], [4.0, 4.0, 4.0, 4.0], [11.0, 1.0], [np.nan, 20.0, 1.0]]
)
def test_an_early_exit(rows):
    check(budget, [MATRIX], [np.array(rows, np.float32)[:, None] * np.ones((1, 3), np.float32) / 3])


@pytest.mark.parametrize("most", [0, 3, 7, 8, 2**31 - 1])
def test_a_bound_that_is_as_good_as_none(most):
    """All that a loop could leave has 8 TB, in rows of 500."""

    def fn(x, most):
        made = tf.TensorArray(tf.float32, 0, dynamic_size=True, element_shape=[500])
        going = lambda i, h, made: (i < most) & (tf.reduce_max(h) < 100.0)
        body = lambda i, h, made: (i + 1, h * 2.0, made.write(i, tf.sin(h)))
        i, h, made = tf.while_loop(going, body, (0, x, made))
        return i, h, made.stack()

    concrete, program = traced(fn, ([500], tf.float32), ([], tf.int32))
    feeds = [np.linspace(0, 1, 500, dtype=np.float32), np.int32(most)]
    expected = concrete(*map(tf.constant, feeds))
    assert expected[0].numpy() == min(most, 7)
    for have, want in zip(compiled(program)(feeds), expected, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-6)


def test_no_iteration():
    def fn(x):
        return tf.while_loop(lambda y: tf.reduce_sum(y) < 0.0, lambda y: y - x, [x])[0] + 1.0

    check(fn, [VECTOR], [np.abs(floats(5))])
    check(fn, [VECTOR], [np.zeros(0, np.float32)])


def decoder(x):
    """A list that is written until the exit; what is behind it is zero."""
    made = tf.TensorArray(tf.float32, 9, element_shape=[7])
    going = lambda i, h, made: (i < 9) & (tf.reduce_max(h) < 50.0)
    body = lambda i, h, made: (i + 1, h * 2.0, made.write(i, tf.sin(h)))
    i, h, made = tf.while_loop(going, body, (0, x, made))
    return made.stack(), h, i


@pytest.mark.parametrize("scale", [100.0, 20.0, 1.0, 1e-3])
def test_a_list_up_to_the_exit(scale):
    check(decoder, [VECTOR], [np.full(7, scale, np.float32)])


def test_a_call_that_fails_comes_to_an_end():
    """What it would go on with is nothing that ends the loop."""

    def fn(x):
        body = lambda i, y: (i + 1, y + tf.gather(x, i))
        return tf.while_loop(lambda i, y: y < 100.0, body, (0, 0.0))[1]

    concrete, program = traced(fn, VECTOR)
    run = compiled(program)
    assert run([np.full(9, 60.0, "f")])[0] == 120.0
    with pytest.raises(InvalidArgument, match=r"index 9 is not in \[0, 9\)"):
        run([np.zeros(9, "f")])
    with pytest.raises(tf.errors.InvalidArgumentError):
        concrete(tf.zeros([9]))


def test_loops_after_an_exit():
    def fn(x):
        n, y = tf.while_loop(
            lambda n, y: tf.reduce_sum(y) < 40.0, lambda n, y: (n + 1, y + 1.0), (0, x)
        )
        z = tf.while_loop(lambda i, z: i < 4, lambda i, z: (i + 1, tf.tanh(z + y)), (0, x))[1]
        return z, tf.cast(n, tf.float32) * x

    check(fn, [VECTOR], [floats(7)])


def test_what_an_endless_loop_leaves_aside():
    """What does not decide the exit stays in the loop nevertheless: it would need all of y."""

    def fn(x):
        step = lambda y, side: (y + 1.0, tf.tanh(y) * 2.0 + tf.reduce_sum(y))
        return tf.while_loop(lambda y, _: tf.reduce_sum(y) < 40.0, step, (x, x))[1]

    check(fn, [VECTOR], [np.abs(floats(7))])
    check(fn, [VECTOR], [np.full(7, 9.0, "f")])


# Exits inside of loops


def nested(inner, state, most=3):
    """`inner` of i and the state, `most` times."""
    body = lambda i, *state: (i + 1, *inner(i, *state))
    return tf.while_loop(lambda i, *_: i < most, body, (0, *state))[1:]


def test_an_exit_inside_of_a_loop_that_nothing_bounds_is_left():
    def fn(x):
        going = lambda z: tf.reduce_sum(z) < 9.0
        return nested(lambda i, y: tf.while_loop(going, lambda z: [z + 1.0], [y]), [x])[0]

    with pytest.raises(Unsupported, match="when a loop inside a loop ends, nothing bounds it"):
        traced(fn, VECTOR)


def solver(x):
    """Newton's method in each of three steps, from where the last one ended."""

    def solve(i, y, count):
        target = x + tf.cast(i, tf.float32)
        going = lambda y: tf.reduce_max(tf.abs(y * y - target)) > 1e-4
        body = lambda y: [0.5 * (y + target / y)]
        n, (y,) = tf.while_loop(
            lambda n, y: going(*y), lambda n, y: (n + 1, body(*y)), (0, [y]), maximum_iterations=6
        )
        return y, count + n

    return nested(solve, [x + 1.0, 0])


@pytest.mark.parametrize("n", [0, 1, 7, 33])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_an_exit_inside_of_a_loop(n, scale):
    """With the larger numbers, six iterations are not enough."""
    check(solver, [VECTOR], [scale * (np.abs(floats(n)) + 0.5)])


def test_nan_inside_of_a_loop():
    check(solver, [VECTOR], [np.array([1.0, np.nan], "f")])
    check(solver, [VECTOR], [np.array([0.0, -1.0], "f")])


def search(x):
    """For each row, how far to go until the sum is enough: with a position in the input, a list
    that is written until then, a product, and a branch."""
    w = tf.constant(floats(4, 4))

    def walk(i, total, steps):
        made = tf.TensorArray(tf.float32, 5, element_shape=[4])

        def body(k, h, made):
            h = tf.tanh((h + x[i, k]) @ w) if h.shape.rank > 1 else h
            h = tf.cond(h[0, 0] > 0.0, lambda: h + 1.0, lambda: h - x[i, k])
            return k + 1, h, made.write(k, h[0])

        going = lambda k, h, _: (k < 5) & (tf.reduce_sum(tf.abs(h)) < tf.reduce_sum(x[i, k]))
        k, h, made = tf.while_loop(going, body, (0, tf.zeros([1, 4]), made))
        return total + tf.reduce_sum(made.stack()) + h[0], tf.concat([steps[1:], [k]], 0)

    return nested(walk, [tf.zeros([4]), tf.zeros([3], tf.int32)])


@pytest.mark.parametrize("least", [[0, 0, 0], [100, 100, 100], [12, 0, 100], [6, 12, 3]])
def test_exits_that_differ(least):
    """None, one, some, and all of five iterations."""
    x = np.abs(floats(3, 6, 4)) * 0.1 + np.array(least, "f")[:, None, None] * 0.25
    check(search, [([3, None, 4], tf.float32)], [x])


def test_an_index_of_an_iteration_that_is_not_run_fails_nothing():
    """The position leaves the input only after the exit, or where the loop is not entered."""

    def fn(x, where):
        def walk(i, y):
            going = lambda y, at: y < 10.0
            step = lambda y, at: (y + tf.gather(x, at), tf.gather(where, at))
            return tf.while_loop(going, step, (y, where[i]), maximum_iterations=50)[:1]

        return nested(walk, [tf.zeros([])])[0]

    specs = [([5], tf.float32), ([5], tf.int32)]
    x = np.array([2, 4, 3, 7, 5], "f")
    check(fn, specs, [x, np.array([1, 3, 9, 7, -5], "i")])
    check(fn, specs, [x * 3, np.array([3, -2, 9, 7, 5], "i")])
    check(fn, specs, [x * 0, np.array([1, 2, 3, 4, 0], "i")])


def test_an_exit_inside_of_a_loop_with_an_exit():
    def fn(x):
        def outer(i, y):
            going = lambda j, y: (j < i) & (tf.reduce_sum(y) < 40.0)
            y = tf.while_loop(going, lambda j, y: (j + 1, y * 1.5), (0, y), maximum_iterations=4)[1]
            return i + 1, y + 1.0

        return tf.while_loop(lambda i, y: (i < 9) & (y[0] < 90.0), outer, (0, x))

    check(fn, [VECTOR], [np.abs(floats(5))])
    check(fn, [VECTOR], [np.full(5, 100.0, "f")])
    check(fn, [VECTOR], [np.zeros(5, "f")])


@pytest.mark.parametrize("sign", [1, -1])
def test_an_exit_inside_of_a_loop_on_a_branch(sign):
    def fn(x):
        return tf.cond(tf.reduce_sum(x) > 0, lambda: solver(tf.abs(x))[0], lambda: x)

    check(fn, [VECTOR], [sign * (np.abs(floats(9)) + 0.5)])


def test_three_loops():
    def fn(x):
        def middle(i, y):
            return nested(lambda j, y: deep(y), [y], most=2)

        def deep(y):
            going = lambda y: tf.reduce_sum(y) < 60.0
            return tf.while_loop(going, lambda y: [y * 1.25], [y], maximum_iterations=2)

        return nested(middle, [x])[0]

    check(fn, [VECTOR], [np.abs(floats(7)) + 1.0])


def test_a_list_of_as_many_elements_as_data_says_is_left():
    def fn(x):
        def outer(i, y):
            made = tf.TensorArray(tf.float32, 0, dynamic_size=True, element_shape=[])
            going = lambda j, y, _: tf.reduce_sum(y) < 60.0
            body = lambda j, y, made: (j + 1, y * 1.25, made.write(j, y[0]))
            _, y, made = tf.while_loop(going, body, (0, y, made), maximum_iterations=4)
            return [y + tf.reduce_sum(made.stack())]

        return nested(outer, [x])[0]

    with pytest.raises(Unsupported, match="which elements a list has"):
        traced(fn, VECTOR)


# Shapes


@pytest.mark.parametrize("scale", [100.0, 20.0, 1.0, 1e-3])
def test_a_shape_that_data_decides(scale):
    def fn(x):
        stack, h, i = decoder(x)
        return tf.transpose(stack[:i]), h, tf.reduce_sum(stack[:i] * 2.0, 0)

    check(fn, [VECTOR], [np.full(7, scale, np.float32)])


def test_a_shape_that_nothing_bounds_is_left():
    def fn(x):
        n, y = tf.while_loop(lambda n, y: y[0] < 9.0, lambda n, y: (n + 1, y * 2.0), (0, x))
        return tf.zeros([n, 2]) + y[0]

    with pytest.raises(Unsupported, match="nothing bounds"):
        traced(fn, VECTOR)


# Branches


def gated(x):
    """A residual block behind a gate."""
    w = tf.constant(floats(4, 4))
    return tf.cond(tf.reduce_sum(x) > 0, lambda: x + tf.tanh(x @ w), lambda: x)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rows", [0, 1, 7, 33])
def test_a_gate(sign, rows):
    check(gated, [([None, 4], tf.float32)], [sign * np.abs(floats(rows, 4))])


@pytest.mark.parametrize("k", [-1, 0, 1, 2, 3, 9])
def test_a_case(k):
    def fn(k, x):
        w = tf.constant(floats(3, 3))
        branches = [lambda: x, lambda: tf.exp(x @ w), lambda: x * 2.0, lambda: x - tf.reduce_sum(x)]
        return tf.switch_case(k, branches)

    check(fn, [([], tf.int32), ([None, 3], tf.float32)], [np.array(k, np.int32), floats(5, 3)])


@pytest.mark.parametrize("p", [True, False])
@pytest.mark.parametrize("q", [True, False])
def test_branches_in_branches(p, q):
    def fn(p, q, x):
        w = tf.constant(floats(3, 3))
        inner = lambda: tf.cond(q, lambda: tf.sin(x @ w), lambda: x * x)
        return tf.cond(p, inner, lambda: -x) + 1.0

    bools = [([], tf.bool), ([], tf.bool), ([None, 3], tf.float32)]
    check(fn, bools, [np.array(p), np.array(q), floats(4, 3)])


def test_an_error_of_a_branch_that_is_not_taken_is_none():
    def fn(i, x):
        return tf.cond(i < 3, lambda: tf.gather(x, i), lambda: tf.constant(-1.0))

    check(fn, [([], tf.int32), ([3], tf.float32)], [np.array(2, np.int32), floats(3)])
    check(fn, [([], tf.int32), ([3], tf.float32)], [np.array(7, np.int32), floats(3)])


def asserted(condition, text, value):
    with tf.control_dependencies([tf.debugging.Assert(condition, [text])]):
        return tf.identity(value)


def fails_alike(concrete, program, *feeds):
    """That a call fails: of TensorFlow, of the interpreter, and of the generated code."""
    with pytest.raises(tf.errors.InvalidArgumentError):
        concrete(*map(tf.constant, feeds))
    with pytest.raises(InvalidArgument, match="Assert"):
        run(program, dict(zip(program.inputs, feeds, strict=True)))
    with pytest.raises(InvalidArgument, match="Assert"):
        compiled(program)(feeds)


def odd_or_some(n, x):
    """On branches of branches: an odd number if n is 3 or more, at least one if it is 0 to 2."""
    some = lambda: asserted(tf.shape(x)[0] > 0, "some", x)
    odd = lambda: asserted(tf.shape(x)[0] % 2 == 1, "odd", x * 2.0)
    return tf.cond(n > 2, odd, lambda: tf.cond(n < 0, lambda: x - 1.0, some))


def odd_or_some_in_a_loop(n, x):
    return tf.while_loop(lambda i, _: i < 2, lambda i, y: (i + 1, odd_or_some(n, y)), (0, x))[1]


def odd_or_some_by_case(n, x):
    """Any other number takes the last branch."""
    three = lambda: asserted(tf.shape(x)[0] == 3, "three", x * 2.0)
    some = lambda: asserted(tf.shape(x)[0] > 0, "some", x)
    return tf.switch_case(n, [some, lambda: x + 1.0, some, three, lambda: x - 1.0])


@pytest.mark.parametrize("fn", [odd_or_some, odd_or_some_in_a_loop, odd_or_some_by_case])
def test_an_assertion_on_a_branch(fn):
    """It holds, and fails, if the branch is taken."""
    concrete, program = traced(fn, ([], tf.int32), VECTOR)
    run_ = compiled(program)
    for n, size in [(3, 3), (2, 4), (-1, 0)]:
        agree(concrete, program, np.array(n, np.int32), floats(size), generated=run_)
    for n, size in [(3, 4), (3, 0), (0, 0)]:
        fails_alike(concrete, program, np.array(n, np.int32), floats(size))


def test_an_assertion_on_a_branch_that_never_holds():
    def fn(n, x):
        return tf.cond(n > 2, lambda: asserted(tf.shape(x)[0] < 0, "never", x), lambda: x + 1.0)

    concrete, program = traced(fn, ([], tf.int32), ([3], tf.float32))
    agree(concrete, program, np.array(1, np.int32), floats(3), generated=compiled(program))
    fails_alike(concrete, program, np.array(3, np.int32), floats(3))


def test_an_assertion_that_fails_where_its_branch_is_not_taken_is_left():
    def fn(n, x):
        return tf.cond(n > 0, lambda: asserted(9 // n < 5, "few", x), lambda: x + 1.0)

    with pytest.raises(Unsupported, match="may divide by zero"):
        traced(fn, ([], tf.int32), VECTOR)


# Sizes that must fit on a branch


def fits(fn, specs, right, wrong):
    """`fn` on feeds whose sizes fit, or need not, and on others, which are an error of both."""
    concrete, program = traced(fn, *specs)
    generated = compiled(program)
    for feeds in right:
        agree(concrete, program, *feeds, generated=generated, tolerance=1e-5)  # of 2**20 terms
    for feeds in wrong:
        with pytest.raises(tf.errors.InvalidArgumentError):
            concrete(*map(tf.constant, feeds))
        for stage in (program, simplify(program)):
            with pytest.raises(InvalidArgument):
                run(stage, dict(zip(stage.inputs, feeds, strict=True)))
        with pytest.raises(InvalidArgument):
            generated(feeds)
    return program


def feeds_of(n, x, y):
    return [np.array(n, np.int32), floats(x), floats(y)]


PAIR = [([], tf.int32), VECTOR, VECTOR]
RIGHT = [feeds_of(1, 4, 4), feeds_of(0, 4, 4), feeds_of(0, 4, 9), feeds_of(-1, 999, 3)]
RIGHT += [feeds_of(0, 2, 1 << 20), feeds_of(0, 1 << 20, 2), feeds_of(1, 0, 0)]
WRONG = [feeds_of(1, 4, 9), feeds_of(1, 999, 3), feeds_of(1, 0, 3)]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("summed", [True, False])
def test_sizes_that_must_be_equal_on_a_branch(known, summed):
    """A branch that is known on entry, or that data decides: what it leaves has one of the sizes,
    or none."""
    result = tf.reduce_sum if summed else tf.identity

    def fn(n, x, y):
        taken = n > 0 if known else tf.cast(n, tf.float32) + tf.reduce_sum(tf.zeros_like(x)) > 0.0
        return tf.cond(taken, lambda: result(x * 2.0 + y), lambda: result(x))

    program = fits(fn, PAIR, RIGHT, WRONG)
    assert len(program.checks) == known and len(program.messages) == (not known)


def test_what_a_branch_hands_on_may_be_a_view():
    """An element behind the end, which is read where the branch is taken."""

    def fn(n, x, y):
        taken = tf.cast(n, tf.float32) + tf.reduce_sum(tf.zeros_like(x)) > 0.0
        other = lambda: (0.0, tf.zeros([2]))
        return tf.cond(taken, lambda: (x[70000], tf.slice(y, [3], [2])), other)

    right = [feeds_of(0, 1, 0), feeds_of(1, 70001, 5), feeds_of(0, 0, 9)]
    fits(fn, PAIR, right, [feeds_of(1, 70000, 5), feeds_of(1, 70001, 4)])


def test_sizes_of_the_branches_of_a_branch():
    def fn(n, x, y):
        inner = lambda: tf.cond(tf.reduce_sum(x) > 0.0, lambda: x - y, lambda: x)
        return tf.reduce_sum(tf.cond(n > 0, inner, lambda: x + 1.0) * x)

    some = np.ones(4, "f")
    right = [[np.array(n, "i"), some * sign, y] for n, sign, y in [(1, 1, some), (1, -1, some[1:])]]
    wrong = [[np.array(1, "i"), some, some[1:]], [np.array(1, "i"), some, np.ones(9, "f")]]
    fits(fn, PAIR, [*right, feeds_of(0, 4, 9)], wrong)


def test_sizes_on_a_branch_in_a_loop():
    """A branch that is taken in some steps; which row it reads depends on the step."""

    def fn(n, x, y):
        def body(i, h):
            some = lambda: h * 0.5 + x[i] + y
            return i + 1, tf.cond(tf.reduce_sum(h) > tf.cast(n, tf.float32), some, lambda: h - 1.0)

        return tf.while_loop(lambda i, _: i < 5, body, (0, tf.ones([3])))[1]

    ones = np.ones(9, "f")
    right = [(0, 9, 3), (9, 0, 2), (2, 5, 3)]
    wrong = [(0, 9, 4), (0, 1, 3), (2, 0, 3)]
    cases = [
        [[np.array(n, "i"), ones[:a], ones[:b]] for n, a, b in some] for some in (right, wrong)
    ]
    fits(fn, PAIR, *cases)


@pytest.mark.parametrize("data", [True, False])
def test_sizes_in_a_loop_on_a_branch(data):
    """Of a loop that is not entered, too, as elsewhere."""

    def fn(n, x, y):
        def long():
            body = lambda i, z: (i + 1, tf.sin(z) + y)
            return tf.while_loop(lambda i, _: i < n, body, (0, x))[1]

        taken = tf.reduce_sum(x) > 0.0 if data else tf.shape(x)[0] > 2
        return tf.cond(taken, long, lambda: x)

    ones = np.ones(9, "f")
    right = [(2, ones[:3], ones[:3]), (2, -ones[:2], ones), (0, ones[:4], ones[:4])]
    wrong = [(2, ones[:3], ones[:4]), (1, ones[:4], ones[:3])]
    cases = [[[np.array(n, "i"), x, y] for n, x, y in some] for some in (right, wrong)]
    fits(fn, PAIR, *cases)


def test_sizes_that_are_negative_where_a_branch_is_not_taken():
    """Its tensors are empty there."""

    def fn(n, x, y):
        def some():
            short = tf.tanh(tf.slice(x, [n], [tf.shape(x)[0] - n - 9]))
            return tf.reduce_sum(short[:, None] * tf.sin(short)[None] - tf.reduce_max(short))

        return tf.cond(tf.reduce_sum(y) > 0.0, some, lambda: tf.reduce_sum(x))

    one = np.ones(1, "f")
    right = [(0, floats(12), one), (2, floats(12), one), (0, floats(3), -one), (5, floats(1), -one)]
    wrong = [(1, floats(3), one)]
    cases = [[[np.array(n, "i"), x, y] for n, x, y in some] for some in (right, wrong)]
    fits(fn, PAIR, *cases)


@pytest.mark.parametrize("data", [True, False])
def test_sizes_of_the_condition_of_a_loop_on_a_branch(data):
    def fn(n, x, y):
        def long():
            going = lambda i, z: (i < n) & (z[0] < x[5 + i] if data else i < 4)
            return tf.while_loop(going, lambda i, z: (i + 1, z + x[i]), (0, y))[1]

        return tf.cond(tf.reduce_sum(y) > 0.0, long, lambda: y * 2.0)

    x, y = np.arange(9, dtype="f"), np.ones(3, "f")
    right = [(2, x, y), (0, x, y), (3, x[:0], -y), (3, x[:2], -y[:0]), (3, x, y * 2.0)]
    cases = [[np.array(n, "i"), x, y] for n, x, y in right]
    fits(fn, PAIR, cases, [[np.array(2, "i"), x[: data and 5], y]])


def test_a_list_on_a_branch_of_as_many_elements_as_fit():
    def fn(n, x, y):
        def some():
            made = tf.TensorArray(tf.float32, tf.shape(x)[0] - 3, element_shape=[])
            body = lambda i, made: (i + 1, made.write(i, x[i] + y[i]))
            return tf.reduce_sum(
                tf.while_loop(lambda i, _: i < tf.shape(x)[0] - 3, body, (0, made))[1].stack()
            )

        return tf.cond(tf.reduce_sum(y) > 0.0, some, lambda: 0.0)

    ones = np.ones(9, "f")
    right = [(0, ones, ones[:6]), (0, ones[:2], -ones), (0, ones, -ones[:2])]
    cases = [[[np.array(n, "i"), x, y] for n, x, y in right]]
    fits(fn, PAIR, *cases, [[np.array(0, "i"), ones, ones[:5]]])


@pytest.mark.parametrize("steps", [0, 1, 9])
def test_a_branch_in_a_loop(steps):
    """A recurrence that skips steps."""

    def fn(x):
        w = tf.constant(floats(4, 4))

        def body(i, h):
            step = lambda: tf.tanh(x[i] + h @ w)
            return i + 1, tf.cond(tf.reduce_sum(x[i]) > 0, step, lambda: h)

        return tf.while_loop(lambda i, _: i < tf.shape(x)[0], body, (0, tf.zeros([2, 4])))[1]

    check(fn, [([None, 2, 4], tf.float32)], [floats(steps, 2, 4)])


@pytest.mark.parametrize("sign", [1, -1])
def test_a_loop_on_a_branch(sign):
    def fn(x):
        def long():
            return tf.while_loop(lambda i, _: i < 5, lambda i, y: (i + 1, tf.sin(y + x)), (0, x))[1]

        return tf.cond(tf.reduce_sum(x) > 0, long, lambda: x)

    check(fn, [VECTOR], [sign * np.abs(floats(9))])


@pytest.mark.parametrize("sign", [1, -1])
def test_an_exit_on_a_branch(sign):
    def fn(x):
        return tf.cond(tf.reduce_sum(x) > 0, lambda: newton(tf.abs(x)), lambda: x)

    check(fn, [VECTOR], [sign * (np.abs(floats(9)) + 0.5)])


def test_a_branch_in_a_loop_with_an_exit():
    def fn(x):
        def body(h):
            return tf.cond(h[0] < 3.0, lambda: h + tf.abs(x) + 0.5, lambda: h * 2.0)

        return tf.while_loop(lambda h: tf.reduce_max(h) < 100.0, body, [tf.abs(x)])[0]

    check(fn, [VECTOR], [floats(6)])


def test_a_list_written_on_both_branches():
    def fn(x):
        def body(i, made):
            more = lambda: made.write(i, x * tf.cast(i, tf.float32))
            return i + 1, tf.cond(x[0] > tf.cast(i, tf.float32), more, lambda: made.write(i, -x))

        made = tf.TensorArray(tf.float32, 5, element_shape=[3])
        return tf.while_loop(lambda i, _: i < 5, body, (0, made))[1].stack()

    check(fn, [([3], tf.float32)], [np.array([2.5, 1.0, -1.0], np.float32)])


def test_one_call_after_another():
    """Nothing of a call is left to the next one."""
    _, program = traced(budget, MATRIX)
    run = compiled(program)
    for rows in (5, 1, 9):
        x = np.full((rows, 2), 1.5, np.float32)
        assert int(run([x])[1]) == min(rows, 4)
