# SPDX-License-Identifier: Apache-2.0
"""Worth of whole-program optimizations: each model is compiled without one of them at a time.

usage: ablation.py MODEL ... [--parts=fusion,...] [--threads=N] [--rounds=7] [--json=FILE]

All of a model's default signature must compile. Samples are MODEL.npz, or made up. Prints, for each
variant, milliseconds without TensorFlow (medians of rounds in turns), the phases of the program,
and how many are run in a call (each ends with a barrier). Then the bytes that they move, and those
of its workspace. A phase moves each element that it reads or writes once, but for those that stay
in a tile. The last two variants are measured in TensorFlow, from Python: the whole model, and one
whose host ops, control flow and what computes shapes, stay outside of the program. They are not
measured where --parts names some.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from absl import app, flags, logging

import sirius_tf
from sirius_tf import compile as compiler
from sirius_tf.bundle.link import ISAS, link
from sirius_tf.codegen.cpu.kernel import print_kernel
from sirius_tf.config import Options
from sirius_tf.errors import SiriusError
from sirius_tf.frontend import savedmodel
from sirius_tf.lower.graph import lower
from sirius_tf.lower.rules import RULES
from sirius_tf.nest.scheduled import Scheduled
from sirius_tf.pipeline import PIPELINE
from sirius_tf.runtime import native
from sirius_tf.schedule.machine import cpu
from sirius_tf.tools import benchmark
from sirius_tf.tools.peers import Case, Run, read_case, tf_signature
from sirius_tf.tools.perf import traffic
from sirius_tf.tools.tables import table

WHOLE = "nothing left out"
WHOLE_IN_TF = "nothing left out, in TensorFlow"
HOST = "host ops, in TensorFlow"
HOST_OPS = frozenset(
    {"While", "StatelessWhile", "If", "StatelessIf", "Case", "StatelessCase", "Range"}
    | {"Shape", "ShapeN", "Size", "Rank", "EmptyTensorList"}
    | {op for op in RULES if op.startswith("TensorList")}
)


@dataclass(frozen=True)
class Variant:
    """Measurements of a model compiled without a part."""

    without: str
    ms: float | None
    phases: int | None = None
    barriers: int | None = None
    moved: int | None = None
    workspace: int | None = None


def schedule(case: Case, without: str) -> Scheduled:
    """The schedule of a signature without one of the parts."""
    signature = savedmodel.read(case.model, [case.signature]).signatures[case.signature]
    names = {key: tensor.name.split(":")[0] for key, tensor in signature.inputs.items()}
    hints = {names[key]: array.shape for key, array in case.feed.items()}
    program = lower(signature.graph, hints)
    passes = PIPELINE.without([] if without == WHOLE else [without])
    return compiler.schedule_program(program, cpu(case.threads), passes=passes)


def measure(case: Case, rounds: int, parts: Sequence[str] | None = None) -> list[Variant]:
    """All variants of a model, or those without some parts, timed in turns."""
    found, runs = list[Variant](), dict[str, Run]()
    with tempfile.TemporaryDirectory() as folder:
        for number, without in enumerate((WHOLE, *(parts or PIPELINE.names("cpu")))):
            try:
                scheduled = schedule(case, without)
            except SiriusError as error:
                logging.warning("%s without %s: %s", case.model.name, without, error)
                continue
            executed = list(traffic.phases(scheduled.nest, scheduled.program.hints))
            barriers = sum(e.times for e in executed)
            moved = sum(e.times * traffic.moved(scheduled, e) for e in executed)
            size = traffic.workspace(scheduled)
            found.append(Variant(without, None, len(executed), barriers, moved, size))
            path = Path(folder, f"{number}.so")
            link([print_kernel(scheduled)], path, {}, isas=[ISAS[native.isa()]])
            runs[without] = _run(native.Bundle(path), scheduled, case)
        in_tf = ((WHOLE_IN_TF, frozenset[str]()), (HOST, HOST_OPS)) if parts is None else ()
        for name, left_out in in_tf:
            runs[name] = in_tensorflow(case, Path(folder, name), left_out)
            found.append(Variant(name, None))
        want = next(iter(runs.values()))()
        laps: dict[str, list[float]] = {name: [] for name in runs}
        for name, run in runs.items():
            distance = benchmark.largest_error(want, run())
            if not distance <= 1e-3:
                raise SiriusError(f"{case.model.name} without {name} differs by {distance:.1e}")
        for _ in range(rounds):
            for name, run in runs.items():
                laps[name].append(benchmark.median_ms(run, 0.2))
    return [Variant(**{**asdict(v), "ms": statistics.median(laps[v.without])}) for v in found]


def in_tensorflow(case: Case, output: Path, left_out: frozenset[str]) -> Run:
    """The model as TensorFlow runs it, compiled but for some ops, which stay on TensorFlow."""
    with mock.patch.dict(RULES):
        for op in left_out:
            del RULES[op]
        options = Options(threads=case.threads, keep_slow=True)
        samples = {case.signature: case.feed}
        sirius_tf.optimize(
            case.model, output, signatures=[case.signature], samples=samples, options=options
        )
    return tf_signature(output, case)


def _run(bundle: native.Bundle, scheduled: Scheduled, case: Case) -> Run:
    program = scheduled.program
    arrays = {case.key(key): array for key, array in case.feed.items()}
    feed = [arrays[case.key(name)] for name in program.inputs]

    def run() -> dict[str, np.ndarray[Any, Any]]:
        results = bundle.call(program.name, feed, case.threads)
        return {o.tensor: r for o, r in zip(program.outputs, results, strict=True)}

    return run


def markdown(results: dict[str, list[Variant]]) -> str:
    """A table of all variants of all models."""
    heads = ("model", "without", "ms", "slower", "phases", "barriers", "moved, MB", "workspace, kB")
    rows = []
    for model, variants in results.items():
        times = {v.without: v.ms or 1.0 for v in variants}
        for v in variants:
            ms = times[v.without]
            slower = ms / times[WHOLE_IN_TF if v.without == HOST else WHOLE]
            row = [model, v.without, f"{ms:.3f}", f"{slower:.2f}x", "", "", "", ""]
            if v.moved is not None and v.workspace is not None:
                counts = str(v.phases), str(v.barriers)
                row[-4:] = *counts, f"{v.moved / 1e6:.2f}", f"{v.workspace / 1e3:.0f}"
            rows.append(row)
    return table(heads, rows)


def define_flags(values: flags.FlagValues) -> None:
    """Define the flags of this command."""
    flags.DEFINE_integer("threads", 2, "Workers.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("rounds", 7, "Turns of each.", lower_bound=1, flag_values=values)
    flags.DEFINE_list("parts", None, "What to leave out; all unless given.", flag_values=values)
    flags.DEFINE_string("json", None, "A file to write the results to.", flag_values=values)


def main(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """See the module."""
    logging.set_verbosity(logging.WARNING)  # TensorFlow logs through absl, too
    if len(argv) < 2:
        raise app.UsageError("expected MODEL ...")
    known = PIPELINE.names("cpu")
    if unknown := set(values.parts or ()).difference(known):
        names = ", ".join(sorted(unknown)), ", ".join(known)
        raise app.UsageError("cannot be left out: {}; --parts are of {}".format(*names))
    machine = benchmark.setup(values.threads)
    results = {}
    for model in map(Path, argv[1:]):
        case = read_case(model, "serving_default", values.threads)
        results[model.name] = measure(case, values.rounds, values.parts)
    content = {name: [asdict(v) for v in variants] for name, variants in results.items()}
    benchmark.report(machine, markdown(results), {"models": content}, values.json)


def run() -> None:
    """Run the command line of this process."""
    define_flags(flags.FLAGS)
    app.run(main)


if __name__ == "__main__":
    run()
