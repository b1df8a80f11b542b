# SPDX-License-Identifier: Apache-2.0
"""Costs of the CUDA kernels of SavedModels: to make them, and of a GPU. No GPU is needed.

usage: cuda_kernels.py MODEL ... [--arch=sm_80,sm_90] [--without=wavefront,...]

For each region and architecture a row of a table:
- the phases that a call runs, each of which ends with a barrier or a kernel, if blocks do not await
  words in a loop;
- seconds of one core until there was source, and until NVRTC had compiled it (next to none if the
  cache had it);
- kB of source, and kernels;
- the most registers, and bytes of spills and of stack, of a thread;
- bytes of shared memory, and blocks.

Then its reductions, by the cost model of schedule/split_k.py, which knows no GPU: how many are
alike, points, terms, tiles, and the time of a thread, in microseconds of an H100 at that model's
prices. The same of their pieces, where it divides them among blocks.
Samples are MODEL.npz if that exists. The last line is the greatest memory this process had.
"""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path

from absl import app, flags, logging
from rich.console import Console

from sirius_tf.bundle.cuda import compile_kernel, complete_source
from sirius_tf.codegen.cuda.kernel import print_kernel
from sirius_tf.compile import laid_out, schedule_program
from sirius_tf.config import Options
from sirius_tf.ir.program import Program
from sirius_tf.mapping.targets import machine_of
from sirius_tf.pipeline import PIPELINE, Pipeline
from sirius_tf.schedule.gpu_costs import BARRIER_US
from sirius_tf.schedule.machine import Machine
from sirius_tf.schedule.plan import work
from sirius_tf.schedule.split_k import choices
from sirius_tf.tools import convert
from sirius_tf.tools.perf import traffic

COLUMNS = (
    "region",
    "arch",
    "phases",
    "made s",
    "NVRTC s",
    "source kB",
    "kernels",
    "registers",
    "spills B",
    "stack B",
    "shared B",
    "blocks",
)


REDUCTIONS = ("alike", "points", "terms", "tiles", "us", "pieces", "tiles then", "us then")


def define_flags(values: flags.FlagValues) -> None:
    """Define the flags of this command."""
    archs = list(Options().arch)
    flags.DEFINE_list("arch", archs, "GPU architectures to compile for.", flag_values=values)
    flags.DEFINE_list(
        "without", [], "Passes, and parts of the scheduler, to leave out.", flag_values=values
    )


def rows(
    program: Program, archs: list[str], passes: Pipeline = PIPELINE
) -> Iterator[tuple[str, ...]]:
    """A row of COLUMNS for each architecture."""
    start = time.process_time()
    machine = machine_of(archs[-1], others=archs)
    scheduled = schedule_program(program, machine, passes=passes)
    kernel = print_kernel(scheduled)
    phases = sum(e.times for e in traffic.phases(scheduled.nest, program.hints))
    made = time.process_time() - start
    size = len(complete_source(kernel)) / 1e3
    for arch in archs:
        start = time.process_time()
        compiled = compile_kernel(kernel, [arch])
        took = time.process_time() - start
        used = [compiled.cubins[arch].kernels[name] for name in kernel.kernels]
        spills = sum(k.spill_stores + k.spill_loads for k in used)
        shared = max(k.static_shared for k in used) + kernel.shared_bytes
        most = max(k.registers for k in used), spills, max(k.stack for k in used)
        numbers = [len(used), *most, shared, compiled.blocks(arch)]
        times = [f"{made:.1f}", f"{took:.1f}", f"{size:.0f}"]
        yield (kernel.name, arch, str(phases), *times, *map(str, numbers))


def reductions(program: Program, machine: Machine) -> Iterator[tuple[str, ...]]:
    """A row of REDUCTIONS for all reductions that are alike."""
    program, _ = laid_out(program, machine, passes=PIPELINE.without(["split_k"]))
    statements = {s.name: s for s in program.statements}
    us = BARRIER_US * machine.threads / machine.worth_a_barrier
    found = Counter[tuple[str, ...]]()
    for name, choice in choices(program, machine).items():
        free = [i.extent.evaluate(program.hints) for i in statements[name].iters if not i.loop]
        points, all_points = prod(free), work(statements[name], program.hints)
        steps = prod(i.extent.evaluate(program.hints) for i in statements[name].iters if i.loop)
        times = [f"{us * t:.1f}" for t in choice.steps]
        row = [points, all_points // max(points * steps, 1), choice.tiles[0], times[0]]
        row += [choice.count, choice.tiles[1], times[1]] if choice.count > 1 else ["", "", ""]
        found[tuple(map(str, row))] += 1
    return ((str(n), *row) for row, n in found.items())


def main(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """See the module."""
    logging.set_verbosity(logging.WARNING)  # TensorFlow logs through absl, too
    if len(argv) < 2:
        raise app.UsageError("expected a MODEL")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is imported
    from sirius_tf.driver import programs

    passes = PIPELINE.without(values.without)
    for path in map(Path, argv[1:]):
        file = path.with_suffix(".npz")
        samples = convert.read_samples(path, None, {}, str(file) if file.exists() else None)
        table = convert.table(path.name, *COLUMNS)
        found = list(programs(path, samples=samples or None))
        for program in found:
            for row in rows(program, values.arch, passes):
                table.add_row(*row)
        Console(width=140).print(table)
        table = convert.table(f"{path.name}: reductions, modelled", *REDUCTIONS)
        for program in found:
            for row in reductions(program, machine_of(values.arch[-1])):
                table.add_row(*row)
        Console(width=140).print(table)
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB of memory at most")


def run() -> None:
    """Run the command line of this process."""
    define_flags(flags.FLAGS)
    app.run(main)


if __name__ == "__main__":
    run()
