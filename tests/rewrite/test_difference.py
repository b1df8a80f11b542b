# SPDX-License-Identifier: Apache-2.0
"""What counts as the same result, at its thresholds."""

from math import inf, nan

import ml_dtypes
import numpy as np
import pytest

from sirius_tf.frontend.graph import Edge, Graph, Node
from sirius_tf.rewrite.difference import allowed, compare, relative_error, rounding

TOLERANCE = 1e-5


def wrong(got, want, tolerance=TOLERANCE, floor=(0.0,)):
    return compare({"y": np.array(got)}, {"y": np.array(want)}, tolerance, lambda: floor).wrong


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_error_is_relative_to_all_of_a_result(dtype) -> None:
    want = np.full(100, 3.0, dtype)
    assert relative_error(want, want) == 0.0
    assert relative_error(want * (1 + 2**-10), want) == pytest.approx(2**-10)
    one = want.copy()
    one[7] += 3.0  # of a hundred: a tenth in the norm
    assert relative_error(one, want) == pytest.approx(0.1)


def test_the_tolerance_is_where_it_is() -> None:
    want = np.full(64, 2.0)
    assert not wrong(want * (1 + 0.99 * TOLERANCE), want)
    assert wrong(want * (1 + 1.01 * TOLERANCE), want) == ("y",)
    assert wrong(want * (1 - 1.01 * TOLERANCE), want) == ("y",)
    assert not wrong(want * (1 + 5e-3), want, tolerance=1e-2)
    assert not wrong([1.25], [1.0], tolerance=0.25)  # not less than it, but no more


def test_more_is_allowed_where_the_original_changes_by_more_itself() -> None:
    want = np.full(64, 2.0)
    assert not wrong(want * (1 + 9e-4), want, floor=[1e-3])
    assert wrong(want * (1 + 2e-3), want, floor=[1e-3])
    assert wrong(want * nan, want, floor=[1e-3])


def test_the_original_is_asked_only_where_something_differs() -> None:
    def unasked():
        raise AssertionError

    same = {"y": np.ones(3)}
    assert compare(same, same, TOLERANCE, unasked).worst == 0.0


@pytest.mark.parametrize("bad", [nan, inf, -inf])
@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "complex64", ml_dtypes.bfloat16]
)
def test_what_is_not_finite_must_be_so_in_both(dtype, bad) -> None:
    plain = np.ones(1000, dtype)
    broken = plain.copy()
    broken[500] = bad
    assert relative_error(broken, plain) == inf
    assert relative_error(plain, broken) == inf
    assert relative_error(broken, broken.copy()) == 0.0
    assert wrong(broken, plain, tolerance=1e9) == ("y",)


def test_infinities_have_signs_and_are_no_nan() -> None:
    for a, b in [(inf, -inf), (inf, nan), (-inf, nan)]:
        assert relative_error(np.array([a, 1.0]), np.array([b, 1.0])) == inf
    want = np.array([inf, -inf, nan, 1.0])
    assert relative_error(want * (1 + 1e-6), want) == pytest.approx(1e-6)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "uint64"])
def test_integers_are_equal_or_wrong(dtype) -> None:
    want = np.full(1000, np.iinfo(dtype).max, dtype)
    assert relative_error(want.copy(), want) == 0.0
    got = want.copy()
    got[999] -= 1
    assert relative_error(got, want) == inf
    assert wrong(got, want, tolerance=1e9) == ("y",)


def test_bools_and_strings_are_equal_or_wrong() -> None:
    assert relative_error(np.array([True, False]), np.array([True, False])) == 0.0
    assert relative_error(np.array([True, True]), np.array([True, False])) == inf
    words = np.array([b"a", b"b"], object)
    assert relative_error(words.copy(), words) == 0.0
    assert relative_error(np.array([b"a", b"c"], object), words) == inf


def test_shapes_and_types_are_part_of_a_result() -> None:
    want = np.ones((2, 3), "float32")
    for got in (want.reshape(3, 2), want[:, :2], want.astype("float64"), want.astype("int32")):
        assert relative_error(got, want) == inf
    assert relative_error(np.float32(1.0), np.ones(1, "float32")) == inf


def test_empty_results() -> None:
    empty = np.zeros((0, 4), "float32")
    assert relative_error(empty, empty) == 0.0
    assert relative_error(empty, np.zeros((4, 0), "float32")) == inf
    assert compare({}, {}, TOLERANCE, list).worst == 0.0


def test_zeros_of_either_sign_are_the_same() -> None:
    assert relative_error(np.array([-0.0, 0.0]), np.array([0.0, -0.0])) == 0.0


def test_beside_zeros_the_error_is_absolute() -> None:
    assert relative_error(np.full(1, 1e-6), np.zeros(1)) == pytest.approx(1e-6)


def test_large_numbers_do_not_hide_behind_their_squares() -> None:
    want = np.array([1e200, 1e200])
    assert relative_error(want * 1.5, want) == pytest.approx(0.5)
    assert relative_error(-1.7e308 * np.ones(2), 1.7e308 * np.ones(2)) == pytest.approx(2.0)


def test_a_result_that_one_side_lacks_is_wrong() -> None:
    one = {"y": np.ones(2)}
    two = {**one, "z": np.ones(2)}
    assert compare(one, two, TOLERANCE, lambda: [0.0, 0.0]).wrong == ("z",)
    assert compare(two, one, TOLERANCE, lambda: [0.0]).wrong == ("z",)
    assert compare(two, one, TOLERANCE, lambda: [0.0]).worst == inf


def test_half_precision_is_allowed_some_steps_of_it() -> None:
    def graph(*dtypes, bodies=()):
        nodes = tuple(
            Node(f"n{k}", "Exp", (), (), {}, (dtype,), ((2,),)) for k, dtype in enumerate(dtypes)
        )
        return Graph("g", (), (("y", Edge("n0", 0)),), nodes, dict(bodies))

    assert allowed(graph("float32", "int32"), TOLERANCE) == TOLERANCE
    assert allowed(graph("float32", "float16"), TOLERANCE) == 4 * 2.0**-10
    assert allowed(graph("float16", "bfloat16"), TOLERANCE) == 4 * 2.0**-7
    assert allowed(graph("float16"), 0.5) == 0.5
    body = graph("bfloat16")
    assert allowed(graph("float32", bodies={"body": body}), TOLERANCE) == 4 * 2.0**-7


def test_rounding_is_what_a_function_makes_of_last_bits() -> None:
    x = np.array([1.0, 1.0 + 2e-3], "f")
    plain, cancelled = rounding(lambda a: [a[0] * 3, a[0][:1] - a[0][1:]], [x])
    assert 1e-8 < plain < 4e-6
    assert 1e-5 < cancelled < 1e-2
    assert rounding(lambda a: [a[0] + 1], [np.arange(3)]) == [0.0]


def test_what_jumps_with_the_last_bits_has_no_rounding() -> None:
    """An ArgMax between equals changes with them: that allows no other index."""
    x = np.ones(50, "f")
    (found,) = rounding(lambda a: [np.argmax(a[0])], [x])
    assert found == 0.0
