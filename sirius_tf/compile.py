# SPDX-License-Identifier: Apache-2.0
"""The way of a graph to a kernel, on one page. What happens to programs on it is in pipeline.py."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

from sirius_tf import observers, pipeline
from sirius_tf.codegen.cpu.kernel import Kernel, print_kernel
from sirius_tf.codegen.cuda.kernel import print_kernel as print_cuda
from sirius_tf.codegen.cuda.source import CudaKernel
from sirius_tf.config import Launch, Precision
from sirius_tf.frontend.graph import Graph
from sirius_tf.ir import printer
from sirius_tf.ir.program import Program
from sirius_tf.lower.graph import lower
from sirius_tf.mapping.targets import machine_of
from sirius_tf.nest import nodes
from sirius_tf.nest.build import build_loops
from sirius_tf.nest.control import decide
from sirius_tf.nest.scheduled import Scheduled
from sirius_tf.observers import Dump
from sirius_tf.pipeline import PIPELINE, Observer, Pipeline
from sirius_tf.poly.dependence import Flow
from sirius_tf.poly.scop import extract
from sirius_tf.schedule import tree
from sirius_tf.schedule.cluster import Tilings
from sirius_tf.schedule.fuse import fuse
from sirius_tf.schedule.inplace import passed_on
from sirius_tf.schedule.machine import CPU, Machine
from sirius_tf.schedule.options import ALL, ScheduleOptions
from sirius_tf.schedule.private import private
from sirius_tf.schedule.schedule import show_tree
from sirius_tf.schedule.storage import Storage, slots, storage_maps, windows
from sirius_tf.schedule.verify import (
    check_cells,
    check_looks,
    check_order,
    check_phases,
    check_reflow,
    check_slots,
)


def compile_program(
    program: Program,
    threads: int = 2,
    dump: Dump | None = None,
    passes: Pipeline = PIPELINE,
    tilings: Tilings | None = None,
) -> Kernel:
    """The kernel of a program; `dump` is given the text of every stage.

    `tilings` are tile sizes that were measured, by the key of the cluster.
    """
    kernel = print_kernel(schedule_program(program, Machine(threads), dump, passes, tilings))
    if dump:
        dump("c", kernel.plan + kernel.runs["v3"])
    return kernel


def compile_cuda(
    program: Program,
    arch: str = "sm_90",
    dump: Dump | None = None,
    passes: Pipeline = PIPELINE,
    launch: Launch = "auto",
    precision: Precision = "strict",
    others: Sequence[str] = (),
) -> CudaKernel:
    """The CUDA kernels of a program, for GPUs like those of an architecture; they fit on `others`,
    too."""
    machine = machine_of(arch, precision, others)
    named = (lambda stage, text: dump(f"cuda_{stage}", text)) if dump else None
    kernel = print_cuda(schedule_program(program, machine, named, passes), launch)
    if dump:
        dump("cuda", kernel.source)
    return kernel


def schedule_program(
    program: Program,
    machine: Machine = CPU,
    dump: Dump | None = None,
    passes: Pipeline = PIPELINE,
    tilings: Tilings | None = None,
    watching: Collection[Observer] = (),
) -> Scheduled:
    """Run the passes on a program and schedule it; isl verifies the order, and the storage."""
    program, flows = laid_out(program, machine, dump, passes, watching)
    root = fuse(program, flows, machine, passes.options, tilings)
    return realize(program, flows, root, machine, dump, passes.options)


def laid_out(
    program: Program,
    machine: Machine = CPU,
    dump: Dump | None = None,
    passes: Pipeline = PIPELINE,
    watching: Collection[Observer] = (),
) -> tuple[Program, tuple[Flow, ...]]:
    """The program as it will be scheduled, and its dependences.

    Each pass is checked if SIRIUS_CHECK is 1.
    """
    if dump:
        dump("program", printer.show(program))
        watching = (*watching, observers.dump(dump))
    if os.environ.get("SIRIUS_CHECK") == "1":
        watching = (*watching, observers.check)
    program, context = pipeline.run(program, machine, passes, watching)
    return program, context.flows


def realize(
    program: Program,
    flows: Sequence[Flow],
    root: tree.Node,
    machine: Machine = CPU,
    dump: Dump | None = None,
    options: ScheduleOptions = ALL,
) -> Scheduled:
    """The loops and the storage of a program whose schedule is `root`."""
    scop = extract(program)
    if dump:
        dump("schedule", show_tree(root))
    schedule = tree.build(scop, root)
    check_order(scop, schedule, flows)
    check_phases(scop, root, flows)
    updates = [s.name for s in program.statements if passed_on(s)] if machine.threads == 1 else []
    folded = windows(program, scop, root, updates)
    own = private(program, root) if options.private else {}
    check_reflow(scop, schedule, storage_maps(scop, folded, own))
    cells = storage_maps(scop, folded)
    check_cells(scop, root, cells, updates)
    check_looks(scop, root, cells, program.conditions)
    shared = slots(program, root, own)
    check_slots(scop, root, shared, program.conditions)
    loops = decide(program, build_loops(scop, schedule))
    storage = Storage(folded, own, shared)
    scheduled = Scheduled(program, loops, storage, machine)
    if dump:
        dump("loops", nodes.show(scheduled.nest))
    return scheduled


def compile_graph(
    graph: Graph,
    hints: Mapping[str, Sequence[int]] | None = None,
    threads: int = 2,
    dump: Dump | None = None,
    passes: Pipeline = PIPELINE,
    tilings: Tilings | None = None,
) -> Kernel:
    """Compile a whole graph, whose name becomes the region's and is an identifier.

    `hints`: shape of each input on the samples. Unsupported names the node that has no rule.
    """
    return compile_program(lower(graph, hints), threads, dump, passes, tilings)
