# SPDX-License-Identifier: Apache-2.0
"""sirius_math64.h against references of more precision, as test_math.py has it for floats."""

import ctypes
import math

import mpmath
import numpy as np
import pytest

from tests.support import accuracy

MAX_ULP = dict.fromkeys(accuracy.EXACT, 0.0) | {"erfc": 5.0}
WORST_OF_ERFC = float.fromhex("0x1.0acdbdf6be1cep-1")
WIDE = np.longdouble


def _apply(lib, name, x, z=None):
    """The function on doubles, of which there are as many as fill vectors."""
    z = x if z is None else z
    x, z = (np.resize(v, -(-v.size // 16) * 16) for v in (x, z))
    y = np.empty_like(x)
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (x, z, y)]
    getattr(lib, f"t_{name}_f64")(*pointers, ctypes.c_int64(x.size))
    return y


def _specials():
    tiny = np.array([0, 1, 2, 2**52 - 1, 2**52, 2**52 + 1], np.uint64).view(np.float64)
    values = [0.5, 1, 1.5, 2, 2.5, 3, 22, 28, 27.2, 26.5, 0.84, 1e5, 2.0**20, 2.0**31, 2.0**52]
    values += [2.0**53 - 1, 2.0**53, 1e22, 1e300, 708.4, 709.78, 709.79, 710, 745.1, 745.2, 750]
    values += [0.5**0.5, 2**0.5, math.pi / 2, math.pi, 6381956970095103 * 2.0**797]
    values += [1.7976931348623157e308, math.inf, math.nan]
    near = np.array(values)
    with np.errstate(all="ignore"):
        near = np.concatenate([near, *(np.nextafter(near, v) for v in (0, np.inf))])
    both = np.concatenate([tiny, near])
    return np.concatenate([both, -both])


def _sweep(count):
    rng = np.random.default_rng(7)
    bits = rng.integers(0, 0x7FF << 52, count, dtype=np.uint64)
    ranges = [rng.uniform(-r, r, count) for r in (1e-3, 0.5, 1, 2, 5, 30, 750, 1e6)]
    return np.concatenate([bits.view(np.float64), -bits.view(np.float64), *ranges, _specials()])


def _error(got, exact):
    """In units of the spacing at the result; an infinite result counts as 2^1024."""
    clip = WIDE(2.0) ** 1024
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float64)
        distance = np.abs(np.clip(got.astype(WIDE), -clip, clip) - np.clip(exact, -clip, clip))
        finite = np.where(np.isfinite(rounded), rounded, 1.7e308)
        error = (distance / np.spacing(np.abs(finite)).astype(WIDE)).astype(np.float64)
    error = np.where(np.isnan(exact) & np.isnan(got), 0.0, error)
    error = np.where(np.isnan(exact) ^ np.isnan(got), np.inf, error)
    sign = (rounded == 0) & (got == 0) & (np.signbit(rounded) != np.signbit(got))
    return np.where(sign, np.inf, error)


def _check(name, got, exact, *inputs):
    error = _error(got[: exact.size], exact)
    worst = int(np.argmax(error))
    at = ", ".join(float(v[worst]).hex() for v in inputs)
    line = f"{name}: {error[worst]:.3f} ulp at {at}: {got[worst]!r} for {exact[worst]!r}"
    print(line)
    assert error[worst] <= MAX_ULP.get(name, 3.0), line


BY_MPMATH = ("erf", "erfc")  # numpy has no long double of these
WIDER = {"rsqrt": lambda x: 1 / np.sqrt(x), "sigmoid": lambda x: 1 / (1 + np.exp(-x))}
UNARY = {fn: WIDER.get(fn, of) for fn, of in accuracy.UNARY.items() if fn not in BY_MPMATH}


@pytest.mark.parametrize("name", UNARY)
def test_unary(lib, name):
    x = _sweep(30000)
    with np.errstate(all="ignore"):
        exact = UNARY[name](x.astype(WIDE))
    _check(name, _apply(lib, name, x), exact, x)


@pytest.mark.parametrize("name", BY_MPMATH)
def test_error_functions(lib, name):
    x = np.append(_sweep(300), WORST_OF_ERFC)
    with mpmath.workprec(200):  # beyond 40 they are what they are there
        values = [getattr(mpmath, name)(mpmath.mpf(float(v))) for v in np.clip(x, -40, 40)]
        high = np.array([float(v) for v in values])
        low = np.array([float(v - float(v)) for v in values])
    exact = high.astype(WIDE) + np.where(np.isfinite(low), low, 0.0)
    exact = np.copysign(exact, x) if name == "erf" else exact  # mpmath has no -0
    _check(name, _apply(lib, name, x), exact, x)


def test_pow(lib):
    rng = np.random.default_rng(8)
    count = 50000
    x = [rng.uniform(0, 4, count), np.exp(rng.uniform(-700, 700, count))]
    y = [rng.uniform(-500, 500, count), rng.uniform(-4, 4, count)]
    x += [rng.uniform(1 - 1e-9, 1 + 1e-9, count), rng.uniform(-9, 9, count)]
    y += [rng.uniform(-1e11, 1e11, count), rng.integers(-300, 300, count).astype(np.float64)]
    grid = np.meshgrid(_specials(), _specials())
    x, y = np.concatenate([*x, grid[0].ravel()]), np.concatenate([*y, grid[1].ravel()])
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(WIDE), y.astype(WIDE))
    _check("pow", _apply(lib, "pow", x, y), exact, x, y)


def test_atan2(lib):
    rng = np.random.default_rng(11)
    y, x = rng.standard_normal((2, 100000)) * np.exp(rng.uniform(-30, 30, (2, 100000)))
    grid = np.meshgrid(_specials(), _specials())
    y, x = (np.append(v, more) for v, more in zip((y, x), grid, strict=True))
    with np.errstate(all="ignore"):
        exact = np.arctan2(y.astype(WIDE), x.astype(WIDE))
    _check("atan2", _apply(lib, "atan2", y, x), exact, y, x)


@pytest.mark.parametrize(("name", "reference"), [("max", np.maximum), ("min", np.minimum)])
def test_max_min(lib, name, reference):
    a, b = (v.ravel() for v in np.meshgrid(_specials(), _specials()))
    got = _apply(lib, name, a, b)[: a.size]
    np.testing.assert_array_equal(got, reference(a, b))
