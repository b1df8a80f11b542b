# SPDX-License-Identifier: Apache-2.0
"""The way of a graph to a kernel, on one page. What happens to programs on it is in pipeline.py."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

from sirius_tf import observers, pipeline
from sirius_tf.codegen.cpu.kernel import Kernel, print_kernel
from sirius_tf.codegen.cpu.plans import is_computable
from sirius_tf.codegen.cuda.kernel import print_kernel as print_cuda
from sirius_tf.codegen.cuda.source import CudaKernel
from sirius_tf.config import Launch, Precision
from sirius_tf.errors import VerifyError
from sirius_tf.frontend.graph import Graph
from sirius_tf.ir import printer
from sirius_tf.ir.program import Program, Statement
from sirius_tf.lower.graph import lower
from sirius_tf.mapping.choose import choose_mapping
from sirius_tf.mapping.gpu import GpuMapping
from sirius_tf.mapping.micro import is_warps
from sirius_tf.mapping.targets import machine_of
from sirius_tf.mapping.text import show as show_mapping
from sirius_tf.nest import nodes
from sirius_tf.nest.build import build_loops
from sirius_tf.nest.control import decide
from sirius_tf.nest.scheduled import Scheduled
from sirius_tf.observers import Dump
from sirius_tf.pipeline import PIPELINE, Observer, Pipeline
from sirius_tf.poly.dependence import Flow
from sirius_tf.poly.scop import Scop, extract
from sirius_tf.schedule import tree
from sirius_tf.schedule.cluster import Tilings
from sirius_tf.schedule.fuse import fuse
from sirius_tf.schedule.inplace import passed_on
from sirius_tf.schedule.machine import ALL, CPU, Machine, ScheduleOptions, cpu
from sirius_tf.schedule.plan import Plan, choose_all
from sirius_tf.schedule.private import private
from sirius_tf.schedule.schedule import Schedule, check_complete, show, show_plan
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
    workers: int = 2,
    dump: Dump | None = None,
    passes: Pipeline = PIPELINE,
    tilings: Tilings | None = None,
    given: Schedule | None = None,
) -> Kernel:
    """The kernel of a program; `dump` is given the text of every stage.

    `tilings` are tile sizes that were measured, by the key of the cluster; a schedule that is given
    takes the place of the scheduler's.
    """
    scheduled = schedule_program(program, cpu(workers), dump, passes, tilings, given=given)
    kernel = print_kernel(scheduled)
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
    given: Schedule | None = None,
    mapping: GpuMapping | None = None,
) -> CudaKernel:
    """The CUDA kernels of a program, for GPUs like those of an architecture; they fit on `others`,
    too. A schedule, or a mapping, that is given takes the place of the one that would be chosen."""
    machine = machine_of(arch, precision, others)
    named = (lambda stage, text: dump(f"cuda_{stage}", text)) if dump else None
    scheduled = schedule_program(program, machine, named, passes, given=given)
    mapping = mapping or choose_mapping(scheduled, launch)
    if dump:
        dump("cuda_mapping", show_mapping(mapping))
    kernel = print_cuda(scheduled, mapping=mapping)
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
    given: Schedule | None = None,
) -> Scheduled:
    """Run the passes on a program and schedule it, or take the schedule that is given; isl verifies
    the order, and the storage."""
    program, flows = laid_out(program, machine, dump, passes, watching)
    scop = extract(program)
    if given is None:
        root = fuse(program, flows, machine, passes.options, tilings)
        given = allocate(program, scop, root, machine, passes.options)
    return realize(program, scop, flows, given, machine, dump)


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


def allocate(
    program: Program,
    scop: Scop,
    root: tree.Node,
    machine: Machine = CPU,
    options: ScheduleOptions = ALL,
) -> Schedule:
    """The schedule of which `root` is the tree: with plans, and a place for each temporary."""
    own = private(program, root) if options.private else {}
    folded = windows(program, scop, root, updated(program, machine))
    storage, plans = Storage(folded, own, slots(program, root, own)), choose_all(program, machine)
    loops = set(tree.loops_in_tiles(root))
    for s in program.statements:
        plan = plans[s.name]
        runs = machine.target == "cuda" or plan.across or (s.name, plan.lanes) in loops
        if not runs or not _is_computable(program, storage, s, plan, machine):
            plans[s.name] = Plan(None)
    return Schedule(root, plans, storage)


def _is_computable(
    program: Program, storage: Storage, s: Statement, plan: Plan, machine: Machine
) -> bool:
    """Whether generated code can follow a plan."""
    if machine.target == "cuda":
        return is_warps(program, s, plan)
    return is_computable(program, storage, s, plan)


def realize(
    program: Program,
    scop: Scop,
    flows: Sequence[Flow],
    schedule: Schedule,
    machine: Machine = CPU,
    dump: Dump | None = None,
) -> Scheduled:
    """The loops of a program that is scheduled. VerifyError says what is wrong with the schedule,
    with an example."""
    if dump:
        dump("schedule", show(schedule))
    root, storage = schedule.tree, schedule.storage
    check_complete(program, scop, schedule)
    for s in program.statements:
        if not _is_computable(program, storage, s, schedule.plans[s.name], machine):
            raise VerifyError(f"{s.name} has no code for '{show_plan(schedule.plans[s.name])}'")
    order = tree.build(scop, root)
    check_order(scop, order, flows)
    check_phases(scop, root, flows)
    check_reflow(scop, order, storage_maps(scop, storage.windows, storage.private))
    cells = storage_maps(scop, storage.windows)
    check_cells(scop, root, cells, updated(program, machine))
    check_looks(scop, root, cells, program.conditions)
    check_slots(scop, root, storage.slots, program.conditions)
    loops = decide(program, build_loops(scop, order))
    scheduled = Scheduled(program, loops, schedule.plans, storage, machine)
    if dump:
        dump("loops", nodes.show(scheduled.nest))
    return scheduled


def updated(program: Program, machine: Machine) -> list[str]:
    """The statements that update their tensor in place, as one thread can."""
    return [s.name for s in program.statements if passed_on(s)] if machine.target == "cpu" else []


def compile_graph(
    graph: Graph,
    hints: Mapping[str, Sequence[int]] | None = None,
    workers: int = 2,
    dump: Dump | None = None,
    passes: Pipeline = PIPELINE,
    tilings: Tilings | None = None,
) -> Kernel:
    """Compile a whole graph, whose name becomes the region's and is an identifier.

    `hints`: shape of each input on the samples. Unsupported names the node that has no rule.
    """
    return compile_program(lower(graph, hints), workers, dump, passes, tilings)
