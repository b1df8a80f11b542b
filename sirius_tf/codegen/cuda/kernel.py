# SPDX-License-Identifier: Apache-2.0
"""LoopNest -> CUDA kernels (native/sirius_cuda.cuh): a persistent one, or one for each phase.

A worker is a block: all blocks run the phases of the region together. Between phases the blocks of
a persistent kernel wait for each other; else the next kernel begins. In a tile the threads of a
block run one statement after the other, together; they wait for each other where one touches what
another has touched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sirius_tf.codegen.cuda import slices, words
from sirius_tf.codegen.cuda.geometry import print_geometry
from sirius_tf.codegen.cuda.leaf import ThreadPrinter
from sirius_tf.codegen.cuda.mma import ProductPrinter
from sirius_tf.codegen.cuda.scalar import CUDA
from sirius_tf.codegen.cuda.source import CudaKernel, Entry
from sirius_tf.codegen.cuda.staged import StagedPrinter
from sirius_tf.codegen.cuda.words import AwaitPrinter
from sirius_tf.codegen.entry import print_plan
from sirius_tf.codegen.function import Function, indented
from sirius_tf.codegen.spmd import SpmdPrinter, printable
from sirius_tf.config import Launch
from sirius_tf.ir.program import Tensor
from sirius_tf.mapping.apply import Mapped, apply
from sirius_tf.mapping.choose import choose_mapping
from sirius_tf.mapping.exchange import Exchange
from sirius_tf.mapping.gpu import GpuMapping, kept_by, staged_words, with_parts
from sirius_tf.mapping.hazards import touched_by
from sirius_tf.mapping.launch import kernels
from sirius_tf.mapping.micro import Awaits, Micro, Products, Staged, Threads
from sirius_tf.mapping.residency import Kept, Resident
from sirius_tf.nest.coalesce import Leaf
from sirius_tf.nest.nodes import (
    Block,
    Box,
    Loop,
    LoopNest,
    Phase,
    Run,
    Tile,
    pieces,
    walk,
)
from sirius_tf.nest.phases import clusters_of
from sirius_tf.nest.scheduled import Scheduled

_BARRIER = "sirius_grid_barrier(sync);"
_MOST_NAMED = 3  # tensors that a comment names
_FEW = 8  # temporaries, of which each thread can have the pointers


def print_kernel(
    scheduled: Scheduled, launch: Launch = "auto", mapping: GpuMapping | None = None
) -> CudaKernel:
    """The kernels of a scheduled program, `<program>_cuda` or `<program>_cuda_phase<k>`, by the
    mapping that is given, or is chosen for the launch."""
    mapped = apply(scheduled, mapping or choose_mapping(scheduled, launch))
    kernel = mapped.kernel
    printer = _Printer(kernel=printable(kernel), variant="cuda", mapped=mapped)
    program, machine, name = kernel.program, kernel.machine, f"{kernel.program.name}_cuda"
    nests = kernels(printer.kernel.nest, name, mapped.mapping.persistent)
    plan = print_plan(replace(kernel, program=replace(program, name=name)))
    entries = tuple(printer.entry(name, nest) for name, nest in nests.items())
    return CudaKernel(
        program,
        plan + print_geometry(printer.kernel, name, list(nests.values())),
        printer.leaves(),
        entries,
        name,
        mapped.mapping.persistent,
        printer.slots,
        machine.threads,
        mapped.mapping.resident.bytes,
        machine.workers,
        machine.precision,
    )


@dataclass(frozen=True, kw_only=True)
class _Printer(SpmdPrinter):
    language = CUDA
    worker = "block"
    workers = "blocks"
    weights = "weights"

    mapped: Mapped
    exchange: Exchange | None = None  # of the loop around
    shares_pointers: bool = False  # which threads of a block do
    kept: Kept | None = None  # what this tile finds in shared memory
    copying: bool = False  # tiles are what is kept of them

    @property
    def mapping(self) -> GpuMapping:
        """All that was decided between the loops and their text."""
        return self.mapped.mapping

    @property
    def placed(self) -> Resident:
        """The temporaries and slices in shared memory."""
        return self.mapping.resident

    @property
    def slots(self) -> int:
        """The slots of the workspace."""
        return len(set(self.kernel.storage.slots.values()))

    def leaves(self) -> str:
        """The functions that the kernels call, once these are printed."""
        texts = self.functions.items()
        return "".join(f"static __device__ void {leaf}{text}\n\n" for text, leaf in texts)

    def entry(self, name: str, nest: LoopNest) -> Entry:
        """A kernel, which runs a part of the region or all of it."""
        shares_pointers = len(self.in_memory(self.touched(nest))) > _FEW
        return replace(self, shares_pointers=shares_pointers).kernel_function(name, nest)

    def kernel_function(self, name: str, nest: LoopNest) -> Entry:
        """The kernel, by a printer that knows where its threads find pointers."""
        program = self.program
        arrays = [*program.inputs, *(o.tensor for o in program.outputs)]
        pointers = [self.parameter(program.tensor[n]) for n in arrays]
        sizes = [f"int64_t {p.name}" for p in program.params]
        others = [f"char *slot{k}" for k in range(self.slots)]
        others += ["const char *__restrict__ weights", "int64_t *decided"]
        others += ["SiriusSync *sync", "SiriusFailure *failure"]
        parameters = ", ".join([*pointers, *sizes, *others])
        written = touched_by(program, nest).written
        outputs = [f"{name} for the caller" for name in arrays if name in written]
        makes = f"// Makes {_listed([*self.results(nest), *outputs])}.\n"
        lines = [f"({parameters}) {{", "  const int64_t block = blockIdx.x, blocks = gridDim.x;"]
        lines += [f"  {line}" for line in self.pointers(nest)]
        staged = staged_words(self.kernel, nest, self.mapping)
        lines += [f"  __shared__ __align__(16) float staged[{staged}];"] if staged else []
        lines += [*self.cleared(nest, "  "), *self.node(nest, "  ")]
        lines.append("  (void)decided; (void)sync; (void)failure;")
        comment = "" if self.mapping.persistent else makes
        return Entry(name, comment, "\n".join([*lines, "}", ""]))

    def parameter(self, t: Tensor) -> str:
        """The kernel's parameter for an input, which nobody writes, or an output."""
        c_type = CUDA.types[t.dtype]
        if t.role == "input":
            return f"const {c_type} *__restrict__ T_{t.name}"
        return f"{c_type} *T_{t.name}"

    def name_of(self, t: Tensor) -> str:
        if self.kept and any(part.name == t.name for part in self.kept.parts):
            return slices.name_of(t)
        global_ = t.role == "temp" and t.name not in self.placed.temporaries
        return f"at.T_{t.name}" if self.shares_pointers and global_ else f"T_{t.name}"

    def pointers(self, nest: LoopNest) -> list[str]:
        """To constants and temporaries. Many of the latter are in shared memory, where they take no
        registers from sums."""
        tensors = self.touched(nest)
        constants = [t for t in tensors if t.role == "constant"]
        lines = [f"const {CUDA.types[t.dtype]} *T_{t.name} = {self.place(t)};" for t in constants]
        lines += slices.temporaries(self.placed, tensors)
        lines += slices.held(self.placed.kept.values())
        temps = self.in_memory(tensors)
        if not self.shares_pointers:
            return lines + [f"{CUDA.types[t.dtype]} *T_{t.name} = {self.place(t)};" for t in temps]
        fields = [f"{CUDA.types[t.dtype]} *T_{t.name};" for t in temps]
        first = [f"{self.name_of(t)} = {self.place(t)};" for t in temps]
        lines += ["struct Temporaries {", *indented(fields), "};", "__shared__ Temporaries at;"]
        lines += ["if (threadIdx.x == 0) {", *indented(first), "}"]
        return [*lines, "__syncthreads(); // pointers are made by thread 0"]

    def touched(self, nest: LoopNest) -> list[Tensor]:
        """The tensors that are accessed inside, or decide what runs."""
        touched = touched_by(self.program, nest)
        used = touched.read | touched.written | self.program.conditions
        return [t for t in self.program.tensors if t.name in used]

    def in_memory(self, tensors: list[Tensor]) -> list[Tensor]:
        """The temporaries among them that do not lie in shared memory."""
        return [t for t in tensors if t.role == "temp" and t.name not in self.placed.temporaries]

    # Loops, and what stays in shared memory

    def cleared(self, nest: LoopNest, pad: str) -> list[str]:
        """Words lose what earlier calls have left there, before any block looks at one."""
        lines = list[str]()
        for e in self.mapped.exchanges:
            tensors = self.program.tensor
            names = {x: self.name_of(tensors[self.kernel.storage.words[x].name]) for x in e.words}
            lines += words.cleared(self.kernel, e, names)
        if not lines:
            return []
        waits = isinstance(nest, Block) and isinstance(nest.parts[0], Phase)
        end = [] if waits else ["// other blocks have cleared theirs", _BARRIER]
        return [pad + line for line in ("// Words of an earlier call", *lines, *end)]

    def node(self, nest: LoopNest, pad: str) -> list[str]:
        if not isinstance(nest, Loop) or self.looped:
            return super().node(nest, pad)
        before, statements = self.keep(nest, pad), self.statements_of(nest)
        exchange = next((e for e in self.mapped.exchanges if statements & e.statements), None)
        inside = replace(self, looped=True, exchange=exchange)
        if exchange is None:
            return [*before, *self.loop(nest, pad, inside.node)]
        end = words.end_of_iteration(exchange, _BARRIER)

        def body(nest: LoopNest, pad: str) -> list[str]:
            return [*inside.node(nest, pad), *(pad + line for line in end)]

        after = [] if nest == self.last else ["// others read what blocks have made", _BARRIER]
        return [*before, *self.loop(nest, pad, body), *(pad + line for line in after)]

    def keep(self, loop: Loop, pad: str) -> list[str]:
        """Copies of what a block reads in every iteration of a loop."""
        lines = list[str]()
        for phase in (n for n in walk(loop) if isinstance(n, Phase)):
            at = replace(self, clusters=clusters_of(phase), copying=True)
            for piece in pieces(phase.body):
                cluster = next(n.cluster for n in walk(piece) if isinstance(n, Tile))
                if kept := self.placed.kept.get(cluster):
                    lines.append(slices.reason(kept))
                    lines += slices.counted(kept, at.spread(piece, ""))
        if not lines:
            return []
        if any(line.startswith("int64_t room") for line in lines):
            lines = ["{", *indented(lines), "}"]
        return [pad + line for line in (*lines, "__syncthreads(); // all threads have copied")]

    def order(self, loops: list[Loop], cluster: str) -> list[Loop]:
        """Tiles that share a slice follow each other."""
        kept = self.placed.kept.get(cluster)
        return sorted(loops, key=lambda loop: loop.var not in kept.over) if kept else loops

    # Phases

    def before_phase(self, phase: Phase) -> list[str]:
        """A comment with the statements of the phase."""
        names = dict.fromkeys(n.statement for n in walk(phase) if isinstance(n, Run))
        return [f"// Phase {phase.number}: {', '.join(names)}"]

    def barrier(self, phase: Phase) -> list[str]:
        if not self.mapping.persistent:
            return []
        if self.exchange:
            made = sorted({self.statements[n].target for n in self.statements_of(phase)})
            return [words.reason(self.exchange, made), "__syncthreads();"]
        results = _listed(self.results(phase))
        why = (
            f"blocks make {results}" if results else "memory that is read here may be written next"
        )
        return [f"// {why}", _BARRIER]

    def results(self, nest: LoopNest) -> list[str]:
        """The tensors made inside that others read, each with its readers."""
        inside = self.statements_of(nest)
        made = {self.statements[n].target for n in inside} - self.kernel.storage.private.keys()
        readers = dict[str, list[str]]()
        for s in self.program.statements:
            for name in {load.tensor for load in self.program.needs(s)} & made:
                if s.name not in inside or self.looped:
                    readers.setdefault(name, []).append(s.name)
        return [f"{name} for {', '.join(users)}" for name, users in sorted(readers.items())]

    def statements_of(self, nest: LoopNest) -> set[str]:
        """The statements that run inside."""
        return {n.statement for n in walk(nest) if isinstance(n, Run)}

    def report_trips(self, loop: Loop, number: int) -> str:
        return f"if (block == 0 && threadIdx.x == 0) decided[{number}] = {loop.var};"

    # Tiles

    def whole_tile(self, tile: Tile, pad: str) -> list[str]:
        """A tile, or the copies of what is kept of it."""
        kept = kept_by(self.kernel, tile, self.placed)
        if self.copying:
            copies = slices.copied(self.program, kept) if kept else []
            return [pad + line for line in copies]
        return self.with_kept(kept, tile, pad) if kept else self.tile(tile.body, pad)

    def with_kept(self, kept: Kept, tile: Tile, pad: str) -> list[str]:
        """A tile that finds constants in shared memory, if those of its slice are there."""
        at = replace(self, kernel=with_parts(self.kernel, kept), kept=kept)
        pointers = [pad + "  " + line for line in slices.pointers(self.program, kept)]
        lines = [*pointers, *at.tile(tile.body, pad + "  ")]
        if kept.always:
            return [f"{pad}{{", *lines, f"{pad}}}"]
        number = f"const int64_t kept = {kept.number}"
        test = f"{pad}if ({number}; {kept.there}) {{"
        return [test, *lines, f"{pad}}} else {{", *self.tile(tile.body, pad + "  "), f"{pad}}}"]

    def wait(self, reason: str) -> list[str]:
        """A barrier of the block."""
        return [] if self.copying else [f"__syncthreads(); // {reason}"]

    def print_leaf(self, box: Box, leaf: Leaf) -> Function:
        place = (leaf.statement.name, box.ranges, self.kept is not None)
        return print_leaf(self.kernel, leaf, self.mapping.micro[place])


def print_leaf(kernel: Scheduled, leaf: Leaf, how: Micro) -> Function:
    """The function of a leaf."""
    match how:
        case Threads():
            return ThreadPrinter(kernel, leaf, how).function()
        case Staged():
            return StagedPrinter(kernel, leaf, how).function()
        case Products():
            return ProductPrinter(kernel, leaf, how).function()
        case Awaits():
            return AwaitPrinter(kernel, leaf, how).function()


def _listed(results: list[str]) -> str:
    more = len(results) - _MOST_NAMED
    return "; ".join(results[:_MOST_NAMED]) + (f"; {more} more" if more > 0 else "")
