# SPDX-License-Identifier: Apache-2.0
"""Each function of the IR on each target: the tables are total, and what they spell is right."""

import ctypes
import math

import numpy as np
import pytest

from sirius_tf.bundle import nvrtc
from sirius_tf.bundle.cc import compile_shared
from sirius_tf.bundle.library import native_directory
from sirius_tf.codegen import scalar, vector
from sirius_tf.codegen.cuda import scalar as cuda
from sirius_tf.codegen.cuda.scalar import CUDA
from sirius_tf.codegen.scalar import PRELUDE, C
from sirius_tf.errors import Unsupported
from sirius_tf.ir.dtypes import FLOAT
from sirius_tf.ir.functions import ELEMENTARY, FUNCTIONS, PREDICATES, is_generated
from tests.emulator import emulator

NUMBERS = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8")
COUNT = 32  # elements of each argument: vectors are full
ON_BOOLS = {"and": "cd", "or": "cd", "not": "c", "eq": "cd", "ne": "cd", "select": "ccd"}
ARGUMENTS = {"select": "cxy", "bounded": "nk"}  # of numbers; others have x, or x and y


def arrays(dtype):
    """x, and y without zeros; n and k with 0 <= n < k; bools c and d."""
    rng = np.random.default_rng(0)
    if dtype in FLOAT:
        x = rng.uniform(0.1, 3, COUNT) * rng.choice([-1, 1], COUNT)
        x[:6] = 0.0, -0.0, 0.5, 2.5, math.inf, math.nan
        y = rng.uniform(0.5, 3, COUNT)
    else:
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        x = np.array([least, most, *rng.integers(max(least, -99), 99, COUNT - 2)])
        y = rng.integers(1, 9, COUNT) * (rng.choice([-1, 1], COUNT) if least else 1)
    n, k = np.arange(COUNT) % 7, np.full(COUNT, 7)
    found = {name: a.astype(dtype) for name, a in zip("xynk", (x, y, n, k), strict=True)}
    return found | dict(zip("cd", rng.integers(0, 2, (2, COUNT)).astype(bool), strict=True))


def calls(dtype):
    """The functions of numbers of a dtype and, with those of int32, of bools: name, arguments, and
    the result's dtype."""
    found = [(fn, names, "bool") for fn, names in ON_BOOLS.items() if dtype == "int32"]
    elsewhere = {"and", "or", "not", "demand", "cast"}
    elsewhere |= set() if dtype in FLOAT else {"isnan", "isfinite"}
    for fn in FUNCTIONS.keys() - elsewhere:
        result = "bool" if fn in PREDICATES else dtype
        if is_generated(fn, result):
            found.append((fn, ARGUMENTS.get(fn, "xy"[: FUNCTIONS[fn].arity]), result))
    return sorted(found)


def sources(names, dtype):
    return ["bool" if name in "cd" else dtype for name in names]


def results(number, dtype):
    """Where C of a result of that number is stored: of `dtype`, or bools."""
    return f"{'p' if dtype == 'bool' else 'r'}[{COUNT * number} + i]"


def scalars(language, dtype, made):
    lines = []
    for number, (fn, names, result) in enumerate(made):
        source = sources(names, dtype)[-1]
        text = language.apply(fn, [f"{name}[i]" for name in names], result, source)
        lines.append(f"for (int i = 0; i < {COUNT}; i++) {results(number, result)} = {text};")
    return lines


def vectors(dtype, made):
    lines = []
    for number, (fn, names, result) in enumerate(made):
        loads = {n: f"sr_load_{vector.MEMORY[dtype]}({n} + i)" for n in "xynk"}
        loads |= {n: f"sr_mask_u8(sr_load_u8({n} + i))" for n in "cd"}
        given = sources(names, dtype)
        text = vector.apply(fn, [f"({loads[n]})" for n in names], given, result)
        text = f"sr_bytes_u8({text})" if result == "bool" else text
        store = f"sr_store_{vector.MEMORY[result]}(&{results(number, result)}, {text})"
        lines.append(f"for (int i = 0; i < {COUNT}; i += SIRIUS_LANES) {store};")
    return lines


def in_vectors(dtype):
    """What has a vector form."""
    found = []
    for fn, names, result in calls(dtype):
        given = sources(names, dtype)
        if vector.has(fn, given, result):
            found.append((fn, names, result))
        else:
            with pytest.raises(vector.NotVectorizableError):
                vector.apply(fn, [vector.splat("0", one) for one in given], given, result)
    return found


def signature(types, dtype):
    arguments = [*(f"const {types[dtype]} *{n}" for n in "xynk"), "const uint8_t *c"]
    return ", ".join([*arguments, "const uint8_t *d", f"{types[dtype]} *r", "uint8_t *p"])


def check(dtype, made, r, p):
    given = arrays(dtype)
    for number, (fn, names, result) in enumerate(made):
        have = (p.astype(bool) if result == "bool" else r)[COUNT * number :][:COUNT]
        with np.errstate(all="ignore"):
            want = FUNCTIONS[fn].evaluate(*(given[n] for n in names)).astype(result)
        rounded = fn in ELEMENTARY or fn == "rsqrt"
        tolerance = 4 * np.finfo(dtype).eps if rounded else 0
        np.testing.assert_allclose(have, want, tolerance, 0, err_msg=f"{fn} of {dtype}")


def test_tables_are_total():
    assert scalar.FUNCTIONS.keys() == FUNCTIONS.keys() == cuda.FUNCTIONS.keys()
    assert vector.FUNCTIONS.keys() | vector.SCALAR == FUNCTIONS.keys()
    assert not vector.FUNCTIONS.keys() & vector.SCALAR


@pytest.mark.parametrize("language", [C, CUDA])
def test_all_dtypes_are_converted(language):
    for source in language.types:
        for dtype in language.types:
            assert language.apply("cast", ["x"], dtype, source)
    with pytest.raises(Unsupported, match="no code for exp of int32"):
        language.apply("exp", ["x"], "int32", "int32")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """All functions in C: of scalars, and of vectors."""
    code = [PRELUDE, "SiriusCall nobody, *call = &nobody;"]
    for dtype in NUMBERS:
        kinds = {"scalars": scalars(C, dtype, calls(dtype))}
        if dtype in vector.TYPES:
            kinds["vectors"] = vectors(dtype, in_vectors(dtype))
        for kind, lines in kinds.items():
            body = "\n  ".join(lines)
            code.append(f"void {kind}_{dtype}({signature(C.types, dtype)}) {{\n  {body}\n}}")
    folder = tmp_path_factory.mktemp("functions")
    (folder / "functions.c").write_text("\n".join(code))
    flags = ["-march=x86_64_v3", "-O1", f"-I{native_directory()}"]
    compile_shared([folder / "functions.c"], folder / "functions.so", flags)
    return ctypes.CDLL(str(folder / "functions.so"))


def outputs(dtype, made):
    return np.zeros(COUNT * len(made), dtype), np.zeros(COUNT * len(made), np.uint8)


@pytest.mark.parametrize("kind", ["scalars", "vectors"])
@pytest.mark.parametrize("dtype", NUMBERS)
def test_functions_in_c(library, kind, dtype):
    if kind == "vectors" and dtype not in vector.TYPES:
        return
    made = calls(dtype) if kind == "scalars" else in_vectors(dtype)
    r, p = outputs(dtype, made)
    given = [*arrays(dtype).values(), r, p]
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in given]
    getattr(library, f"{kind}_{dtype}")(*pointers)
    check(dtype, made, r, p)


def test_vectors_have_what_only_they_can_make_fast():
    """What of a dtype with vectors is left to scalars, beside those that may fail."""
    left = {
        dtype: {fn for fn, _, _ in calls(dtype)} - {fn for fn, _, _ in in_vectors(dtype)}
        for dtype in NUMBERS
        if dtype in vector.TYPES
    }
    assert {dtype: fns - vector.SCALAR for dtype, fns in left.items()} == {
        "float32": set(),
        "float64": set(),
        "int32": {"abs"},
        "int64": {"abs"},
    }


@pytest.mark.cuda_emu
def test_functions_in_cuda():
    code = [nvrtc.header()]
    for dtype in NUMBERS:
        body = "\n  ".join(scalars(CUDA, dtype, calls(dtype)))
        head = f'extern "C" __global__ void {dtype}({signature(CUDA.types, dtype)},'
        code.append(f"{head} SiriusFailure *failure) {{\n  {body}\n}}")
    built = emulator.build("\n".join(code))
    for dtype in NUMBERS:
        made = calls(dtype)
        r, p = outputs(dtype, made)
        failure = np.zeros(6, np.int32)
        built.launch(dtype, 1, 1, [*arrays(dtype).values(), r, p, failure])
        check(dtype, made, r, p)
        assert not failure.any()
