# SPDX-License-Identifier: Apache-2.0
"""Requests that are bytes, for coverage-guided fuzzing of calls: what request_fuzz.c makes of them.

The host and generated code, of functions whose sizes and positions a request chooses, are built
with libFuzzer's counters, AddressSanitizer and UBSan's traps.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sirius_tf.bundle import cc
from tests.support import sanitized

COVERAGE = "-fsanitize-coverage=inline-8bit-counters,pc-table"
FLAGS = [*sanitized.GENERATED[sanitized.MEMORY], COVERAGE, "-fPIC"]
SOURCES = [Path(__file__).with_suffix(".c"), *sanitized.HOST]
CASES = 60  # what clang compiles in two minutes


def build(folder: Path) -> None:
    """Write code.so and its weights."""
    from tests.reliability import hostile, hostile_cases

    _, kernels = hostile.compiled(hostile_cases.CASES[:CASES])
    objects = [folder / f"{source.stem}.o" for source in SOURCES]
    for source, made in zip(SOURCES, objects, strict=True):
        cc.compile_object(source, made, FLAGS)
    (folder / "code").mkdir(exist_ok=True)
    objects += sanitized.generated(kernels, folder / "code", "v3", FLAGS)
    shared = ["-shared", "-fsanitize=address", "-o", "code.so", "-lpthread", "-ldl", "-lm"]
    sanitized.run(["gcc", *(o.absolute() for o in objects), *shared], folder)
    (folder / "weights").write_bytes(sanitized.weights_of(kernels))


def runtime() -> str:
    """The runtime of AddressSanitizer, which a process has to load first (LD_PRELOAD)."""
    command = ["gcc", "-print-file-name=libasan.so"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def target(folder: Path, libfuzzer: ctypes.CDLL) -> Callable[[bytes], None]:
    """Return what answers a request, and ends the process if that does harm."""
    read = np.frombuffer((folder / "weights").read_bytes(), np.uint8)
    room = np.empty(read.size + 64, np.uint8)
    weights = room[-room.ctypes.data % 64 :][: read.size]
    weights[:] = read
    code = ctypes.CDLL(str(folder / "code.so"))
    told = ("8bit_counters", "pcs")
    code.sirius_fuzz_count(*(getattr(libfuzzer, f"__sanitizer_cov_{name}_init") for name in told))

    def answer(data: bytes) -> None:
        code.sirius_fuzz(ctypes.c_void_p(weights.ctypes.data), data, ctypes.c_size_t(len(data)))

    return answer
