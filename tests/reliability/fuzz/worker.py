# SPDX-License-Identifier: Apache-2.0
"""Draws and checks graph after graph; what it does, counts and finds are lines of JSON."""

from __future__ import annotations

import json
import logging
import time
from functools import partial
from pathlib import Path

from tests.reliability.fuzz import answers
from tests.reliability.fuzz.case import Case, draw, save
from tests.reliability.fuzz.shrink import shrunk


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def _at(number: int, **at: object) -> None:
    say(at={"number": number, **at})


def run(
    start: int,
    graphs: int,
    seed: int,
    until: float,
    batch: int,
    cuda: int,
    shrink: float,
    keep: Path,
) -> None:
    logging.disable(logging.WARNING)
    while start < graphs and time.time() < until:
        report, numbers = answers.Report(), range(start, min(start + batch, graphs))
        say(at={"number": start, "stage": "drawing"})
        cases = [draw(f"g{seed}_{n}", seed) for n in numbers]
        emulated = int(bool(cuda) and any(n % cuda == 0 for n in numbers))
        answers.check(cases, seed, report, emulated, partial(_at, start))
        for failure in report.failures:
            report.counts["failures"] += 1
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
