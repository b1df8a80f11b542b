# SPDX-License-Identifier: Apache-2.0
"""Accuracy of functions of floats: where they are tried, and by how much they may differ."""

import ctypes
import math

import numpy as np

from sirius_tf.ir.functions import ELEMENTARY, FUNCTIONS

F32 = ctypes.POINTER(ctypes.c_float)
# Exact by definition; the rest are held to MAX_ULP.
EXACT = {"floor", "ceil", "round"}
MAX_ULP = 2.0
UNARY = {
    fn: FUNCTIONS[fn].evaluate
    for fn in sorted(EXACT | ELEMENTARY | {"sqrt", "rsqrt"})
    if FUNCTIONS[fn].arity == 1
}
"""Functions of one float that headers have, in numpy's words: of doubles they are references."""


def apply(lib, name, x, z=None):
    x = np.ascontiguousarray(x, np.float32)
    z = x if z is None else np.ascontiguousarray(z, np.float32)
    y = np.empty_like(x)
    pointers = [a.ctypes.data_as(F32) for a in (x, z, y)]
    getattr(lib, f"t_{name}")(*pointers, ctypes.c_int64(x.size))
    return y


def specials():
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


def sweep():
    """Every exponent of both signs alike, then the ranges where the functions are not trivial."""
    rng = np.random.default_rng(7)
    bits = np.arange(0, 0x7F800000, 10007, dtype=np.uint32)
    bits += rng.integers(0, 10007, bits.size, dtype=np.uint32)
    bits = bits[bits < 0x7F800000]
    positive = bits.view(np.float32)
    ranges = [rng.uniform(-r, r, 60000).astype(np.float32) for r in (0.5, 1, 2, 5, 20, 110, 1e5)]
    return np.concatenate([positive, -positive, *ranges, specials()])


def ulps(got, exact):
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


def check(name, got, exact, *inputs):
    error = ulps(got, exact)
    worst = int(np.argmax(error))
    at = ", ".join(float(v[worst]).hex() for v in inputs)
    line = f"{name}: {error[worst]:.3f} ulp at {at}: {got[worst]!r} for {exact[worst]!r}"
    print(line)
    assert error[worst] <= (0 if name in EXACT else MAX_ULP), line
