# SPDX-License-Identifier: Apache-2.0
"""Generated code, and the host's, under AddressSanitizer and UBSan, or under ThreadSanitizer, in a
process of their own.

The code is clang's, and instrumented by it; ziglang has no runtime for that, which is gcc's.
"""

from __future__ import annotations

import math
import struct
import subprocess
from collections.abc import Iterator, Sequence
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
MEMORY, THREADS = "address,undefined", "thread"
"""What a build examines: accesses and arithmetic, or races."""
_BOTH = ["-std=gnu11", "-O1", "-g1", f"-I{NATIVE}"]
_CLANG = [*_BOTH, "-ffp-contract=on", "-fno-builtin"]
GENERATED = {  # zig takes "address,undefined" as nothing
    MEMORY: [
        *(*_CLANG, "-fsanitize=undefined", "-fsanitize-trap=undefined", "-fno-sanitize=alignment"),
        "-fsanitize=address",
    ],
    THREADS: [*_CLANG, "-fno-sanitize=undefined", "-fsanitize=thread"],
}
WRITTEN = [*_BOTH, "-w", "-fno-sanitize-recover=all"]
WRAPPED = ("malloc", "posix_memalign", "mmap", "pthread_create")

Feeds = Sequence[np.ndarray]


class SanitizerError(Exception):
    """A sanitizer has found something."""


@dataclass(frozen=True)
class Refusal:
    """The code (host.h) and the message of a call that fails."""

    code: int
    message: str


Answer = list[np.ndarray] | Refusal


def build_host(folder: Path, examined: str = MEMORY) -> list[Path]:
    """Compile what does not depend on a program; returns the objects."""
    run(["gcc", *WRITTEN, f"-fsanitize={examined}", "-c", MAIN, *HOST], folder)
    return [folder / f"{source.stem}.o" for source in (MAIN, *HOST)]


def run(command: Sequence[str | Path], folder: Path) -> None:
    """Run a compiler in a folder."""
    done = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, check=False)
    if done.returncode:
        raise SanitizerError(done.stderr.decode()[-4000:])


@dataclass(frozen=True)
class Sanitized:
    """The program that calls kernels; unless told otherwise, the first one."""

    kernels: Sequence[Kernel]
    path: Path

    def call(self, feeds: Feeds, workers: Sequence[int] = (1, 2, 3)) -> list[list[np.ndarray]]:
        """Return the results for each number of workers; ascending, each has more workspace. With a
        negative number, several threads call at once before."""
        (answers,) = self.answers([feeds], workers)
        for answer in answers:
            if isinstance(answer, Refusal):
                raise SanitizerError(f"{answer.code}: {answer.message}")
        return answers

    def answers(
        self,
        requests: Sequence[Feeds],
        workers: Sequence[int] = (1, 2, 3),
        leaks: bool = False,
        kernel: int = 0,
    ) -> Iterator[list[Answer]]:
        """Yield what each request is answered by each number of workers, all in one process."""
        data = _Reader(self.run(requests, [*map(str, workers)], leaks, kernel))
        for _ in requests:
            yield [self.answer(data, kernel) for _ in workers]

    def with_a_failure(
        self, feeds: Feeds, number: int, workers: int
    ) -> tuple[Answer, Answer] | None:
        """Return the answer where the allocation of that number fails, and the next answer; None
        if there are not as many."""
        data = _Reader(self.run([feeds], [f"fail={number}", str(workers), str(workers)], True))
        first = self.answer(data)
        return (first, self.answer(data)) if data.number() else None

    def run(
        self, requests: Sequence[Feeds], arguments: Sequence[str], leaks: bool, kernel: int = 0
    ) -> bytes:
        """Run the program; SanitizerError if it ends in another way than it should."""
        weights = weights_of(self.kernels)
        parts = [struct.pack("q", len(weights)), weights]
        for feeds in requests:
            parts.append(struct.pack("q", kernel))
            for feed in feeds:
                x = np.asarray(feed, order="C")
                parts.append(struct.pack(f"{x.ndim + 2}q", x.ndim, *x.shape, x.nbytes))
                parts.append(x.tobytes())
        done = subprocess.run(
            [self.path, *arguments],
            input=b"".join(parts),
            capture_output=True,
            env={
                "ASAN_OPTIONS": f"detect_leaks={int(leaks)}:allocator_may_return_null=1",
                "TSAN_OPTIONS": "halt_on_error=1",
            },
            check=False,
        )
        if done.returncode:
            raise SanitizerError(f"{done.returncode}: {done.stderr.decode()[-4000:]}")
        return done.stdout

    def answer(self, data: _Reader, kernel: int = 0) -> Answer:
        """Read what the program has written of a call."""
        code = data.number()
        if code:
            return Refusal(code, data.take(data.number()).decode())
        found, program = [], self.kernels[kernel].program
        for output in program.outputs:
            shape = [data.number() for _ in range(data.number())]
            dtype = np.dtype(numpy_dtype(program.tensor[output.tensor].dtype))
            raw = data.take(math.prod(shape) * dtype.itemsize)
            found.append((np.frombuffer(raw, dtype), shape))
        try:
            return [flat.reshape(shape) for flat, shape in found]
        except ValueError as error:  # nothing, of 2^62 columns, say
            return Refusal(0, f"numpy has no such array: {error}")


class _Reader:
    """Bytes, and how many of them have been read."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self) -> int:
        return int.from_bytes(self.take(8), "little", signed=True)


def build(
    kernel: Kernel, host: Sequence[Path], folder: Path, isa: str, examined: str = MEMORY
) -> Sanitized:
    """Compile a kernel's code for an instruction set, and link it with the host."""
    return build_all([kernel], host, folder, isa, examined)


def generated(
    kernels: Sequence[Kernel], folder: Path, isa: str, flags: Sequence[str]
) -> list[Path]:
    """Compile the code of kernels, and its tables; returns the objects."""
    lanes = {"v3": 8, "v4": 16}[isa]
    vectors = (*link.MARCH["v3"], f"-DSIRIUS_LANES={lanes}")
    objects = []
    tables = link._tables(kernels, (), folder, "{}", "", [isa], {})
    plans, runs = (
        "".join(texts) for texts in zip(*((k.plan, k.runs[isa]) for k in kernels), strict=True)
    )
    for number, (text, more) in enumerate([(plans, ()), (runs, vectors), (tables, ())]):
        source = folder / f"{number}.c"
        source.write_text(PRELUDE + text)
        objects.append(source.with_suffix(".o"))
        cc.compile_object(source, objects[-1], [*flags, *more])
    return objects


def weights_of(kernels: Sequence[Kernel]) -> bytes:
    """The constants of kernels, as their code reads them."""
    return b"".join(link._all_weights(kernels, ()))


def build_all(
    kernels: Sequence[Kernel],
    host: Sequence[Path],
    folder: Path,
    isa: str,
    examined: str = MEMORY,
) -> Sanitized:
    """Compile the code of kernels for an instruction set, and link it with the host.

    That for AVX-512 runs on all machines: its vectors of 16 lanes are those of AVX2 here.
    """
    folder.mkdir()
    objects = generated(kernels, folder, isa, GENERATED[examined])
    wrap = [f"-Wl,--wrap={name}" for name in WRAPPED]
    libraries = ["-lpthread", "-ldl", "-lm"]
    flags = [f"-fsanitize={examined}", *wrap, "-o", "program"]
    run(["gcc", *host, *objects, *flags, *libraries], folder)
    return Sanitized(kernels, folder / "program")
