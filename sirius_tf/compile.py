# SPDX-License-Identifier: Apache-2.0
"""The way of a graph to a kernel, on one page."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from sirius_tf.codegen.cpu.kernel import Kernel, print_kernel
from sirius_tf.codegen.cuda.kernel import print_kernel as print_cuda
from sirius_tf.codegen.cuda.source import CudaKernel
from sirius_tf.config import Launch, Precision
from sirius_tf.frontend.graph import Graph
from sirius_tf.ir import printer
from sirius_tf.ir.program import Program
from sirius_tf.ir.verify import verify
from sirius_tf.lower.graph import lower
from sirius_tf.mapping.targets import machine_of
from sirius_tf.nest import nodes
from sirius_tf.nest.build import build_loops
from sirius_tf.nest.control import decide
from sirius_tf.nest.scheduled import Scheduled
from sirius_tf.poly.dependence import Flow, check_defined, check_single_assignment, flow
from sirius_tf.poly.scop import extract
from sirius_tf.schedule import fuse as fusing
from sirius_tf.schedule import tree
from sirius_tf.schedule.cluster import Tilings
from sirius_tf.schedule.fuse import fuse
from sirius_tf.schedule.hoist import release
from sirius_tf.schedule.inplace import passed_on
from sirius_tf.schedule.layout import lay_out
from sirius_tf.schedule.machine import CPU, Machine
from sirius_tf.schedule.overlap import overlap
from sirius_tf.schedule.private import private
from sirius_tf.schedule.schedule import show_tree
from sirius_tf.schedule.split_k import in_pieces
from sirius_tf.schedule.storage import Storage, slots, storage_maps, windows
from sirius_tf.schedule.verify import (
    check_cells,
    check_looks,
    check_order,
    check_phases,
    check_reflow,
    check_slots,
)
from sirius_tf.schedule.versions import number_versions
from sirius_tf.schedule.wavefront import wavefronts
from sirius_tf.transform.epilogue import finish_reductions
from sirius_tf.transform.lookup_sums import pick_sums
from sirius_tf.transform.reroll import reroll
from sirius_tf.transform.scale_weights import scale_weights
from sirius_tf.transform.simplify import simplify
from sirius_tf.transform.split_dims import split
from sirius_tf.transform.winograd import winograd

Dump = Callable[[str, str], None]  # name of a stage, and its text

PARTS = (
    "rerolling",
    "picking",
    "slices",
    "epilogues",
    "scaling",
    "winograd",
    "overlap",
    "private",
    *fusing.PARTS,
)
"""Whole-program optimizations that can be left out, to see what each is worth."""

NOT_STRICT = frozenset({"scaling", "winograd"})
"""Those that do more to sums than take their terms in another order."""

CUDA_PARTS = ("pieces",)
"""Likewise of CUDA code alone."""


def compile_program(
    program: Program,
    threads: int = 2,
    dump: Dump | None = None,
    without: Collection[str] = (),
    tilings: Tilings | None = None,
) -> Kernel:
    """The kernel of a program, made without some of PARTS; `dump` is given every stage's text.

    `tilings` are tile sizes that were measured, by the key of the cluster.
    """
    show = dump or _silent
    kernel = print_kernel(schedule_program(program, Machine(threads), show, without, tilings))
    show("c", kernel.plan + kernel.runs["v3"])
    return kernel


def compile_cuda(
    program: Program,
    arch: str = "sm_90",
    dump: Dump | None = None,
    without: Collection[str] = (),
    launch: Launch = "auto",
    precision: Precision = "strict",
    others: Sequence[str] = (),
) -> CudaKernel:
    """The CUDA kernels of a program, for GPUs like those of an architecture; they fit on `others`,
    too. They are made without some of PARTS and CUDA_PARTS."""
    show = dump or _silent
    machine = machine_of(arch, precision, others)
    kernel = print_cuda(schedule_program(program, machine, show, without), launch)
    show("source", kernel.source)
    return kernel


def simplified(program: Program, without: Collection[str] = ()) -> Program:
    """An equal program with less to do."""
    program = simplify(program if "rerolling" in without else reroll(program))
    program = program if "picking" in without else pick_sums(program)
    program = program if "slices" in without else split(program)
    program = program if "epilogues" in without else finish_reductions(program)
    program = program if "scaling" in without else scale_weights(program)
    return program if "winograd" in without else winograd(program)


def _silent(stage: str, text: str) -> None:
    """Show nothing."""


def schedule_program(
    program: Program,
    machine: Machine = CPU,
    show: Dump = _silent,
    without: Collection[str] = (),
    tilings: Tilings | None = None,
) -> Scheduled:
    """Simplify and schedule a program; isl verifies its definitions, the order, and the storage."""
    program, flows = laid_out(program, machine, show, without)
    root = fuse(program, flows, machine, without, tilings)
    return realize(program, flows, root, machine, show, without)


def laid_out(
    program: Program,
    machine: Machine = CPU,
    show: Dump = _silent,
    without: Collection[str] = (),
) -> tuple[Program, tuple[Flow, ...]]:
    """The program as it will be scheduled, and its dependences."""
    verify(program)
    show("program", printer.show(program))
    program = simplified(program, without)
    if "overlap" not in without and machine.threads == 1:  # what it costs blocks is not known
        program = overlap(program, machine.workers)
    if machine.threads == 1:
        program = number_versions(program)
    flows = _dependences(program)
    program = release(program, flows, without)
    if machine.threads > 1 and "pieces" not in without:
        divided = in_pieces(program, machine)
        flows = flows if divided is program else _dependences(divided)
        program = divided
    if {"hoisting", "wavefronts"}.isdisjoint(without):
        program = wavefronts(program, flows, machine)
    program = lay_out(program, machine)
    show("simplified", printer.show(program))
    return program, flows  # elements lie elsewhere now; which instance needs which is the same


def _dependences(program: Program) -> tuple[Flow, ...]:
    """Who needs whom of a program that defines every element once, and all that are read."""
    scop = extract(program)
    check_single_assignment(scop)
    check_defined(scop)
    return flow(scop)


def realize(
    program: Program,
    flows: Sequence[Flow],
    root: tree.Node,
    machine: Machine = CPU,
    show: Dump = _silent,
    without: Collection[str] = (),
) -> Scheduled:
    """The loops and the storage of a program whose schedule is `root`."""
    scop = extract(program)
    show("schedule", show_tree(root))
    schedule = tree.build(scop, root)
    check_order(scop, schedule, flows)
    check_phases(scop, root, flows)
    updates = [s.name for s in program.statements if passed_on(s)] if machine.threads == 1 else []
    folded = windows(program, scop, root, updates)
    own = {} if "private" in without else private(program, root)
    check_reflow(scop, schedule, storage_maps(scop, folded, own))
    cells = storage_maps(scop, folded)
    check_cells(scop, root, cells, updates)
    check_looks(scop, root, cells, program.conditions)
    shared = slots(program, root, own)
    check_slots(scop, root, shared, program.conditions)
    loops = decide(program, build_loops(scop, schedule))
    storage = Storage(folded, own, shared)
    scheduled = Scheduled(program, loops, storage, machine)
    show("loops", nodes.show(scheduled.nest))
    return scheduled


def compile_graph(
    graph: Graph,
    hints: Mapping[str, Sequence[int]] | None = None,
    threads: int = 2,
    dump: Dump | None = None,
    without: Collection[str] = (),
    tilings: Tilings | None = None,
) -> Kernel:
    """Compile a whole graph, whose name becomes the region's and is an identifier.

    `hints`: shape of each input on the samples. Unsupported names the node that has no rule.
    """
    return compile_program(lower(graph, hints), threads, dump, without, tilings)
