# SPDX-License-Identifier: Apache-2.0
"""As many calls as servers make in weeks, in C, while all around them changes.

usage: python -m tests.reliability.soak_calls [--calls=N] [--callers=N]

Threads call three regions with and without deadlines. Each opens the bundle again after every 5,000
calls. Meanwhile the bundle is replaced, the process forks (a child calls, too), all threads are
moved to other CPUs, and a timer interrupts them (soak_calls.c). Every result has to have the bits
of the first one. What is printed: how often each happened, and what the process held after a tenth
of the calls and at the end.
It ends with an error if a result was wrong, a call failed, a child did not end, memory grew by more
than a twentieth and a megabyte, or files were left open.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from absl import app, flags

from sirius_tf.bundle import cc, library
from sirius_tf.bundle.link import link
from sirius_tf.compile import compile_program
from tests.support import programs, sanitized
from tests.support.held import held

_CALLS = flags.DEFINE_integer("calls", 10**8, "How many.", lower_bound=10**5)
_CALLERS = flags.DEFINE_integer("callers", 2, "Threads that call.", lower_bound=1)

REQUESTS = ("softmax:1,5", "softmax:17,5", "dense:3,16", "lstm:2,2,12:3,12", "softmax:0,5")
BAD = ("wrong", "failed", "killed", "hung")
FLAGS = ("-std=gnu11", "-O2", f"-I{library.native_directory()}", "-lpthread", "-ldl")

Counts = dict[str, int]


def build(folder: Path) -> Path:
    """Compile the program that calls, and a bundle beside it."""
    kernels = [
        compile_program(p) for p in (programs.softmax(), programs.dense(16, 8), programs.lstm())
    ]
    link(kernels, folder / "bundle.so", {})
    shutil.copy(folder / "bundle.so", folder / "bundle.so.next")
    made = folder / "soak_calls"
    sources = [Path(__file__).with_suffix(".c"), *sanitized.HOST]
    cc.run_compiler(["-o", str(made), *map(str, sources), *FLAGS])
    return made


def soak(calls: int, callers: int) -> tuple[Counts, list[Counts]]:
    """The counts at the end, and what the process held at some twenty moments and at the end."""
    with tempfile.TemporaryDirectory() as name:
        program = build(Path(name))
        command = [program, program.with_name("bundle.so"), str(calls), str(callers), *REQUESTS]
        states = []
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
            assert process.stdin and process.stdout
            for line in process.stdout:
                states.append(held(process.pid))
                if words := line.split():
                    counts = dict(zip(words[::2], map(int, words[1::2]), strict=True))
                else:
                    process.stdin.close()  # let it end
    if process.returncode:
        raise SystemExit(f"the process ended with {process.returncode}")
    return counts, states


def main(_: list[str]) -> int:
    counts, states = soak(_CALLS.value, _CALLERS.value)
    first, last = states[min(2, len(states) - 1)], states[-1]
    print(counts)
    print("held after a tenth of the calls:", first, "at the end:", last)
    grown = last["kB"] > 1.05 * first["kB"] + 1024 or last["files"] > first["files"]
    return int(grown or any(counts[key] for key in BAD))


if __name__ == "__main__":
    app.run(main)
