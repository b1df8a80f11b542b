# SPDX-License-Identifier: Apache-2.0
"""Time SavedModels under sirius_tf and its peers, in one process and in turns.

usage: benchmark.py MODEL ... [--peers=tf,xla,...] [--threads=N] [--signature=NAME]
           [--rounds=7] [--seconds=0.2] [--json=FILE]

Samples are MODEL.npz, as convert.py takes them, or made up. The rewritten model is MODEL.sirius;
it is written if it does not exist, and slow regions are kept. Peers:

    tf        the signature in TensorFlow
    call      a signature that does nothing: what TensorFlow's call from Python costs, which is a
              part of the times of tf, xla and sirius
    xla       the signature in TensorFlow, compiled by XLA
    sirius    the rewritten signature in TensorFlow
    direct    the rewritten signature without TensorFlow
    ort       ONNX Runtime, through tf2onnx
    openvino  OpenVINO, which reads SavedModels

A peer that fails is reported, and the others are timed. Prints a Markdown table.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags, logging

from sirius_tf.bundle import link
from sirius_tf.runtime import native
from sirius_tf.tools.peers import PEERS, Arrays, Case, Run, read_case


@dataclass(frozen=True)
class Timing:
    """A peer's median time, set-up time, and largest error against TensorFlow; or its failure."""

    peer: str
    ms: float | None = None
    setup_s: float | None = None
    error: float | None = None
    failure: str | None = None


def largest_error(want: Arrays, got: Arrays) -> float:
    """The largest relative difference of two results; outputs that peers rename pair by content."""
    if want.keys() != got.keys():
        want, got = ({str(i): a for i, a in enumerate(_sorted(x))} for x in (want, got))
    errors = [0.0]
    for key, expected in want.items():
        a, b = (np.asarray(x, np.float64).reshape(-1) for x in (expected, got[key]))
        scale = np.max(np.abs(a), initial=0.0) or 1.0
        errors.append(float(np.max(np.abs(a - b), initial=0.0) / scale))
    return max(errors)


def _sorted(arrays: Arrays) -> list[np.ndarray[Any, Any]]:
    return sorted(
        arrays.values(), key=lambda a: (a.size, round(float(np.asarray(a, np.float64).sum()), 3))
    )


def measure(case: Case, peers: Sequence[str], rounds: int, seconds: float) -> list[Timing]:
    """Set every peer up, then time them in turns, each for so many seconds."""
    results: list[Timing] = []
    runs: dict[str, Run] = {}
    want: Arrays | None = None
    for name in peers:
        start = time.perf_counter()
        try:
            run = PEERS[name](case)
            got = run()
            compared = name != "call" and want is not None
            error = largest_error(want or {}, got) if compared else None
        except Exception as problem:  # whatever a peer raises
            text = " ".join(f"{type(problem).__name__}: {problem}".split())
            results.append(Timing(name, failure=text[:300]))
            continue
        want = got if name == "tf" else want
        runs[name] = run
        results.append(Timing(name, setup_s=time.perf_counter() - start, error=error))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(median_ms(run, seconds))
    return [
        replace(r, ms=statistics.median(times[r.peer])) if r.peer in runs else r for r in results
    ]


def median_ms(run: Run, seconds: float) -> float:
    """The median of calls for so many seconds, three at least."""
    run()
    laps: list[float] = []
    end = time.perf_counter() + seconds
    while len(laps) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        laps.append(1e3 * (time.perf_counter() - start))
    return statistics.median(laps)


def markdown(results: Mapping[str, Sequence[Timing]]) -> str:
    """A table of milliseconds, and of speeds over TensorFlow."""
    lines = [
        "| model | peer | ms | speed over TF | error | set-up s |",
        "|---|---|---|---|---|---|",
    ]
    for model, timings in results.items():
        base = next((t.ms for t in timings if t.peer == "tf"), None)
        for t in timings:
            if t.ms is None or t.setup_s is None:
                lines.append(f"| {model} | {t.peer} | failed: {t.failure} | | | |")
                continue
            speed = f"{base / t.ms:.2f}x" if base and t.peer != "call" else ""
            error = "" if t.error is None else f"{t.error:.1e}"
            lines.append(
                f"| {model} | {t.peer} | {t.ms:.3f} | {speed} | {error} | {t.setup_s:.1f} |"
            )
    return "\n".join(lines)


def define_flags(values: flags.FlagValues) -> None:
    """Define the flags of this command."""
    cpus = len(os.sched_getaffinity(0))
    flags.DEFINE_list("peers", list(PEERS), "Whom to time.", flag_values=values)
    flags.DEFINE_integer("threads", cpus, "Threads of each.", lower_bound=1, flag_values=values)
    flags.DEFINE_string("signature", "serving_default", "The signature.", flag_values=values)
    flags.DEFINE_integer("rounds", 7, "Turns of each.", lower_bound=1, flag_values=values)
    flags.DEFINE_float("seconds", 0.2, "Length of a turn.", lower_bound=0, flag_values=values)
    flags.DEFINE_string("json", None, "A file to write the results to.", flag_values=values)


def setup(threads: int) -> dict[str, str]:
    """Let every peer have so many threads; returns what runs where, for the record."""
    os.environ["SIRIUS_THREADS"] = str(threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    known = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    names = ("tensorflow", "tensorflow-cpu", "tensorflow_cpu", "onnxruntime", "openvino")
    versions = {name: known[name] for name in names if name in known}
    return {"cpu": cpu(), "threads": str(threads), **versions}


def cpu() -> str:
    """The name of this machine's processor, and which code of a bundle it runs."""
    text = Path("/proc/cpuinfo").read_text()
    name = text.split("model name", 1)[-1].split("\n", 1)[0].strip(" \t:")
    return f"{name} (x86-64-{link.ISAS[native.isa()]})"


def report(
    machine: Mapping[str, str], table: str, content: Mapping[str, Any], file: str | None
) -> None:
    """Print what ran where, and a table; write the content of the table to a JSON file, if any."""
    print(", ".join(f"{key} {value}" for key, value in machine.items()), end="\n\n")
    print(table)
    if file:
        Path(file).write_text(json.dumps({"machine": machine, **content}, indent=1) + "\n")


def main(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """See the module."""
    logging.set_verbosity(logging.WARNING)  # TensorFlow logs through absl, too
    if len(argv) < 2 or not PEERS.keys() >= set(values.peers):
        raise app.UsageError(f"expected MODEL ..., and peers among {', '.join(PEERS)}")
    machine = setup(values.threads)
    results = {}
    for model in map(Path, argv[1:]):
        case = read_case(model, values.signature, values.threads)
        results[model.name] = measure(case, values.peers, values.rounds, values.seconds)
    content = {name: [asdict(t) for t in timings] for name, timings in results.items()}
    report(machine, markdown(results), {"models": content}, values.json)


def run() -> None:
    """Run the command line of this process."""
    define_flags(flags.FLAGS)
    app.run(main)


if __name__ == "__main__":
    run()
