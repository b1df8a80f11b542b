# SPDX-License-Identifier: Apache-2.0
"""LoopNest -> the function that every worker runs, in any C-like language.

A statement over its part of a tile is a function (codegen/function.py); equal ones are one
function. The tiles of a phase are numbered and divided among the workers; a single tile is one
worker's. A language says how workers are numbered, wait for each other and share their tiles.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

from sirius_tf.codegen import scalar
from sirius_tf.codegen.entry import bound_text, tensor_bytes, weight_offsets
from sirius_tf.codegen.function import Function
from sirius_tf.codegen.names import with_own_parameters
from sirius_tf.codegen.scalar import Language
from sirius_tf.errors import VerifyError
from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import Load
from sirius_tf.ir.program import Program, Statement, Tensor
from sirius_tf.nest.boxes import with_boxes
from sirius_tf.nest.coalesce import Leaf, leaf_of
from sirius_tf.nest.nodes import (
    Block,
    Box,
    Guard,
    Loop,
    LoopNest,
    Phase,
    Tile,
    Wait,
    When,
    rectangle_of,
    show,
    walk,
)
from sirius_tf.nest.phases import clusters_of, last_of, with_numbers
from sirius_tf.nest.scheduled import Scheduled


def printable(kernel: Scheduled) -> Scheduled:
    """The kernel as printers take it: with names of its own, boxes, and numbered phases."""
    return with_numbers(with_boxes(with_own_parameters(kernel)))


@dataclass(frozen=True, kw_only=True)
class SpmdPrinter(ABC):
    """Prints the function that every worker runs: the loops and tiles that all languages share.

    A printer is a value that knows where it is: `replace` makes the one for another place. All of
    them write into the same `functions`.
    """

    language: ClassVar[Language]
    worker: ClassVar[str]
    """The number of this worker."""
    workers: ClassVar[str]
    """The number of workers."""
    weights: ClassVar[str]
    """The address at which the constants begin."""
    begins: ClassVar[str] = ""
    """Whether a worker begins one more tile, as an operand of &&."""
    repeats: ClassVar[str] = ""
    """Whether all workers begin one more iteration of a loop around phases, likewise."""

    kernel: Scheduled
    variant: str
    functions: dict[str, str] = field(default_factory=dict)  # text of a leaf -> its name
    looped: bool = False  # inside of a sequential loop
    clusters: tuple[str, ...] = ()  # of the phase around

    @property
    def program(self) -> Program:
        """The program of the kernel."""
        return self.kernel.program

    @cached_property
    def statements(self) -> dict[str, Statement]:
        """Its statements by name."""
        return {s.name: s for s in self.program.statements}

    @cached_property
    def last(self) -> LoopNest:
        """The part that runs last: the launch, or the call, ends when all workers have."""
        return last_of(self.kernel.nest)

    @abstractmethod
    def before_phase(self, phase: Phase) -> list[str]:
        """The lines that every worker runs before it looks for tiles of a phase."""

    @abstractmethod
    def barrier(self, phase: Phase) -> list[str]:
        """The lines that end a phase: workers wait for each other."""

    @abstractmethod
    def report_trips(self, loop: Loop, number: int) -> str:
        """C that tells the host how often a loop ran that data has ended: a parameter's value."""

    def wait(self, reason: str) -> list[str]:
        """The lines by which the threads of a worker wait for each other: it is one thread."""
        return []

    @abstractmethod
    def print_leaf(self, box: Box, leaf: Leaf) -> Function:
        """The function of the leaf of a box."""

    def name_of(self, t: Tensor) -> str:
        """The pointer to a tensor. Names are the user's: a prefix keeps them from meeting ours."""
        return f"T_{t.name}"

    def place(self, t: Tensor) -> str:
        """The address of a constant, or of a temporary in its slot."""
        c_type = self.language.types[t.dtype]
        if t.role == "constant":
            return f"(const {c_type} *)({self.weights} + {weight_offsets(self.program)[t.name]})"
        slot = f"slot{self.kernel.storage.slots[t.name]}"
        if t.name in self.kernel.storage.private:
            size = tensor_bytes(self.kernel, t, self.language)
            slot = f"({slot} + {self.worker} * {size})"
        return f"({c_type} *){slot}"

    # Loops

    def node(self, nest: LoopNest, pad: str) -> list[str]:
        """Outside of phases: what every worker runs."""
        match nest:
            case Block(parts):
                return [line for part in parts for line in self.node(part, pad)]
            case Phase(body):
                at = self.in_phase(nest)
                before = [pad + line for line in at.before_phase(nest)]
                after = [] if nest == self.last else [pad + line for line in at.barrier(nest)]
                return [*before, *at.spread(body, pad), *after]
            case Loop():
                return self.loop(nest, pad, replace(self, looped=True).node, self.repeats)
            case Guard():
                return self.guard(nest, pad, self.node)
            case When():
                return self.when(nest, pad, self.node)
        raise VerifyError(f"a statement outside of every phase:\n{show(nest)}")

    def in_phase(self, phase: Phase) -> SpmdPrinter:
        """The printer inside of a phase."""
        return replace(self, clusters=clusters_of(phase))

    def when(self, when: When, pad: str, print_body: Print) -> list[str]:
        """Guards of which every worker finds the same."""
        tests = [f"{'' if g.holds else '!'}{self.element(g.condition)}" for g in when.guards]
        return [
            f"{pad}if ({' && '.join(tests)}) {{",
            *print_body(when.body, pad + "  "),
            f"{pad}}}",
        ]

    def element(self, load: Load) -> str:
        """An element, in the loops around the leaves."""
        t, storage = self.program.tensor[load.tensor], self.kernel.storage
        affines = [affine(i) for i in load.index if isinstance(i, Affine)]
        kept = [i if w is None else i % w for i, w in zip(affines, storage.window(t), strict=True)]
        return f"{self.name_of(t)}[{scalar.flat(kept, storage.shape(t))}]"

    def control(self, nest: Loop | Guard | When, pad: str, print_body: Print) -> list[str]:
        """The lines of a node whose body one worker runs several times, or perhaps not at all."""
        match nest:
            case Loop():
                return self.loop(nest, pad, print_body)
            case Guard():
                return self.guard(nest, pad, print_body)
            case When():
                return self.when(nest, pad, print_body)

    def loop(self, loop: Loop, pad: str, print_body: Print, test: str = "") -> list[str]:
        """One that every worker runs as it is, while `test` holds."""
        if loop.go:
            limit, beyond = self.room(loop)
            head = f"for (; {test}{limit}{self.element(loop.go)}; ++{loop.var}) {{"
            body = [*print_body(loop.body, pad + "    "), f"{pad}  }}"]
            number = [p.name for p in self.program.params].index(loop.trips)
            start = f"int64_t {loop.var} = 0;"
            end = f"{loop.trips} = {loop.var}; {self.report_trips(loop, number)}"
            return [
                f"{pad}{{",
                f"{pad}  {start}",
                f"{pad}  {head}",
                *body,
                *(pad + "  " + line for line in beyond),
                f"{pad}  {end}",
                f"{pad}}}",
            ]
        first, end = bound_text("max", loop.lower), bound_text("min", loop.upper)
        start, more = f"int64_t {loop.var} = {first}", f"{test}{loop.var} < {end}"
        head = f"for ({start}; {more}; {loop.var} += {loop.step})"
        return [f"{pad}{head} {{", *print_body(loop.body, pad + "  "), f"{pad}}}"]

    def room(self, loop: Loop) -> tuple[str, list[str]]:
        """C of the test, for a loop that data ends, that there is room for one more iteration, and
        of what to do if there was none."""
        return "", []

    def guard(self, guard: Guard, pad: str, print_body: Print) -> list[str]:
        """Conditions on iterators and parameters."""
        test = " && ".join(f"{scalar.index(c)} >= 0" for c in guard.conditions)
        lines = [f"{pad}if ({test}) {{", *print_body(guard.body, pad + "  "), f"{pad}}}"]
        if guard.otherwise:
            lines += [f"{pad}else {{", *print_body(guard.otherwise, pad + "  "), f"{pad}}}"]
        return lines

    def spread(self, nest: LoopNest, pad: str) -> list[str]:
        """The tiles of a phase: those of rectangular loops are numbered, and divided.

        Each cluster of a phase starts with another worker, so that single tiles spread too.
        """
        match nest:
            case Block(parts):
                return [line for part in parts for line in self.spread(part, pad)]
            case Guard():
                return self.guard(nest, pad, self.spread)
            case When():
                return self.when(nest, pad, self.spread)
            case Tile(_, cluster):
                test = f"if ({self.worker_of(cluster)} == 0{self.begins}) {{"
                before = [pad + line for line in self.before_tiles()]
                return [*before, pad + test, *self.whole_tile(nest, pad + "  "), f"{pad}}}"]
            case Loop():
                return [f"{pad}{{", *self.numbered(nest, pad + "  "), f"{pad}}}"]
        raise VerifyError(f"a phase without a tile:\n{show(nest)}")

    def numbered(self, outermost: Loop, pad: str) -> list[str]:
        """A number for every tile, and what this worker does with those of its share."""
        cluster = next(n.cluster for n in walk(outermost) if isinstance(n, Tile))
        loops, nest = rectangle_of(outermost)
        loops = self.order(loops, cluster)
        lines, total = list[str](), list[str]()
        for loop in loops:
            first, end = bound_text("max", loop.lower), bound_text("min", loop.upper)
            lines.append(f"{pad}const int64_t {loop.var}_first = {first};")
            count = f"({end} - {loop.var}_first + {loop.step - 1}) / {loop.step}"
            lines.append(f"{pad}const int64_t {loop.var}_count = sirius_max_i64({count}, 0);")
            total.append(f"{loop.var}_count")
        lines.append(f"{pad}const int64_t tiles = {' * '.join(total)};")
        lines.append(f"{pad}const int64_t mine = {self.worker_of(cluster)};")
        body = []
        for k, loop in reversed(list(enumerate(loops))):
            inner = total[k + 1 :]
            number = f"tile / ({' * '.join(inner)})" if inner else "tile"
            number = f"{number} % {loop.var}_count" if k else number
            value = f"{loop.var}_first + {number} * {loop.step}"
            body.append(f"  const int64_t {loop.var} = {value};")
        body += self.inside(nest, "  ")
        return [*lines, *(pad + line for line in self.share(body, cluster))]

    def before_tiles(self) -> list[str]:
        """The lines before the tiles of a cluster."""
        return []

    def order(self, loops: list[Loop], cluster: str) -> list[Loop]:
        """The loops over the tiles of a cluster as they are numbered: tiles that follow each other
        have the same values of all but the last ones."""
        return loops

    def share(self, body: list[str], cluster: str) -> list[str]:
        """The loop over this worker's share of a cluster's tiles.

        There are `tiles`, and it is number `mine` of those who divide them.
        """
        return [
            *self.before_tiles(),
            f"const int64_t end = {self.first_of('(mine + 1)')};",
            f"for (int64_t tile = {self.first_of('mine')}; tile < end{self.begins}; ++tile) {{",
            *body,
            "}",
        ]

    def first_of(self, who: str) -> str:
        """The first tile of a worker's share."""
        return f"tiles * {who} / {self.workers}"

    def worker_of(self, cluster: str) -> str:
        """The number of this worker, counted from where a cluster of the phase starts."""
        first = self.clusters.index(cluster)
        return f"({self.worker} + {first}) % {self.workers}" if first else self.worker

    def inside(self, nest: LoopNest, pad: str) -> list[str]:
        """Loops of a phase that are not numbered, down to the tile."""
        match nest:
            case Tile():
                return self.whole_tile(nest, pad)
            case Loop() | Guard() | When():
                return self.control(nest, pad, self.inside)
            case Block(parts):
                return [line for part in parts for line in self.inside(part, pad)]
            case Wait(reason):
                return [pad + line for line in self.wait(reason)]
        raise VerifyError(f"a phase without a tile:\n{show(nest)}")

    # Leaves

    def whole_tile(self, tile: Tile, pad: str) -> list[str]:
        """The lines that a worker runs at one point of the parallel loops."""
        return self.tile(tile.body, pad)

    def tile(self, nest: LoopNest, pad: str) -> list[str]:
        """One statement after the other."""
        match nest:
            case Block(parts):
                return [line for part in parts for line in self.tile(part, pad)]
            case Loop() | Guard() | When():
                return self.control(nest, pad, self.tile)
            case Box():
                return [pad + line for line in self.call(nest)]
            case Wait(reason):
                return [pad + line for line in self.wait(reason)]
        raise VerifyError(f"a tile with what is no part of one:\n{show(nest)}")

    def call(self, box: Box) -> list[str]:
        """The call of the function of a leaf."""
        s = self.statements[box.run.statement]
        passed = _arguments(s, box)
        starts = {i.name: passed.get(f"{i.name}_lo", passed.get(i.name, i.name)) for i in s.iters}
        leaf = leaf_of(self.kernel, s, box)
        for join in leaf.joins:
            for end in ("lo", "n"):
                passed[f"{join.inner}_{end}"] = f"({passed[f'{join.outer}_{end}']}) * {join.size}"
        function = self.print_leaf(box, leaf)
        name = self.functions.setdefault(
            function.text, f"{self.program.name}_{self.variant}_leaf{len(self.functions)}"
        )
        integers = [passed.get(n, n) for n in function.integers]
        tensors = [self.base(s, t, starts) for t in function.tensors]
        staged = ["staged"] if function.shared else []
        arguments = [self.language.report, *staged, *tensors, *integers]
        return [f"{name}({', '.join(arguments)}); /* {s.name} */"]

    def base(self, s: Statement, tensor: str, starts: Mapping[str, str]) -> str:
        """C of the place of element 0 of a tensor; a private one starts where the tile does."""
        t, storage = self.program.tensor[tensor], self.kernel.storage
        index = next((i for name, i in s.accesses if name == tensor), ())
        shape, text = storage.shape(t), self.name_of(t)
        for k, size in enumerate(storage.tile(t)):
            if size is not None:
                step = " * ".join(["1", *(f"({scalar.index(e)})" for e in shape[k + 1 :])])
                at = index[k]
                assert isinstance(at, Affine)
                first = at.substitute({n: symbol(text) for n, text in starts.items()})
                text += f" - {scalar.index(first)} / {size} * {size} * {step}"
        return text


def _arguments(s: Statement, box: Box) -> dict[str, str]:
    """C of what the caller passes for the iterators: a value, or where a range begins and its
    size."""
    loops, passed = {loop.var: loop for loop in box.loops}, dict[str, str]()
    for i, value in zip(s.iters, box.run.iters, strict=True):
        if loop := loops.get(str(value)):
            low, end = bound_text("max", loop.lower), bound_text("min", loop.upper)
            passed[f"{i.name}_lo"], passed[f"{i.name}_n"] = low, f"{end} - {low}"
        else:
            passed[i.name] = scalar.index(value)
    return passed


Print = Callable[[LoopNest, str], list[str]]
