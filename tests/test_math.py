# SPDX-License-Identifier: Apache-2.0
"""sirius_math.h against float64 references, for each instruction set that this machine runs."""

import ctypes
import math
import mmap
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sirius_tf.ir.dtypes import numpy_dtype

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "sirius_tf" / "native"
ISAS = {"x86_64_v3": (8, {"avx2", "fma"}), "x86_64_v4": (16, {"avx512f", "avx512dq"})}
F32 = ctypes.POINTER(ctypes.c_float)
# Exact by definition; the rest are held to MAX_ULP.
EXACT = {"floor", "ceil", "round"}
MAX_ULP = 2.0

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 only")


def _cpu_flags():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.split(":")[1].split())
    return set()


@pytest.fixture(scope="module", params=ISAS)
def lib(request, tmp_path_factory):
    # Compiled even where it cannot run: the header must at least build, and import no symbol.
    path = tmp_path_factory.mktemp(request.param) / "math.so"
    command = f"""{sys.executable} -m ziglang cc -march={request.param} -O3 -Wall -Wextra -Werror
        -std=gnu11 -ffp-contract=on -fno-sanitize=all -nostdlib -shared -fPIC
        -Wl,-z,defs -I{NATIVE} {ROOT / "tests" / "math_table.c"} -o {path}"""
    result = subprocess.run(command.split(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    lanes, flags = ISAS[request.param]
    if not flags <= _cpu_flags():
        pytest.skip(f"this CPU does not run {request.param}")
    library = ctypes.CDLL(str(path))
    assert library.t_lanes() == lanes
    for name in ("add", "max", "min"):
        getattr(library, f"t_reduce_{name}").restype = ctypes.c_float
    return library


def _apply(lib, name, x, z=None):
    x = np.ascontiguousarray(x, np.float32)
    z = x if z is None else np.ascontiguousarray(z, np.float32)
    y = np.empty_like(x)
    pointers = [a.ctypes.data_as(F32) for a in (x, z, y)]
    getattr(lib, f"t_{name}")(*pointers, ctypes.c_int64(x.size))
    return y


def _specials():
    tiny = np.array([0, 1, 2, 3, 0x7FFFFF, 0x800000, 0x800001], np.uint32).view(np.float32)
    values = [0.5, 1, 1.5, 2, 2.5, 3, 4, 0.92, 0.625, 8.99, 9.02, 9.125, 17.3, 25.0, 3.9, 30.0]
    values += [0.5**0.5, 2**0.5, math.pi / 2, math.pi, 1e5, 87.3, 88.3, 88.722839, 88.72284, 89.0]
    values += [103.2, 103.9, 104.0, 2.0**23, 2.0**24 - 1, 2.0**24, 2.0**31, 2.0**40, 2.0**52]
    values += [3.4028235e38, math.inf, math.nan]
    near = np.array(values, np.float32)
    with np.errstate(all="ignore"):
        below, above = (np.nextafter(near, np.float32(v)) for v in (0, np.inf))
        near = np.concatenate([near, below, above])
    both = np.concatenate([tiny, near])
    return np.concatenate([both, -both])


def _sweep():
    """Every exponent of both signs alike, then the ranges where the functions are not trivial."""
    rng = np.random.default_rng(7)
    bits = np.arange(0, 0x7F800000, 10007, dtype=np.uint32)
    bits += rng.integers(0, 10007, bits.size, dtype=np.uint32)
    bits = bits[bits < 0x7F800000]
    positive = bits.view(np.float32)
    ranges = [rng.uniform(-r, r, 60000).astype(np.float32) for r in (0.5, 1, 2, 5, 20, 110, 1e5)]
    return np.concatenate([positive, -positive, *ranges, _specials()])


def _ulps(got, exact):
    """Error in units of the float32 spacing at the result (that of subnormals near zero). An
    infinite result counts as 2^128, so that being late to overflow is an error of an ulp too."""
    got64, want64 = got.astype(np.float64), exact.astype(np.float64)
    with np.errstate(all="ignore"):
        rounded = want64.astype(np.float32)
        clip = 2.0**128
        error = np.abs(np.clip(got64, -clip, clip) - np.clip(want64, -clip, clip))
        finite = np.where(np.isfinite(rounded), rounded, np.float32(3.4e38))
        error = error / np.spacing(np.abs(finite)).astype(np.float64)
    # NaN and the sign of zero are right or wrong; wrong is infinitely many ulps.
    error = np.where(np.isnan(want64) & np.isnan(got64), 0.0, error)
    error = np.where(np.isnan(want64) ^ np.isnan(got64), np.inf, error)
    sign = (rounded == 0) & (got == 0) & (np.signbit(rounded) != np.signbit(got))
    return np.where(sign, np.inf, error)


UNARY = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "erfc": np.vectorize(math.erfc, otypes=[np.float64]),
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "sin": np.sin,
    "cos": np.cos,
}


def _check(name, got, exact, *inputs):
    error = _ulps(got, exact)
    worst = int(np.argmax(error))
    at = ", ".join(float(v[worst]).hex() for v in inputs)
    line = f"{name}: {error[worst]:.3f} ulp at {at}: {got[worst]!r} for {exact[worst]!r}"
    print(line)
    assert error[worst] <= (0 if name in EXACT else MAX_ULP), line


@pytest.mark.parametrize("name", UNARY)
def test_unary(lib, name):
    x = _sweep()
    with np.errstate(all="ignore"):
        exact = UNARY[name](x.astype(np.float64))
    _check(name, _apply(lib, name, x), exact, x)


def test_pow(lib):
    rng = np.random.default_rng(8)
    x = [rng.uniform(0, 4, 100000), np.exp(rng.uniform(-100, 88, 100000))]
    y = [rng.uniform(-60, 60, 100000), rng.uniform(-4, 4, 100000)]
    x += [rng.uniform(0.9999, 1.0001, 100000), rng.uniform(-9, 9, 100000)]
    y += [rng.uniform(-1e6, 1e6, 100000), rng.integers(-40, 41, 100000)]
    grid = np.meshgrid(_specials(), _specials())
    x = np.concatenate([*x, grid[0].ravel()]).astype(np.float32)
    y = np.concatenate([*y, grid[1].ravel()]).astype(np.float32)
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.float64), y.astype(np.float64))
    _check("pow", _apply(lib, "pow", x, y), exact, x, y)


@pytest.mark.parametrize(("name", "reference"), [("max", np.maximum), ("min", np.minimum)])
def test_max_min(lib, name, reference):
    a, b = (v.ravel() for v in np.meshgrid(_specials(), _specials()))
    got, want = _apply(lib, name, a, b), reference(a, b)
    np.testing.assert_array_equal(got, want)


def test_references_against_mpmath():
    """The float64 references are themselves good to far less than a float32 ulp."""
    mpmath = pytest.importorskip("mpmath")
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
    x = np.concatenate([_sweep(), ties, -ties, odd])
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
