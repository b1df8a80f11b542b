# SPDX-License-Identifier: Apache-2.0
"""Draws and checks graph after graph; what it does, counts and finds are lines of JSON."""

from __future__ import annotations

import faulthandler
import json
import logging
import time
from collections.abc import Collection
from pathlib import Path

from tests.reliability.fuzz import answers
from tests.reliability.fuzz.case import Case, draw, save
from tests.reliability.fuzz.shrink import shrunk

OPTIMIZED = 8  # of so many batches one is compiled as users' code is, the others as fast as can be
HANGS = 600.0  # seconds that a stage of a graph may take


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def _at(**at: object) -> None:
    faulthandler.dump_traceback_later(HANGS, exit=True)
    say(at=at)


def run(
    start: int,
    graphs: int,
    seed: int,
    until: float,
    batch: int,
    cuda: int,
    shrink: float,
    keep: Path,
    without: Collection[int],
) -> None:
    logging.disable(logging.WARNING)
    while start < graphs and time.time() < until:
        report, numbers = answers.Report(), range(start, min(start + batch, graphs))
        cases = []
        for n in sorted({*numbers} - {*without}):
            _at(stage="drawing", case=f"g{seed}_{n}")
            cases.append(draw(f"g{seed}_{n}", seed))
        emulated = int(bool(cuda) and any(n % cuda == 0 for n in numbers))
        level = "-O0" if start // batch % OPTIMIZED else "-O3"
        answers.check(cases, seed, report, emulated, _at, level)
        for failure in report.failures:
            report.counts["failures"] += 1
            report.counts[failure.effect] += 1
            _at(stage="shrinking", case=failure.case.name)
            made = _shrunk(failure, seed, shrink)
            path = save(made, keep)
            say(failure=f"{path} {failure.stage}: {failure.what[:600]}")
        start = numbers.stop
        say(counts=dict(report.counts), next=start)


def _shrunk(failure: answers.Failure, seed: int, seconds: float) -> Case:
    cuda = int(failure.stage.startswith("CUDA"))

    def fails(case: Case) -> bool:
        report = answers.Report()
        try:
            answers.check([case], seed, report, cuda)
        except Exception:  # the smaller graph is none of TensorFlow's
            return False
        return any(f.kind == failure.kind for f in report.failures)

    return shrunk(failure.case, fails, seconds) if seconds else failure.case
