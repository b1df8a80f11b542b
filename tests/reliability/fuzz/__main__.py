# SPDX-License-Identifier: Apache-2.0
"""python -m tests.reliability.fuzz --graphs=N --seed=S --seconds=T

Random graphs through TensorFlow, the interpreter, C of each instruction set with 1, 2 and 4
workers, and some of them through emulated CUDA. Failures are shrunk, and written to --keep.

Graphs are compiled and run in a process of its own, so that one that ends it is a failure, too.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from absl import app, flags

BATCH = 32  # graphs that are compiled at once
_GRAPHS = flags.DEFINE_integer("graphs", 200, "Graphs to draw, at most.")
_SEED = flags.DEFINE_integer("seed", None, "What decides all draws; without it, a new one.")
_SECONDS = flags.DEFINE_float("seconds", 1e9, "Time after which no graph is begun.")
_KEEP = flags.DEFINE_string("keep", None, "Folder for failures; without it, a temporary one.")
_CUDA = flags.DEFINE_integer("cuda", 200, "One of so many graphs is emulated; 0: none.")
_SHRINK = flags.DEFINE_float("shrink", 60.0, "Seconds for making a failure smaller.")
_START = flags.DEFINE_integer("start", None, "The number of the first graph, in a worker.")
_WITHOUT = flags.DEFINE_list("without", [], "Numbers of graphs that are left out.")


def main(_: list[str]) -> int:
    if _START.value is not None:
        from tests.reliability.fuzz import worker

        worker.run(
            _START.value,
            _GRAPHS.value,
            _SEED.value,
            time.time() + _SECONDS.value,
            BATCH,
            _CUDA.value,
            _SHRINK.value,
            Path(_KEEP.value),
            {*map(int, _WITHOUT.value)},
        )
        return 0
    seed = random.randrange(1 << 30) if _SEED.value is None else _SEED.value
    keep = Path(_KEEP.value or tempfile.mkdtemp(prefix="sirius_fuzz_"))
    keep.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}, failures in {keep}", flush=True)
    counts = supervised(_GRAPHS.value, seed, _SECONDS.value, keep)
    print(json.dumps(counts, indent=1))
    return 1 if counts.get("failures") else 0


def supervised(graphs: int, seed: int, seconds: float, keep: Path) -> dict[str, int]:
    """Run workers until all graphs are done; what they counted. One that ends begins again where it
    was, without the graph that ended it."""
    until, start, totals = time.time() + seconds, 0, Counter[str]()
    without = [*map(int, _WITHOUT.value)]
    while start < graphs and time.time() < until:
        command = [sys.executable, "-m", __spec__.name.removesuffix(".__main__")]
        command += [f"--start={start}", f"--graphs={graphs}", f"--seed={seed}", f"--keep={keep}"]
        command += [f"--seconds={until - time.time()}", f"--cuda={_CUDA.value}"]
        command += [f"--shrink={_SHRINK.value}", f"--without={','.join(map(str, without))}"]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONFAULTHANDLER": "1"}
        at: dict[str, object] = {}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment
        ) as worker:
            assert worker.stdout is not None
            for line in worker.stdout:
                said = json.loads(line)
                if "counts" in said:
                    totals.update(said["counts"])
                    start = said["next"]
                    print(f"{start} of {graphs}: {json.dumps(totals)}", file=sys.stderr, flush=True)
                elif "failure" in said:
                    print(f"FAILURE {said['failure']}", flush=True)
                at = said.get("at", at)
        if worker.returncode:
            place = "ended in TensorFlow" if at.get("stage") == "TensorFlow" else "failures"
            totals[place] += 1
            print(f"FAILURE a worker ended with {worker.returncode} at {at}", flush=True)
            if "case" in at:
                without.append(int(str(at["case"]).rpartition("_")[2]))
            else:  # nobody knows which of the batch
                start += BATCH
    return dict(totals)


if __name__ == "__main__":
    app.run(main)
