# SPDX-License-Identifier: Apache-2.0
"""Compiling CUDA without a GPU: machine code, resources, errors, the cache."""

import importlib
import types

import pytest

from sirius_tf.bundle import nvrtc
from sirius_tf.errors import SiriusError
from sirius_tf.ir.functions import ELEMENTARY, FUNCTIONS

ARCHS = ("sm_80", "sm_90", "sm_90a")
HEADER = nvrtc.header()
UNARY = sorted(fn for fn in ELEMENTARY if FUNCTIONS[fn].arity == 1)
#: Bodies of kernels with the parameters of `kernel`, one for each function of the header.
BODIES = {
    "max_i64": "n[0] = sirius_max_i64(n[1], n[2]);",
    "min_i64": "n[0] = sirius_min_i64(n[1], n[2]);",
    "floordiv": "n[0] = sirius_floordiv(n[1], n[2]);",
    "floormod": "n[0] = sirius_floormod(n[1], n[2]);",
    "truncdiv": "n[0] = sirius_truncdiv(n[1], n[2]);",
    "bounded": "n[0] = n[sirius_bounded(failure, n[1], n[2])];",
    "divisor": "n[0] = n[1] / sirius_divisor(failure, n[2]);",
    "grid_barrier": "sirius_grid_barrier(sync);",
    "block_barrier": "sirius_block_barrier();",
    "words": "sirius_store_release((uint64_t *)n, sirius_load_acquire((uint64_t *)n + 1));",
    "warp_reduce_add": "x[i] = sirius_warp_reduce_add(x[i]);",
    "warp_reduce_max": "x[i] = sirius_warp_reduce_max(x[i]);",
    "warp_reduce_min": "x[i] = sirius_warp_reduce_min(x[i]);",
    "f16": "x[i] = sirius_from_f16(sirius_to_f16(x[i]));",
    "bf16": "x[i] = sirius_from_bf16(sirius_to_bf16(x[i]));",
    "pow_f32": "x[i] = sirius_pow(x[i], x[i + 1]);",
    "pow_f64": "d[i] = sirius_pow(d[i], d[i + 1]);",
    **{f"{name}_f32": f"x[i] = sirius_{name}(x[i]);" for name in UNARY},
    **{f"{name}_f64": f"d[i] = sirius_{name}(d[i]);" for name in UNARY},
}
#: Tiles by cp.async and ldmatrix, products of each type.
for dtype in ("f16", "bf16", "tf32"):
    BODIES[f"mma_{dtype}"] = f"""
        __shared__ __align__(16) float tile[256];
        uint32_t a[4], b[2], t[2], u[4];
        float c[4] = {{}};
        sirius_cp_async<16>(tile + 4 * i, x + 4 * i);
        sirius_cp_async<8>(tile + 128 + 2 * i, x + 128 + 2 * i);
        sirius_cp_async<4>(tile + 192 + i, x + 192 + i);
        sirius_cp_async_commit();
        sirius_cp_async_wait<0>();
        sirius_block_barrier();
        sirius_ldmatrix(a, tile + 4 * i);
        sirius_ldmatrix(b, tile + 4 * (i % 16));
        sirius_ldmatrix_trans(t, tile + 128 + 4 * (i % 16));
        sirius_ldmatrix_trans(u, tile + 128 + 4 * i);
        a[0] += u[0] + u[1] + u[2] + u[3] + sirius_to_tf32(x[i]);
        b[0] += t[0] + t[1];
        sirius_mma_{dtype}(c, a, b);
        for (int k = 0; k < 4; k++) x[4 * i + k] = c[k];"""


def kernel(name, body):
    parameters = "float *x, double *d, int64_t *n, SiriusFailure *failure, SiriusSync *sync"
    return (
        f'extern "C" __global__ void {name}({parameters}) {{\n'
        f"  const int i = threadIdx.x;\n  {body}\n}}\n"
    )


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_the_header_compiles_without_spills(monkeypatch):
    names = list(BODIES)
    halves = [names[: len(names) // 2], names[len(names) // 2 :]]
    sources = [HEADER + "".join(kernel(n, BODIES[n]) for n in half) for half in halves]
    monkeypatch.setattr(nvrtc, "_compile", None)  # other processes do it
    cubins = nvrtc.compile_cubins(sources, ARCHS)
    assert len(cubins) == len(ARCHS) * 2
    for (number, arch), cubin in cubins.items():
        assert cubin.data.startswith(b"\x7fELF")
        assert set(cubin.kernels) == set(halves[number])
        for name, resources in cubin.kernels.items():
            assert (resources.spill_stores, resources.spill_loads) == (0, 0), (arch, name)
            assert resources.registers <= 64, (arch, name)
            # sin and cos of large doubles index the digits of 2/pi
            assert resources.stack == 0 or name in ("sin_f64", "cos_f64"), (arch, name)
            assert resources.static_shared == (1024 if name.startswith("mma") else 0)


def test_resources_that_hurt():
    spilling = """extern "C" __global__ void __launch_bounds__(1024) spilling(float *x, int n) {
        float r[96];
        for (int k = 0; k < 96; k++) r[k] = x[k * 1024 + threadIdx.x];
        for (int j = 0; j < n; j++)
          for (int k = 0; k < 96; k++) r[k] = r[k] * r[(k + 1) % 96] + x[j];
        for (int k = 0; k < 96; k++) x[k * 1024 + threadIdx.x] = r[k];
      }
      extern "C" __global__ void indexing(float *x, int n) {
        float r[8];
        for (int k = 0; k < 8; k++) r[k] = x[k];
        for (int k = 0; k < n; k++) r[(k * n) & 7] += x[k];
        x[0] = r[n & 7];
      }"""
    kernels = nvrtc.compile_cubin(spilling, "sm_90").kernels
    assert kernels["spilling"].registers <= 64
    assert kernels["spilling"].spill_stores > 0
    assert kernels["spilling"].spill_loads > 0
    assert kernels["indexing"].stack == 32
    assert kernels["indexing"].spill_stores == 0


def test_errors_show_the_log():
    source = 'extern "C" __global__ void f() {\n  nothing();\n}'
    with pytest.raises(SiriusError, match=r'sirius\.cu\(2\): error: identifier "nothing"'):
        nvrtc.compile_cubin(source, "sm_90")
    with pytest.raises(SiriusError, match="nothing"):
        nvrtc.compile_cubins([source], ARCHS)


def test_what_was_compiled_is_remembered(monkeypatch):
    source = HEADER + kernel("f", "x[i] = 1;")
    first = nvrtc.compile_cubin(source, "sm_90")
    monkeypatch.setattr(nvrtc, "_compile", None)
    assert nvrtc.compile_cubin(source, "sm_90") == first
    with pytest.raises(TypeError):
        nvrtc.compile_cubin(source, "sm_80")


def test_without_nvrtc(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(SiriusError, match=r"pip install 'sirius_tf\[cuda\]'"):
        nvrtc.compile_cubin("", "sm_90")


def test_by_cupy(monkeypatch):
    """CuPy's interface, as version 14.2 has it: getCUBIN returns all but the last byte."""
    source = HEADER + kernel("f", "x[i] = 1;")
    real = importlib.import_module("cuda.bindings.nvrtc")
    expected = nvrtc.compile_cubin(source, "sm_90")
    state = {}

    def compile_program(program, options):
        state["result"] = nvrtc._by_cuda_bindings(real, program, options)

    cupy = types.SimpleNamespace(
        NVRTCError=RuntimeError,
        getVersion=lambda: (13, 0),
        createProgram=lambda source, *_: source,
        compileProgram=compile_program,
        getCUBIN=lambda _: state["result"][0][:-1],
        getProgramLog=lambda _: state["result"][1],
        destroyProgram=lambda _: None,
    )

    def only_cupy(name):
        if name == "cupy.cuda":
            return types.SimpleNamespace(nvrtc=cupy)
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", only_cupy)
    assert nvrtc.version() == (13, 0)
    assert nvrtc._compile(source, "sm_90") == expected
