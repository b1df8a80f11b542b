# SPDX-License-Identifier: Apache-2.0
"""CUDA C++ to machine code of NVIDIA GPUs by NVRTC, which needs neither a GPU nor a driver.

The API is that of "NVRTC: CUDA Runtime Compilation" (NVIDIA, CUDA Toolkit 13.0).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sirius_tf.bundle import cache
from sirius_tf.errors import SiriusError

_NATIVE = Path(__file__).parent.parent / "native"
_COEFFICIENTS = "sirius_coefficients.h"

#: IEEE division and sqrt, subnormals kept, and no other liberty than contraction to FMA.
OPTIONS = (
    "-std=c++17",
    "--fmad=true",
    "-prec-div=true",
    "-prec-sqrt=true",
    "-ftz=false",
    "-Xptxas",
    "-v",
)


@dataclass(frozen=True)
class Resources:
    """Resources of a kernel as ptxas reports them: registers a thread; bytes a thread, but of
    `static_shared` a block.

    `stack` without spills is an array in registers that is indexed at run time.
    """

    registers: int
    spill_stores: int
    spill_loads: int
    stack: int
    static_shared: int


@dataclass(frozen=True)
class Cubin:
    """An ELF image for one architecture, and its kernels by name."""

    data: bytes
    kernels: Mapping[str, Resources]


def header() -> str:
    """The text that generated code stands behind; NVRTC is given no folder of headers."""
    text = (_NATIVE / "sirius_cuda.cuh").read_text()
    return text.replace(f'#include "{_COEFFICIENTS}"\n', (_NATIVE / _COEFFICIENTS).read_text())


def compile_cubin(source: str, arch: str) -> Cubin:
    """Machine code of `source` for `arch` ("sm_90"), from the cache if it was compiled before.

    SiriusError if NVRTC is not installed, or has errors to report.
    """
    return cache.remembered("cubins", _key(source, arch), lambda: _compile(source, arch))


def compile_cubins(sources: Sequence[str], archs: Sequence[str]) -> dict[tuple[int, str], Cubin]:
    """`compile_cubin` of all sources for all archs, by number of the source and arch, in parallel.

    By processes: NVRTC's threads wait for each other.
    """
    version()  # before processes are started that would all fail
    pairs = [(source, arch) for source in dict.fromkeys(sources) for arch in archs]
    missing = [p for p in pairs if not cache.is_remembered("cubins", _key(*p))]
    made = _in_parallel(missing)

    def find(source: str, arch: str) -> Cubin:
        def make() -> Cubin:
            return made.get((source, arch)) or _compile(source, arch)

        return cache.remembered("cubins", _key(source, arch), make)

    return {(i, arch): find(s, arch) for i, s in enumerate(sources) for arch in archs}


def _in_parallel(pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Cubin]:
    """The cubins of sources for archs, but for those that have errors; none of a single one."""
    workers = min(len(pairs), os.cpu_count() or 1)
    if workers < 2:
        return {}
    command = [sys.executable, "-c", f"from {__name__} import work; work()"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def run(share: bytes) -> dict[tuple[str, str], Cubin]:
        done = subprocess.run(
            command, input=share, env=environment, stdout=subprocess.PIPE, check=False
        )
        made: dict[tuple[str, str], Cubin] = pickle.loads(done.stdout) if done.stdout else {}
        return made

    shares = [pickle.dumps(pairs[k::workers]) for k in range(workers)]
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return {pair: cubin for made in pool.map(run, shares) for pair, cubin in made.items()}


def work() -> None:
    """The work of each process of `compile_cubins`: errors are left for the parent to meet
    again."""
    made = dict[tuple[str, str], Cubin]()
    for pair in pickle.load(sys.stdin.buffer):
        with contextlib.suppress(SiriusError):
            made[pair] = _compile(*pair)
    pickle.dump(made, sys.stdout.buffer)


def version() -> tuple[int, int]:
    """NVRTC's version; SiriusError if there is none."""
    binding = _binding()
    if hasattr(binding, "nvrtcVersion"):
        _, major, minor = binding.nvrtcVersion()
        return (int(major), int(minor))
    major, minor = binding.getVersion()
    return (int(major), int(minor))


def _key(source: str, arch: str) -> object:
    return (source, arch, OPTIONS, version())


def _binding() -> Any:
    """cuda.bindings.nvrtc, or else what CuPy has."""
    for find, probe in ((_cuda_bindings, "nvrtcVersion"), (_cupy, "getVersion")):
        with contextlib.suppress(ImportError, OSError, RuntimeError):  # or without the library
            binding = find()
            getattr(binding, probe)()
            return binding
    raise SiriusError("CUDA code needs NVRTC 13: pip install 'sirius_tf[cuda]'")


def _cuda_bindings() -> Any:
    return importlib.import_module("cuda.bindings.nvrtc")


def _cupy() -> Any:
    return importlib.import_module("cupy.cuda").nvrtc


def _compile(source: str, arch: str) -> Cubin:
    binding = _binding()
    compiled = _by_cuda_bindings if hasattr(binding, "nvrtcVersion") else _by_cupy
    data, log = compiled(binding, source, (*OPTIONS, f"-arch={arch}"))
    return Cubin(data, read_resources(log))


def _by_cuda_bindings(nvrtc: Any, source: str, options: Sequence[str]) -> tuple[bytes, str]:
    """Machine code and log."""
    _, program = nvrtc.nvrtcCreateProgram(source.encode(), b"sirius.cu", 0, [], [])
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])
        _, size = nvrtc.nvrtcGetProgramLogSize(program)
        log = bytearray(size)
        nvrtc.nvrtcGetProgramLog(program, log)
        text = log.decode(errors="replace").rstrip("\0")
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise SiriusError(f"NVRTC: {status.name}\n{text}")
        _, size = nvrtc.nvrtcGetCUBINSize(program)
        data = bytearray(size)
        nvrtc.nvrtcGetCUBIN(program, data)
        return bytes(data), text
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _by_cupy(nvrtc: Any, source: str, options: Sequence[str]) -> tuple[bytes, str]:
    """Machine code and log."""
    program = nvrtc.createProgram(source, "sirius.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
        # CuPy takes the last byte for the end of a string
        return bytes(nvrtc.getCUBIN(program)) + b"\0", str(nvrtc.getProgramLog(program))
    except nvrtc.NVRTCError as error:
        raise SiriusError(f"NVRTC: {error}\n{nvrtc.getProgramLog(program)}") from None
    finally:
        nvrtc.destroyProgram(program)


_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


def read_resources(log: str) -> dict[str, Resources]:
    """Kernels of a log of ptxas -v.

    ptxas info : Compiling entry function 'scale' for 'sm_90'
    ptxas info : Function properties for scale
        0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
    ptxas info : Used 10 registers, used 1 barriers, 256 bytes smem
    """
    kernels = {}
    _, *parts = _ENTRY.split(log)
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        frame, used, shared = _FRAME.search(text), _USED.search(text), _SHARED.search(text)
        if frame is None or used is None:
            raise SiriusError(f"NVRTC's log says nothing about the resources of {name}:\n{log}")
        stack, stores, loads = map(int, frame.groups())
        static_shared = int(shared[1]) if shared else 0
        kernels[name] = Resources(int(used[1]), stores, loads, stack, static_shared)
    return kernels
