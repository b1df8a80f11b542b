# SPDX-License-Identifier: Apache-2.0
"""LoopNest -> C for one kernel: its `run` functions (native/sirius_abi.h).

A worker is a thread. Of a long phase, one who has done his share helps the others with theirs:
cores are never equally fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from math import prod

from sirius_tf.codegen import scalar
from sirius_tf.codegen.context import Isa
from sirius_tf.codegen.cpu import leaf
from sirius_tf.codegen.entry import bound_text, grown, print_plan, slot_bytes
from sirius_tf.codegen.function import Function
from sirius_tf.codegen.spmd import SpmdPrinter, printable
from sirius_tf.ir.program import Program, Statement, Tensor
from sirius_tf.nest.coalesce import Leaf
from sirius_tf.nest.nodes import Block, Box, Loop, LoopNest, Phase, Run, Tile, rectangle_of, walk
from sirius_tf.nest.phases import clusters_of
from sirius_tf.nest.scheduled import Scheduled
from sirius_tf.schedule.cpu_costs import LONG_LEAF, WORTH_HELPING
from sirius_tf.schedule.plan import work

_BARRIER = "sirius_barrier(call);"
_LEAVE = "if (worker >= call->threads) return;"
_LEAVE_TILE = "goto left;"


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
    return _Printer(kernel=printable(kernel), variant=isa).run()


@dataclass(frozen=True, kw_only=True)
class _Printer(SpmdPrinter):
    language = scalar.C
    worker = "worker"
    workers = "call->threads"
    weights = "call->weights"
    begins = " && !sirius_stops(call, worker, &rest)"
    repeats = "!sirius_leaves(call, worker, &rest) && "

    printed: dict[str, tuple[Function, list[str]]] = field(default_factory=dict)
    """By what decides it, the function of a leaf, and the tensors that it was printed for."""
    timed: bool = False  # whether the time of a tile is measured anew in this phase
    helped: str = ""  # the cluster of the phase of which workers may take others' tiles
    following: Phase | None = None  # what comes right behind the phase

    @property
    def isa(self) -> Isa:
        """The registers of the instruction set."""
        return leaf.ISAS[self.variant]

    def run(self) -> str:
        name = f"{self.program.name}_run_{self.variant}"
        lines = [f"void {name}(SiriusCall *call, int32_t worker) {{"]
        for k, p in enumerate(self.program.params):
            kind = "int64_t" if p.exit else "const int64_t"
            lines.append(f"  {kind} {p.name} = call->params[{k}];")
        lines.append("  char *workspace = call->workspace;")
        for k, size in enumerate(slot_bytes(self.kernel, self.workers, self.language)):
            lines += [f"  char *slot{k} = workspace;", f"  workspace += {size};"]
        slots = self.kernel.storage.slots  # of temporaries that statements touch
        kept = [t for t in self.program.tensors if t.role != "temp" or t.name in slots]
        lines += [f"  {self.pointer(t)}" for t in kept]
        lines.append("  (void)workspace;")
        lines += ["  int32_t turn = 0;", "  SiriusRest rest = {0, -1};"]
        lines += self.node(self.kernel.nest, "  ")
        names = [p.name for p in self.program.params]
        names += [f"T_{t.name}" for t in kept] + ["worker", "turn", "rest"]
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
            following = then if isinstance(part, Phase) and isinstance(then, Phase) else None
            lines += replace(self, following=following).node(part, pad)
        return lines

    def in_phase(self, phase: Phase) -> _Printer:
        longest = self.longest(phase)
        helped = "" if self.looped else longest
        return replace(self, clusters=clusters_of(phase), helped=helped, timed=bool(longest))

    def before_phase(self, phase: Phase) -> list[str]:
        """Outside of loops, the numbers of tiles that are taken start anew."""
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
        if self.following is None or not self.looped:
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
        body = _ended(body, "  ")
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

    def whole_tile(self, tile: Tile, pad: str) -> list[str]:
        return _ended(super().whole_tile(tile, pad), pad)

    def inside(self, nest: LoopNest, pad: str) -> list[str]:
        """A numbered tile ends behind all its pieces."""
        return self.tile(nest.body, pad) if isinstance(nest, Tile) else super().inside(nest, pad)

    def call(self, box: Box) -> list[str]:
        """A leaf that takes long is as good a moment to stop as a tile. What follows in the tile is
        left out, too: it might take for a subscript what the leaf would have made."""
        if self.points_of(box) < LONG_LEAF:
            return super().call(box)
        test = f"if (sirius_stops(call, worker, &rest)) {_LEAVE_TILE}"
        return ["sirius_other_tiles(&rest);", test, *super().call(box)]

    def points_of(self, box: Box) -> int:
        """The points of a leaf, on the samples."""
        s, hints = self.statements[box.run.statement], self.program.hints
        sizes = {r.name: r.capacity for r in box.ranges}
        through = [i for i in s.iters if i.name in sizes]
        summed = s.reduce.iters if s.reduce else ()
        points = prod(sizes[i.name] or i.extent.evaluate(hints) for i in through)
        return points * prod(i.extent.evaluate(hints) for i in summed)

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
        """Printed once for leaves that are the same but for the names of their tensors."""
        plan, storage = self.kernel.plans[leaf_.statement.name], self.kernel.storage
        key, tensors = leaf.alike(self.program, leaf_, plan, storage)
        if key not in self.printed:
            made = leaf.print_leaf(self.program, leaf_, plan, storage, self.isa)
            self.printed[key] = made, tensors
        made, theirs = self.printed[key]
        ours = dict(zip(theirs, tensors, strict=True))
        return replace(made, tensors=tuple(ours.get(t, t) for t in made.tensors))


def _ended(tile: list[str], pad: str) -> list[str]:
    """The lines of a tile; some may go to its end."""
    if not any(_LEAVE_TILE in line for line in tile):
        return tile
    return [f"{pad}{{", f"{pad}  __label__ left;", *tile, f"{pad}  left:;", f"{pad}}}"]


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
