# SPDX-License-Identifier: Apache-2.0
"""sirius_math.h against float64 references, for each instruction set that this machine runs."""

import ctypes
import mmap

import mpmath
import numpy as np
import pytest

from sirius_tf.ir.dtypes import numpy_dtype
from tests.support.accuracy import F32, UNARY, apply, check, specials, sweep


@pytest.mark.parametrize("name", UNARY)
def test_unary(lib, name):
    x = sweep()
    with np.errstate(all="ignore"):
        exact = UNARY[name](x.astype(np.float64))
    check(name, apply(lib, name, x), exact, x)


def test_pow(lib):
    rng = np.random.default_rng(8)
    x = [rng.uniform(0, 4, 100000), np.exp(rng.uniform(-100, 88, 100000))]
    y = [rng.uniform(-60, 60, 100000), rng.uniform(-4, 4, 100000)]
    x += [rng.uniform(0.9999, 1.0001, 100000), rng.uniform(-9, 9, 100000)]
    y += [rng.uniform(-1e6, 1e6, 100000), rng.integers(-40, 41, 100000)]
    grid = np.meshgrid(specials(), specials())
    x = np.concatenate([*x, grid[0].ravel()]).astype(np.float32)
    y = np.concatenate([*y, grid[1].ravel()]).astype(np.float32)
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.float64), y.astype(np.float64))
    check("pow", apply(lib, "pow", x, y), exact, x, y)


def test_atan2(lib):
    rng = np.random.default_rng(11)
    y, x = rng.standard_normal((2, 300000)) * np.exp(rng.uniform(-9, 9, (2, 300000)))
    grid = np.meshgrid(specials(), specials())
    y, x = (np.append(v, more).astype(np.float32) for v, more in zip((y, x), grid, strict=True))
    exact = np.arctan2(y.astype(np.float64), x.astype(np.float64))
    check("atan2", apply(lib, "atan2", y, x), exact, y, x)


@pytest.mark.parametrize(("name", "reference"), [("max", np.maximum), ("min", np.minimum)])
def test_max_min(lib, name, reference):
    a, b = (v.ravel() for v in np.meshgrid(specials(), specials()))
    got, want = apply(lib, name, a, b), reference(a, b)
    np.testing.assert_array_equal(got, want)


def test_references_against_mpmath():
    """The float64 references are themselves good to far less than a float32 ulp."""
    functions = {
        "erf": mpmath.erf,
        "erfc": mpmath.erfc,
        "sin": mpmath.sin,
        "cos": mpmath.cos,
        "log1p": mpmath.log1p,
    }
    functions |= {"expm1": mpmath.expm1, "tanh": mpmath.tanh, "exp": mpmath.exp}
    rng = np.random.default_rng(9)
    x = np.concatenate([rng.uniform(0, 80, 100), 10.0 ** rng.uniform(-30, 1, 100)])
    with mpmath.workprec(300):
        for name, function in functions.items():
            big = [1e22, 3.4e38, 6381956970095103 * 2.0**70] if name in ("sin", "cos") else []
            points = np.concatenate([x, big]).astype(np.float32).astype(np.float64)
            want = np.array([float(function(mpmath.mpf(v))) for v in points])
            np.testing.assert_allclose(UNARY[name](points), want, rtol=1e-13, err_msg=name)


def test_reductions(lib):
    rng = np.random.default_rng(10)
    lanes = lib.t_lanes()
    for at in range(-1, lanes):
        x = rng.integers(-100, 100, lanes).astype(np.float32)
        if at >= 0:
            x[at] = np.nan
        pointer = x.ctypes.data_as(F32)
        for name, reference in (("add", np.sum), ("max", np.max), ("min", np.min)):
            got = getattr(lib, f"t_reduce_{name}")(pointer)
            np.testing.assert_equal(np.float32(got), np.float32(reference(x)))


@pytest.mark.parametrize(
    ("name", "dtype"), [("bf16", "bfloat16"), ("bf16_alone", "bfloat16"), ("f16", "float16")]
)
def test_half_precision(lib, name, dtype):
    dtype = numpy_dtype(dtype)
    ties = np.arange(0x3F800000, 0x3F840000, 0x400, dtype=np.uint32).view(np.float32)
    odd = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F7FFFFF], np.uint32).view(np.float32)
    x = np.concatenate([sweep(), ties, -ties, odd])
    x = np.resize(x, x.size // 16 * 16)
    half, y = np.empty(x.size, np.uint16), np.empty_like(x)
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (x, half, y)]
    getattr(lib, f"t_round_{name}")(*pointers, ctypes.c_int64(x.size))
    with np.errstate(all="ignore"):
        want = x.astype(dtype)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))
    number = ~np.isnan(x)
    np.testing.assert_array_equal(half[number], want.view(np.uint16)[number])
    np.testing.assert_array_equal(y[number], want.astype(np.float32)[number])


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [("f32", "f4"), ("f64", "f8"), ("i32", "i4"), ("i64", "i8"), ("u16", "i2"), ("f16", "f2")],
)
def test_partial_access(lib, suffix, dtype):
    """Both arrays end where an inaccessible page begins; what precedes and follows stays."""
    lanes, page, item = lib.t_lanes(), mmap.PAGESIZE, np.dtype(dtype).itemsize
    copy = getattr(lib, f"t_copy_{suffix}")
    libc = ctypes.CDLL(None, use_errno=True)
    buffers, bases = [], []
    for _ in range(2):
        buffer = mmap.mmap(-1, 2 * page)
        base = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        assert libc.mprotect(ctypes.c_void_p(base + page), page, 0) == 0
        buffers.append(np.frombuffer(buffer, dtype, page // item))
        bases.append(base)
    source, target = buffers
    source[:] = np.arange(1, source.size + 1)
    for n in range(lanes + 1):
        target[:] = -1
        copy(*(ctypes.c_void_p(base + page - n * item) for base in bases), n)
        assert (target[: target.size - n] == -1).all()
        np.testing.assert_array_equal(target[target.size - n :], source[source.size - n :])
        # Away from the page: lanes after n stay as they were.
        target[:] = -1
        copy(ctypes.c_void_p(bases[0]), ctypes.c_void_p(bases[1] + item), n)
        np.testing.assert_array_equal(target[1 : n + 1], source[:n])
        assert target[0] == -1
        assert (target[n + 1 :] == -1).all()
