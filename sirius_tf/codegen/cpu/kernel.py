# SPDX-License-Identifier: Apache-2.0
"""LoopNest -> C for one kernel: its `run` functions (native/sirius_abi.h).

A worker is a thread. Of a long phase, one who has done his share helps the others with theirs:
cores are never equally fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from math import prod

from sirius_tf.codegen import scalar
from sirius_tf.codegen.cpu import leaf
from sirius_tf.codegen.entry import bound_text, grown, print_plan, slot_bytes
from sirius_tf.codegen.function import Function
from sirius_tf.codegen.spmd import SpmdPrinter
from sirius_tf.ir.program import Program, Statement, Tensor
from sirius_tf.nest.coalesce import Leaf
from sirius_tf.nest.nodes import Block, Box, Loop, LoopNest, Phase, Run, Tile, rectangle_of, walk
from sirius_tf.nest.scheduled import Scheduled
from sirius_tf.schedule.cpu_costs import WORTH_HELPING
from sirius_tf.schedule.plan import work

_BARRIER = "sirius_barrier(call);"
_LEAVE = "if (worker >= call->threads) return;"


@dataclass(frozen=True)
class Kernel:
    """The C of a program: what it does on entry, and its SPMD function by instruction set."""

    program: Program
    plan: str
    runs: Mapping[str, str]


def print_kernel(scheduled: Scheduled) -> Kernel:
    """The kernel of a scheduled program, for all instruction sets."""
    runs = {isa: print_run(scheduled, isa) for isa in leaf.ISAS}
    return Kernel(scheduled.program, print_plan(scheduled), runs)


def print_run(kernel: Scheduled, isa: str) -> str:
    """The SPMD function `<name>_run_<isa>` and the leaves it calls."""
    return _Printer(kernel, isa).run()


class _Printer(SpmdPrinter):
    language = scalar.C
    worker = "worker"
    workers = "call->threads"
    weights = "call->weights"
    begins = " && !sirius_stops(call, worker, &rest)"
    repeats = "!sirius_leaves(call, worker, &rest) && "

    def __init__(self, kernel: Scheduled, isa: str) -> None:
        super().__init__(kernel, isa)
        self.isa = leaf.ISAS[isa]
        self.timed = True  # whether the time of a tile is measured anew in this phase
        self.helped = ""  # the cluster of the phase of which workers may take others' tiles
        self.following: Phase | None = None  # what comes right behind the phase

    def run(self) -> str:
        name = f"{self.program.name}_run_{self.variant}"
        lines = [f"void {name}(SiriusCall *call, int32_t worker) {{"]
        for k, p in enumerate(self.program.params):
            kind = "int64_t" if p.exit else "const int64_t"
            lines.append(f"  {kind} {p.name} = call->params[{k}];")
        lines.append("  char *workspace = call->workspace;")
        for k, size in enumerate(slot_bytes(self.kernel, self.workers, self.language)):
            lines += [f"  char *slot{k} = workspace;", f"  workspace += {size};"]
        lines += [f"  {self.pointer(t)}" for t in self.program.tensors]
        lines.append("  (void)workspace;")
        lines += ["  int32_t turn = 0;", "  SiriusRest rest = {0, -1};"]
        lines += self.node(self.kernel.nest, "  ")
        if lines[-1].strip() == _LEAVE:
            del lines[-2:]  # the host waits for all workers
        names = [p.name for p in self.program.params]
        names += [f"T_{t.name}" for t in self.program.tensors] + ["worker", "turn", "rest"]
        lines.append("  " + " ".join(f"(void){n};" for n in names))
        leaves = [
            f"static __attribute__((noinline)) void {name}{text}\n\n"
            for text, name in self.functions.items()
        ]
        return "".join(leaves) + "\n".join([*lines, "}", ""])

    def pointer(self, t: Tensor) -> str:
        """The declaration of a pointer."""
        const = "const " if t.role in ("input", "constant") else ""
        head = f"{const}{scalar.C.types[t.dtype]} *{self.name_of(t)}"
        match t.role:
            case "input":
                return f"{head} = call->in[{self.program.inputs.index(t.name)}].data;"
            case "output":
                number = [o.tensor for o in self.program.outputs].index(t.name)
                return f"{head} = call->out[{number}];"
        return f"{head} = {self.place(t)};"

    # Phases

    def node(self, nest: LoopNest, pad: str) -> list[str]:
        if not isinstance(nest, Block):
            return super().node(nest, pad)
        lines = list[str]()
        for part, then in zip_longest(nest.parts, nest.parts[1:]):
            self.following = None
            if isinstance(part, Phase) and isinstance(then, Phase):
                self.following = then
            lines += self.node(part, pad)
        return lines

    def before_phase(self, phase: Phase) -> list[str]:
        """Outside of loops, the numbers of tiles that are taken start anew."""
        longest = self.longest(phase)
        self.helped = "" if self.loops else longest
        self.timed = bool(longest)
        return ["turn = sirius_next_turn(call, worker, turn);"] if self.helped else []

    def longest(self, phase: Phase) -> str:
        """The cluster with most work, if there is much each time that the phase is run."""
        points: dict[str, int] = {}
        for tile in (n for n in walk(phase) if isinstance(n, Tile)):
            names = {n.statement for n in walk(tile) if isinstance(n, Run)}
            total = sum(self.work_at_once(self.statements[n]) for n in names)
            points[tile.cluster] = points.get(tile.cluster, 0) + total
        cluster = max(points, key=lambda c: points[c])
        return cluster if points[cluster] >= WORTH_HELPING else ""

    def work_at_once(self, s: Statement) -> int:
        """The points of a statement in one iteration of the loops around it."""
        trips = prod(max(i.extent.evaluate(self.program.hints), 1) for i in s.iters if i.loop)
        return work(s, self.program.hints) // trips

    def barrier(self, phase: Phase) -> list[str]:
        """None in a loop where the first worker runs this phase and the next one alone."""
        wait = [_BARRIER, _LEAVE]
        if self.following is None or not self.loops:
            return wait
        several = [_several(phase), _several(self.following)]
        if None in several:
            return wait
        tests = list(filter(None, dict.fromkeys(several)))
        return [f"if ({' || '.join(tests)}) {{", *(f"  {x}" for x in wait), "}"] if tests else []

    def before_tiles(self) -> list[str]:
        """Tiles of short phases count as one kind: to look at the clock for each takes too long."""
        return ["sirius_other_tiles(&rest);"] if self.timed else []

    def share(self, body: list[str], cluster: str) -> list[str]:
        """The loops over this worker's share, then over what is left of the others'."""
        if cluster != self.helped:
            return super().share(body, cluster)
        return [
            *self.before_tiles(),
            "for (int32_t k = 0; k < call->threads; ++k) {",
            "  const int64_t whose = (mine + k) % call->threads;",
            "  const int64_t first = tiles * whose / call->threads;",
            "  const int64_t end = tiles * (whose + 1) / call->threads;",
            "  int64_t tile;",
            f"  while ((tile = first + sirius_take(call, whose, turn)) < end{self.begins}) {{",
            *(f"  {line}" for line in body),
            "  }",
            "}",
        ]

    def first_of(self, who: str) -> str:
        """Rounded up, so that a single tile is number 0's."""
        return f"(tiles * {who} + {self.workers} - 1) / {self.workers}"

    def room(self, loop: Loop) -> tuple[str, list[str]]:
        """The trip count is its upper bound until the loop is over."""
        growths = (grown(self.kernel, t) for t in self.program.tensors)
        if loop.go is None or not any(g and g[0] == loop.trips for g in growths):
            return "", []
        text = scalar.string("%lld iterations of a loop need more than 2^43 bytes")
        failure = f"sirius_fail(call, {text}, {loop.trips}, 0);"
        full = f"{loop.var} >= {loop.trips} && {self.element(loop.go)}"
        return f"{loop.var} < {loop.trips} && ", [f"if ({full}) {failure}"]

    def report_trips(self, loop: Loop, number: int) -> str:
        return f"if (worker == 0) call->params[{number}] = {loop.var};"

    def print_leaf(self, box: Box, leaf_: Leaf) -> Function:
        plan = self.kernel.plans[leaf_.statement.name]
        return leaf.print_leaf(self.program, leaf_, plan, self.kernel.storage, self.isa)


def _several(phase: Phase) -> str | None:
    """C of the condition that a phase has more than one tile, else the first worker's; "" if it
    never has, None if it always has, or has parts."""
    body = phase.body
    while isinstance(body, Block) and len(body.parts) == 1:
        (body,) = body.parts
    if isinstance(body, Tile):
        return ""
    if not isinstance(body, Loop):
        return None
    tests = list[str]()
    for loop in rectangle_of(body)[0]:
        sizes = [end - first for first in loop.lower.terms for end in loop.upper.terms]
        known = [n.const for n in sizes if n.is_const]
        if known and min(known) <= loop.step:
            continue
        if len(known) == len(sizes):
            return None
        first, end = bound_text("max", loop.lower), bound_text("min", loop.upper)
        tests.append(f"{end} - {first} > {loop.step}")
    return " || ".join(tests)
