# SPDX-License-Identifier: Apache-2.0
"""Generated code of single numbers: the ends of integers, NaN, and inputs whose sizes differ."""

import itertools

import numpy as np
import pytest

from sirius_tf.bundle.link import link
from sirius_tf.compile import compile_program
from sirius_tf.errors import InvalidArgument
from sirius_tf.ir import interp
from sirius_tf.runtime import native
from tests.support.programs import B, b, call, it, load, param, program, stmt, tensor

NUMBERS = {
    "float32": [np.nan, np.inf, -np.inf, 0.0, -1.5, 2.5],
    "float64": [np.nan, np.inf, -np.inf, 0.0, -1.5, 2.5],
    "int32": [-(2**31), 2**31 - 1, -1, 1, 7, -7],
    "int64": [-(2**63), 2**63 - 1, -1, 1, 7, -7],
}
FUNCTIONS = {
    "float32": ["max", "min"],
    "float64": ["max", "min"],
    "int32": ["floordiv", "floormod", "truncdiv", "max", "min"],
    "int64": ["floordiv", "floormod", "truncdiv", "max", "min"],
}
CASES = [(fn, dtype) for dtype, names in FUNCTIONS.items() for fn in names]


def of_two(fn, dtype):
    """y = fn(a, c) of two numbers."""
    value = call(fn, load("a", dtype=dtype), load("c", dtype=dtype), dtype=dtype)
    tensors = [tensor(name, [], dtype, "input") for name in "ac"]
    tensors.append(tensor("y", [], dtype, "output"))
    return program(f"{fn}_{dtype}", [], tensors, [stmt("S", [], "y", [], value)], [])


def sums():
    """y[b] = x[b] + z[b]: the inputs have one size."""
    box = [it("b", B)]
    return program(
        "sums",
        [param("B", "x", 0)],
        [
            tensor("x", [B], role="input"),
            tensor("z", [B], role="input"),
            tensor("y", [B], role="output"),
        ],
        [stmt("S", box, "y", [b], call("add", load("x", b), load("z", b)))],
        [B],
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("scalars") / "scalars.so"
    link([compile_program(p) for p in (*(of_two(*case) for case in CASES), sums())], path, {})
    return native.Bundle(path)


@pytest.mark.parametrize(("fn", "dtype"), CASES)
def test_functions_of_two_numbers(bundle, fn, dtype) -> None:
    """The least integer divided by -1 is what wraps around; a NaN stays one on either side."""
    made = of_two(fn, dtype)
    for pair in itertools.product(np.array(NUMBERS[dtype], dtype), repeat=2):
        feeds = dict(zip("ac", pair, strict=True))
        (want,), (have,) = interp.run(made, feeds), bundle.call(made.name, list(pair))
        np.testing.assert_array_equal(have, want, err_msg=f"{fn}{pair}")


@pytest.mark.parametrize("fn", ["floordiv", "truncdiv"])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_the_least_integer_divided_by_minus_one(bundle, fn, dtype) -> None:
    least = np.array(np.iinfo(dtype).min, dtype)
    (have,) = bundle.call(f"{fn}_{dtype}", [least, np.array(-1, dtype)])
    assert have == least


@pytest.mark.parametrize("size", [2, 4])
def test_a_second_input_of_another_size_is_an_error(bundle, size) -> None:
    x = np.ones(3, "f")
    np.testing.assert_array_equal(bundle.call("sums", [x, x])[0], 2 * x)
    with pytest.raises(InvalidArgument, match=f"input z has extent {size} on axis 0, not 3"):
        bundle.call("sums", [x, np.ones(size, "f")])
