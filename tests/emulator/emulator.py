# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels on the CPU, for tests: finds wrong results, races, bounds, barriers and arguments.

    module = emulator.build(source)
    module.launch("scale", grid=4, block=128, args=[array, np.int64(array.size)])

`source` is what NVRTC would get: sirius_cuda.cuh and kernels that are `extern "C" __global__`. It
is compiled with cuda_emu.h to a program. Each launch is a process, which a kernel may bring down.

`driver` and `build_library` put kernels behind CUDA's driver API instead, in the caller's process.
"""

from __future__ import annotations

import atexit
import functools
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\('
)
_ALIGNED = r"(?:__align__\(\d+\)\s*)?"
DYNAMIC = re.compile(rf"extern\s+__shared__\s+{_ALIGNED}([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;")
SHARED = re.compile(rf"__shared__\s+{_ALIGNED}([\w ]+?)\s+(\w+)\s*((?:\[[^\]]+\]\s*)*);")
#: Seconds after which a launch counts as hanging: a loop that waits on a plain load, say.
TIMEOUT = 120
#: Contraction to FMA is left out, since there it is the compiler's choice.
FLAGS = ["-std=c++17", "-march=native", "-ffp-contract=off", "-fno-exceptions", "-fno-rtti", "-w"]
SHARED_OBJECT = ["-shared", "-fPIC"]
SANITIZERS = {
    None: ["-O2"],
    "address": [
        "-O1",
        "-g1",
        "-fsanitize=address,undefined",
        "-fno-sanitize=vptr",
        "-fno-sanitize-recover=all",
    ],
    "thread": ["-O1", "-g1", "-fsanitize=thread"],
}
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    "TSAN_OPTIONS": "halt_on_error=1:report_signal_unsafe=0:atexit_sleep_ms=0",
}
ORDERS = {"forward": 0, "reverse": 1, "random": 2}


class EmulationError(Exception):
    """A kernel does not compile, breaks a rule of CUDA, or a sanitizer reports it."""


@dataclass(frozen=True)
class Module:
    """A program that runs the kernels of one source."""

    program: Path

    def launch(
        self,
        kernel: str,
        grid: int,
        block: int,
        args: Sequence[np.ndarray | np.generic | bytes],
        shared_bytes: int = 0,
        cooperative: bool = False,
        order: str = "forward",
    ) -> None:
        """Run `kernel` on `grid` blocks of `block` threads, with `shared_bytes` of dynamic memory.

        An array (C-contiguous) is passed as a pointer to device memory and holds the results
        afterwards; an array that is passed twice is one buffer, and one that is not writeable must
        not be written. A numpy scalar is passed by value in its own width, a structured one (or
        bytes) as a struct. `order` of threads and blocks is "forward", "reverse" or "random:SEED".
        EmulationError says what is wrong.
        """
        name, _, seed = order.partition(":")
        buffers, records = _marshal(args)
        with tempfile.TemporaryDirectory() as folder:
            files = Path(folder, "launch"), Path(folder, "results")
            with files[0].open("wb") as file:
                file.write(struct.pack("128s2q", kernel.encode(), grid, block))
                file.write(
                    struct.pack("4q", shared_bytes, cooperative, ORDERS[name], int(seed or 0))
                )
                file.write(struct.pack("2q", len(buffers), len(args)))
                for array in buffers:
                    file.write(struct.pack("q", array.nbytes))
                    array.tofile(file)
                file.writelines(records)
            _run([str(self.program), *map(str, files)], f"{kernel} does not end")
            results = np.fromfile(files[1], np.uint8)
        offset = 0
        for number, array in enumerate(buffers):
            new = results[offset : (offset := offset + array.nbytes)]
            old = array.reshape(-1).view(np.uint8)
            if array.flags.writeable:
                old[:] = new
            elif not np.array_equal(old, new):
                raise EmulationError(f"{kernel} writes to buffer {number}, which is read-only")


def _marshal(
    args: Sequence[np.ndarray | np.generic | bytes],
) -> tuple[list[np.ndarray], list[bytes]]:
    """The distinct arrays, and what main.h reads of each argument."""
    buffers: dict[tuple[int, int], np.ndarray] = {}
    records = []
    for number, value in enumerate(args):
        if isinstance(value, np.ndarray):
            if not value.flags.c_contiguous:
                raise EmulationError(f"argument {number} is an array that is not C-contiguous")
            key = (value.__array_interface__["data"][0], value.nbytes)
            if key not in buffers and any(np.shares_memory(value, b) for b in buffers.values()):
                raise EmulationError(f"argument {number} is a part of another array")
            buffers.setdefault(key, value)
            records.append(struct.pack("2q", ord("p"), list(buffers).index(key)))
        elif isinstance(value, (np.generic, bytes)):
            data = value if isinstance(value, bytes) else value.tobytes()
            kind = "V" if isinstance(value, bytes) else value.dtype.kind
            kind = {"u": "i", "b": "i"}.get(kind, kind)
            records.append(struct.pack("2q", ord(kind), len(data)) + data)
        else:
            raise EmulationError(f"argument {number} is a {type(value).__name__} of no fixed width")
    return list(buffers.values()), records


def _run(command: list[str], late: str) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, env=OPTIONS, check=False
        )
    except subprocess.TimeoutExpired:
        raise EmulationError(f"{late} within {TIMEOUT} seconds") from None
    if done.returncode:
        text = done.stderr.strip() or f"killed by signal {-done.returncode}"
        raise EmulationError(text[:8000])


def compiler(sanitizer: str | None) -> list[str]:
    """The C++ compiler: g++ or clang++; without a sanitizer that of ziglang will do."""
    for command in ("g++", "clang++"):
        if found := shutil.which(command):
            return [found]
    if sanitizer:
        raise EmulationError(f"the {sanitizer} sanitizer needs g++ or clang++: install one of them")
    return [sys.executable, "-m", "ziglang", "cc", "-xc++", "-fno-sanitize=undefined"]


@functools.cache
def build(source: str, sanitizer: str | None = None) -> Module:
    """Compile `source` for launches on this machine.

    `sanitizer` is None, "address" (with undefined behaviour) or "thread": races in shared and
    global memory, within a block and between blocks. It takes some 8000 resident threads at most,
    and a millisecond or two to create each.
    """
    program = Path(_temporary_folder(), "kernel")
    _compile(source, "main.h", program, SANITIZERS[sanitizer], compiler(sanitizer))
    return Module(program)


def build_library(source: str, output: Path) -> None:
    """Compile `source` to a shared object, of which driver.cpp runs the kernels."""
    _compile(source, "library.h", output, [*SANITIZERS[None], *SHARED_OBJECT], compiler(None))


@functools.cache
def driver() -> Path:
    """Build the stand-in for CUDA's driver; the folder of its libcuda.so.1."""
    folder = Path(_temporary_folder())
    flags = [*FLAGS, *SHARED_OBJECT, str(HERE / "driver.cpp"), "-o", str(folder / "libcuda.so.1")]
    _run_compiler([*compiler(None), *flags, "-ldl", "-lpthread"])
    return folder


def _temporary_folder() -> str:
    folder = tempfile.mkdtemp(prefix="emulator-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _compile(source: str, entry: str, output: Path, flags: list[str], command: list[str]) -> None:
    """Compile CUDA with a header behind it, by which others enter."""
    kernels = KERNEL.findall(source)
    text = DYNAMIC.sub(r"EMU_DYNAMIC_SHARED(\1, \2);", source)
    text = SHARED.sub(r"EMU_SHARED(\1, \2, \3);", text)
    if "__shared__" in text:
        raise EmulationError("a __shared__ declaration is none of `T name[n]...;`")
    exported = " ".join(f"EMU_KERNEL({name})" for name in kernels)
    code = output.with_suffix(".cpp")
    code.write_text(
        f'#include "cuda_emu.h"\n#line 1 "kernel.cu"\n{text}\n'
        f'#define EMU_KERNELS {exported}\n#include "{entry}"\n'
    )
    _run_compiler([*command, *FLAGS, *flags, f"-I{HERE}", str(code), "-o", str(output)])


def _run_compiler(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EmulationError(f"{' '.join(command)}\n{done.stderr[:8000]}")
