# SPDX-License-Identifier: Apache-2.0
"""Generated code, and the host's, under AddressSanitizer and UBSan, in a process of their own.

The code is clang's, and instrumented by it; ziglang has no runtime for that, which is gcc's.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sirius_tf.bundle import cc, library, link
from sirius_tf.codegen.cpu.kernel import Kernel
from sirius_tf.codegen.scalar import PRELUDE
from sirius_tf.ir.dtypes import numpy_dtype

NATIVE = library.native_directory()
MAIN = Path(__file__).with_name("sanitized.c")
HOST = [NATIVE / n for n in library.SOURCES if not n.startswith(("python", "tf_"))]
SANITIZE = "-fsanitize=address,undefined"
GENERATED = ["-std=gnu11", "-O1", "-g1", "-ffp-contract=on", "-fno-builtin", f"-I{NATIVE}"]
# zig takes the two in one word as none
GENERATED += ["-fsanitize=undefined", "-fsanitize-trap=undefined", "-fno-sanitize=alignment"]
GENERATED += ["-fsanitize=address"]
WRITTEN = ["-std=gnu11", "-O1", "-g1", "-w", f"-I{NATIVE}", SANITIZE, "-fno-sanitize-recover=all"]


class SanitizerError(Exception):
    """A sanitizer has found something."""


def build_host(folder: Path) -> list[Path]:
    """Compile what does not depend on a program; returns the objects."""
    run(["gcc", *WRITTEN, "-c", MAIN, *HOST], folder)
    return [folder / f"{source.stem}.o" for source in (MAIN, *HOST)]


def run(command: Sequence[str | Path], folder: Path) -> None:
    """Run a compiler in a folder."""
    done = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, check=False)
    if done.returncode:
        raise SanitizerError(done.stderr.decode()[-4000:])


@dataclass(frozen=True)
class Sanitized:
    """The program that calls a kernel."""

    kernel: Kernel
    path: Path

    def call(
        self, feeds: Sequence[np.ndarray], workers: Sequence[int] = (1, 2, 3)
    ) -> list[list[np.ndarray]]:
        """Return the results for each number of workers; ascending, each has more workspace."""
        weights = b"".join(link.weights(self.kernel.program))
        parts = [struct.pack("q", len(weights)), weights]
        for feed in feeds:
            x = np.asarray(feed, order="C")
            parts.append(struct.pack(f"{x.ndim + 2}q", x.ndim, *x.shape, x.nbytes))
            parts.append(x.tobytes())
        done = subprocess.run(
            [self.path, *map(str, workers)],
            input=b"".join(parts),
            capture_output=True,
            env={"ASAN_OPTIONS": "detect_leaks=0"},
            check=False,
        )
        if done.returncode:
            raise SanitizerError(f"{done.returncode}: {done.stderr.decode()[-4000:]}")
        return self.results(done.stdout, len(workers))

    def results(self, data: bytes, calls: int) -> list[list[np.ndarray]]:
        """Read what the program has written."""
        found, at = [], 0
        program = self.kernel.program
        for _ in range(calls):
            found.append([])
            for output in program.outputs:
                (rank,) = struct.unpack_from("q", data, at)
                shape = struct.unpack_from(f"{rank}q", data, at + 8)
                dtype = np.dtype(numpy_dtype(program.tensor[output.tensor].dtype))
                count = int(np.prod(shape))
                at += 8 * (1 + rank)
                found[-1].append(np.frombuffer(data, dtype, count, at).reshape(shape))
                at += count * dtype.itemsize
        return found


def build(kernel: Kernel, host: Sequence[Path], folder: Path, isa: str) -> Sanitized:
    """Compile a kernel's code for an instruction set, and link it with the host.

    That for AVX-512 runs on all machines: its vectors of 16 lanes are those of AVX2 here.
    """
    folder.mkdir()
    lanes = {"v3": 8, "v4": 16}[isa]
    vectors = (*link.MARCH["v3"], f"-DSIRIUS_LANES={lanes}")
    objects = []
    tables = link._tables([kernel], (), folder, "{}", "", [isa], {})
    texts = [(kernel.plan, ()), (kernel.runs[isa], vectors), (tables, ())]
    for number, (text, flags) in enumerate(texts):
        source = folder / f"{number}.c"
        source.write_text(PRELUDE + text)
        objects.append(source.with_suffix(".o"))
        cc.compile_object(source, objects[-1], [*GENERATED, *flags])
    run(["gcc", SANITIZE, *host, *objects, "-o", "program", "-lpthread", "-ldl", "-lm"], folder)
    return Sanitized(kernel, folder / "program")
