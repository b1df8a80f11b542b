# SPDX-License-Identifier: Apache-2.0
"""What must hold of data, against TensorFlow: interpreted, and as generated code.

A call fails, or not, as TensorFlow's does, with the text of the assertion.
"""

import numpy as np
import pytest
import tensorflow as tf

import sirius_tf
from sirius_tf import runtime
from sirius_tf.compile import compile_program, schedule_program
from sirius_tf.errors import InvalidArgument, Unsupported
from sirius_tf.ir.interp import run
from sirius_tf.transform.simplify import simplify
from tests.support.emulated import Emulated
from tests.support.parity import agree, compiled, traced
from tests.support.programs import simplified

VECTOR = ([None], tf.float32)
NUMBER = ([], tf.int32)
ERRORS = (tf.errors.InvalidArgumentError, InvalidArgument)


def floats(*values):
    return np.array(values, np.float32)


def number(n):
    return np.array(n, np.int32)


def asserted(condition, text, value):
    with tf.control_dependencies([tf.debugging.Assert(condition, [text, condition])]):
        return tf.identity(value)


def check(fn, specs, right, wrong, text="must hold"):
    """`fn` returns what TensorFlow does, and fails where TensorFlow fails, with its text."""
    concrete, program = traced(fn, *specs)
    generated = compiled(program)
    for feeds in right:
        agree(concrete, program, *feeds, generated=generated)
    for feeds in wrong:
        with pytest.raises(tf.errors.InvalidArgumentError, match=text):
            concrete(*map(tf.constant, feeds))
        for stage in (program, simplify(program)):
            with pytest.raises(InvalidArgument, match=rf"assertion failed: \[{text}"):
                run(stage, dict(zip(stage.inputs, feeds, strict=True)))
        with pytest.raises(InvalidArgument, match=rf"Assert\): assertion failed: \[{text}"):
            generated(feeds)
    return program


# Straight on


def few(x):
    return asserted(tf.reduce_sum(x) < 10.0, "must hold", x * 2.0)


def test_a_condition_on_data():
    check(few, [VECTOR], [[floats(1, 2)], [floats()]], [[floats(9, 1)], [floats(np.nan)]])


@pytest.mark.parametrize(
    "assertion", [tf.debugging.assert_less, tf.debugging.assert_none_equal], ids=["less", "none"]
)
def test_the_guard_of_an_assertion_is_gone(assertion):
    """TensorFlow asserts on a branch that is taken if the condition does not hold."""

    def fn(x):
        assertion(x, 3.0, message="must hold")
        return x + 1.0

    right, wrong = [[floats(1, 2)], [floats()]], [[floats(1, 3)], [floats(3)]]
    program = check(fn, [VECTOR], right, wrong)
    small = simplified(program)
    assert [s.demands for s in small.statements].count(True) == 1
    assert not any(s.guards for s in small.statements) and len(small.statements) == 3


@pytest.mark.parametrize("n", [1, 7, 8, 33, 100])
def test_every_element_counts(n):
    """Whether all hold, or one, is found in vectors."""

    def fn(x):
        few = tf.reduce_any(x > 8.0, 1)
        with tf.control_dependencies([tf.debugging.assert_less(x, 9.0)]):
            return few | tf.reduce_all(x < 0.0, 1)

    concrete, program = traced(fn, ([None, n], tf.float32))
    assert n < 100 or "__builtin_reduce_and" in compile_program(program).runs["v3"]
    generated = compiled(program)
    x = np.zeros((3, n), np.float32)
    x[1] -= 1.0
    for k in {0, n // 2, n - 1}:
        for value in (8.5, 1.0, -1.0):
            x[:2, k] = value
            agree(concrete, program, x, generated=generated)
        x[2, k] = 9.0
        with pytest.raises(InvalidArgument, match="did not hold element-wise"):
            generated([x])
        x[:, k] = 0.0


def test_each_assertion_has_its_text():
    def fn(x, n):
        tf.debugging.assert_positive(x, "100% positive")
        tf.debugging.assert_less(x, tf.cast(n, tf.float32), "small")
        return x + 1.0

    specs = [VECTOR, NUMBER]
    check(fn, specs, [[floats(1), number(2)]], [[floats(1, 2), number(2)]], "small")
    check(fn, specs, [[floats(), number(2)]], [[floats(1, 0), number(2)]], "100% positive")


def test_an_assertion_that_a_result_needs_no_more_than_others():
    """Nothing reads what it tells, and what it is computed from is computed for its sake alone."""

    def fn(x):
        w = tf.constant(np.ones((3, 3), np.float32))
        tf.debugging.assert_less(tf.exp(x @ w), 10.0, "must hold")
        return x[0]

    wrong = np.ones((4, 3), np.float32)
    check(fn, [([None, 3], tf.float32)], [[0.1 * wrong]], [[wrong]])


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_numbers_that_must_be_finite(dtype):
    def fn(x):
        y = tf.debugging.assert_all_finite(1.0 / x, "must be finite")
        return tf.raw_ops.CheckNumericsV2(tensor=y - 1.0, message="still")

    concrete, program = traced(fn, ([None], dtype))
    generated = compiled(program)
    for x in (np.array(x, dtype) for x in ([1, 2], [], [-4])):
        agree(concrete, program, x, generated=generated)
    for x in (np.array(x, dtype) for x in ([1, 0], [np.nan], [1, 2, -0.0])):
        with pytest.raises(tf.errors.InvalidArgumentError, match="must be finite"):
            concrete(tf.constant(x))
        with pytest.raises(InvalidArgument, match="must be finite : Tensor had Inf or NaN"):
            run(program, {program.inputs[0]: x})
        with pytest.raises(InvalidArgument, match="must be finite : Tensor had Inf or NaN"):
            generated([x])


# Branches


def test_a_branch_that_data_decides():
    def fn(x):
        some = lambda: asserted(tf.shape(x)[0] > 1, "must hold", x)
        return tf.cond(tf.reduce_sum(x) > 0.0, some, lambda: x + 1.0)

    check(fn, [VECTOR], [[floats(1, 2)], [floats(-1)], [floats()]], [[floats(1)]])


def test_a_condition_on_data_on_either_branch():
    def fn(x, n):
        few = lambda: asserted(tf.reduce_max(x) < 3.0, "must hold", x * 2.0)
        many = lambda: asserted(tf.reduce_min(x * x) > 1.0, "must hold", x)
        return tf.cond(n > 0, few, lambda: tf.cond(tf.reduce_max(x) > 0, many, lambda: x - 1.0))

    right = [[floats(1, 2), number(1)], [floats(5, 4), number(0)], [floats(-1, 0), number(0)]]
    wrong = [[floats(4, 5), number(1)], [floats(4, 1), number(0)]]
    check(fn, [VECTOR, NUMBER], right, wrong)


def test_what_fails_where_a_branch_is_not_taken_is_left():
    def fn(n, x):
        def few():
            return asserted(9 // n < 5, "few", x)

        return tf.cond(tf.reduce_sum(x) > 0.0, few, lambda: x + 1.0)

    with pytest.raises(Unsupported, match="may divide by zero"):
        traced(fn, NUMBER, VECTOR)


# Loops


def steps(x, n):
    """Of a recurrence, each step of which must hold."""

    def body(i, h):
        h = h * 2.0 + x
        return i + 1, asserted(tf.reduce_sum(h) < 20.0, "must hold", h)

    return tf.while_loop(lambda i, _: i < n, body, (0, x))[1]


def test_a_step_of_a_loop():
    """None is run; none, the first, and the last one fail."""
    right = [[floats(1, 1), number(0)], [floats(90), number(0)], [floats(1, 1), number(2)]]
    wrong = [[floats(9), number(1)], [floats(1, 1), number(3)], [floats(1), number(9)]]
    check(steps, [VECTOR, NUMBER], right, wrong)


def test_what_must_hold_of_a_step_takes_no_memory_of_others():
    _, program = traced(steps, VECTOR, NUMBER)
    scheduled = schedule_program(program)
    carried = {t.name for t in scheduled.program.tensors if t.role == "temp" and len(t.shape) == 2}
    assert [scheduled.storage.windows[name][0] for name in carried] == [2]


def test_a_step_that_needs_no_other():
    """What it reads is an input, or the number of the step."""

    def fn(x, n):
        def body(i, h):
            h = asserted(x[i] < 3.0, "must hold", h)
            return i + 1, asserted(i < 3, "must hold", h + x[i])

        return tf.while_loop(lambda i, _: i < n, body, (0, 0.0))[1]

    right = [[floats(1, 2, 9), number(2)], [floats(9), number(0)], [floats(), number(0)]]
    wrong = [[floats(1, 2, 9), number(3)], [floats(9), number(1)], [floats(1, 1, 1, 1), number(4)]]
    check(fn, [VECTOR, NUMBER], right, wrong)


@pytest.mark.parametrize("data", [True, False])
def test_what_is_the_same_in_all_steps(data):
    """It need not hold if there are none."""

    def fn(x, n):
        def body(i, h):
            condition = tf.reduce_sum(x) < 9.0 if data else tf.shape(x)[0] < 3
            return i + 1, asserted(condition, "must hold", h + x)

        return tf.while_loop(lambda i, _: i < n, body, (0, x))[1]

    right = [[floats(1, 2), number(2)], [floats(9, 9, 9), number(0)], [floats(9, 9, 9), number(-2)]]
    check(fn, [VECTOR, NUMBER], right, [[floats(9, 9, 9), number(1)]])


def until(x):
    """It holds in the steps that are run."""

    def body(i, y):
        y = y + x
        return i + 1, asserted(y[0] < 13.0, "must hold", y)

    return tf.while_loop(lambda i, y: (i < 9) & (y[0] < 10.0), body, (0, x))[1]


def test_a_step_before_an_exit():
    check(until, [VECTOR], [[floats(3)], [floats(20)], [floats(1)], [floats(0)]], [[floats(7)]])


def test_an_assertion_behind_an_exit():
    def fn(x):
        n, y = tf.while_loop(lambda n, y: y[0] < 9.0, lambda n, y: (n + 1, y * 2.0), (0, x))
        return asserted(n < 3, "must hold", y)

    check(fn, [VECTOR], [[floats(9)], [floats(3)]], [[floats(1)]])


def test_an_exit_inside_of_a_loop():
    """Steps behind the exit of the inner loop are no steps."""

    def fn(x):
        def walk(i, total):
            def body(k, y):
                return k + 1, asserted(y < 6.0, "must hold", y + 1.0)

            y = tf.while_loop(
                lambda k, y: y < x[i], body, (0, tf.cast(i, tf.float32)), maximum_iterations=9
            )[1]
            return i + 1, total + y

        return tf.while_loop(lambda i, _: i < tf.shape(x)[0], walk, (0, 0.0))[1]

    right = [[floats(3, 6, 0)], [floats()], [floats(-1, -1)]]
    check(fn, [VECTOR], right, [[floats(3, 7, 0)], [floats(8, 0)]])


def test_an_assertion_of_a_condition():
    """It is evaluated once more than the body."""

    def fn(x, n):
        def going(i, y):
            with tf.control_dependencies([tf.debugging.Assert(y[0] < 9.0, ["must hold"])]):
                return i < n

        return tf.while_loop(going, lambda i, y: (i + 1, y + x), (0, x))[1]

    right = [[floats(1), number(0)], [floats(3), number(1)]]
    check(fn, [VECTOR, NUMBER], right, [[floats(9), number(0)], [floats(3), number(2)]])


# Calls that fail come to an end


def halved(x, by):
    return tf.while_loop(lambda y: y[0] > 1.0, lambda y: [y / by], [x])[0]


def test_a_loop_that_does_not_end_if_something_does_not_hold():
    def fn(x, by):
        y = halved(x, by)
        with tf.control_dependencies([tf.debugging.Assert(by[0] > 1.0, ["must hold"])]):
            return tf.identity(y)

    check(fn, [VECTOR, VECTOR], [[floats(9), floats(2)]], [[floats(9), floats(1)]])


def test_a_loop_that_does_not_end_if_a_step_of_another_does_not_hold():
    def fn(x, by):
        step = lambda i, s: (i + 1, asserted(by[i] > 1.0, "must hold", s + by[i]))
        s = tf.while_loop(lambda i, _: i < tf.shape(by)[0], step, (0, 0.0))[1]
        return halved(x, by[0]) + s

    right = [[floats(9), floats(2, 3)]]
    check(fn, [VECTOR, VECTOR], right, [[floats(9), floats(1, 3)], [floats(9), floats(0.5)]])


def test_a_loop_that_does_not_end_if_a_branch_does_not_hold():
    def fn(x, by):
        on = tf.cond(
            x[1] > 0.0,
            lambda: asserted(tf.reduce_max(by) > 1.0, "must hold", by),
            lambda: tf.abs(by) + 2.0,
        )
        return halved(x, on[0])

    right = [[floats(9, 1), floats(2)], [floats(9, -1), floats(0)]]
    check(fn, [VECTOR, VECTOR], right, [[floats(9, 1), floats(1)]])


def test_a_step_of_a_loop_that_does_not_end():
    def fn(x, by):
        step = lambda y: [asserted(y[0] < 9.0, "must hold", y / by)]
        return tf.while_loop(lambda y: y[0] > 1.0, step, [x])[0]

    check(fn, [VECTOR, VECTOR], [[floats(8), floats(2)]], [[floats(8), floats(0.5)]])


def test_cuda():
    """Kernels fail with the same messages."""
    for fn, specs, right, wrong in [
        (steps, [VECTOR, NUMBER], [floats(1, 1), number(2)], [floats(1, 1), number(3)]),
        (until, [VECTOR], [floats(3)], [floats(7)]),
    ]:
        concrete, program = traced(fn, *specs)
        emulated = Emulated(program)
        (y,) = emulated(right)
        np.testing.assert_allclose(y, concrete(*map(tf.constant, right)), rtol=1e-5)
        with pytest.raises(InvalidArgument, match=r"assertion failed: \[must hold\]"):
            emulated(wrong)


def test_a_saved_model(tmp_path):
    """The op fails as the ops did that it stands for, and so it is without TensorFlow."""
    module = tf.Module()
    specs = [tf.TensorSpec([None], tf.float32, name="x"), tf.TensorSpec([], tf.int32, name="n")]
    module.steps = tf.function(lambda x, n: {"y": steps(x, n)}, input_signature=specs)
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.steps)
    result = sirius_tf.optimize(
        tmp_path / "model", tmp_path / "out", options=sirius_tf.Options(keep_slow=True)
    )
    (signature,) = result.signatures
    assert not signature.left
    original, made = (tf.saved_model.load(str(tmp_path / name)) for name in ("model", "out"))
    right, wrong = ({"x": floats(1, 1), "n": number(n)} for n in (2, 3))
    want = original.signatures["serving_default"](**right)["y"]
    for call in (made.signatures["serving_default"], runtime.load(tmp_path / "out")):
        np.testing.assert_allclose(call(**right)["y"], want)
        with pytest.raises(ERRORS, match=r"assertion failed: \[must hold\]"):
            call(**wrong)
