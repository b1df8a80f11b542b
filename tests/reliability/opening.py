# SPDX-License-Identifier: Apache-2.0
"""Milliseconds that opening a bundle takes, all of whose bytes are checked.

usage: python -m tests.reliability.opening

A row for each size: megabytes, the least milliseconds of 30 openings (its file is in memory), those
of this process alone, and these for each megabyte.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from sirius_tf.bundle.link import link
from sirius_tf.compile import compile_program
from sirius_tf.runtime import native
from tests.support import programs

WIDTHS = (64, 1024, 4096)  # of matrices in float32
ROUNDS = 30


def opening(path: Path) -> tuple[float, float]:
    """The least milliseconds of opening a bundle: as they pass, and of this process."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter(), time.process_time()
        native.Bundle(path)
        ended = time.perf_counter(), time.process_time()
        times.append([1e3 * (e - b) for b, e in zip(began, ended, strict=True)])
    passed, taken = zip(*times, strict=True)
    return min(passed), min(taken)


def main() -> None:
    print(f"{'MB':>8}{'ms':>8}{'of CPU':>8}{'a MB':>8}")
    with tempfile.TemporaryDirectory() as name:
        for width in WIDTHS:
            path = Path(name, f"{width}.so")
            link([compile_program(programs.dense(width, width))], path, {}, isas=["v3"])
            size, (passed, taken) = path.stat().st_size / 1e6, opening(path)
            print(f"{size:8.2f}{passed:8.2f}{taken:8.2f}{taken / size:8.3f}", flush=True)


if __name__ == "__main__":
    main()
