# SPDX-License-Identifier: Apache-2.0
"""Milliseconds a call beside processes that compute all the time, here and in TensorFlow.

usage: python -m tests.reliability.crowded [--neighbours=4] [--threads=2] [--rounds=15] MODEL ...

Models are SavedModels with samples beside them, as tools/zoo.py makes them. A model is called in
TensorFlow, and rewritten without TensorFlow, in turns of half a second, all in this process. Every
neighbour is a shell in a session of its own, which has as large a share of a CPU as all threads of
this process. Prints means, medians and 90th percentiles, first alone and then beside them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from absl import app, flags, logging

from sirius_tf.tools import benchmark
from sirius_tf.tools.peers import PEERS, read_case

SECONDS = 0.5


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many processes compute meanwhile."""
    busy = ["sh", "-c", "while :; do :; done"]
    processes = [subprocess.Popen(busy, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def laps(call: Callable[[], object]) -> Iterator[float]:
    """Milliseconds of one call after another, for a turn."""
    end = time.perf_counter() + SECONDS
    while (begin := time.perf_counter()) < end:
        call()
        yield 1e3 * (time.perf_counter() - begin)


def times(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """The times of calls in turns, of which the first does not count."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            found[name] += list(laps(call))[: None if number else 0]
    return found


def main(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """See the module."""
    logging.set_verbosity(logging.WARNING)  # TensorFlow logs through absl, too
    benchmark.setup(values.threads)
    print("model       neighbours  peer    calls    mean  median    90 %  (load)", flush=True)
    for model in map(Path, argv[1:]):
        case = read_case(model, "serving_default", values.threads)
        calls = {name: PEERS[name](case) for name in ("tf", "direct")}
        for count in (0, values.neighbours):
            with neighbours(count):
                found = times(calls, values.rounds)
            for name, lap in found.items():
                middle, high = np.percentile(lap, [50, 90])
                numbers = f"{len(lap):8} {np.mean(lap):7.2f} {middle:7.2f} {high:7.2f}"
                load = f"({os.getloadavg()[0]:.1f})"
                print(f"{model.name:14}{count:8}  {name:6}{numbers}  {load}", flush=True)


def run() -> None:
    """Run the command."""
    flags.DEFINE_integer("neighbours", 4, "Processes beside this one.", lower_bound=0)
    flags.DEFINE_integer("threads", 2, "Threads of each.", lower_bound=1)
    flags.DEFINE_integer("rounds", 15, "Turns of each.", lower_bound=1)
    app.run(main)


if __name__ == "__main__":
    run()
