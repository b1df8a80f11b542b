# SPDX-License-Identifier: Apache-2.0
"""LoopNest -> one persistent cooperative CUDA kernel (native/sirius_cuda.cuh).

A worker is a block: all blocks run the phases of the region together, and wait for each other
between them. In a tile the threads of a block run one statement after the other, together; they
wait for each other where one touches what another has touched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sirius_tf.codegen import cuda_leaf, cuda_mma, cuda_staged
from sirius_tf.codegen.cuda_scalar import CUDA
from sirius_tf.codegen.entry import Scheduled, print_plan
from sirius_tf.codegen.function import Function, Leaf, indented
from sirius_tf.codegen.nest import Guard, Loop, LoopNest, Phase, Run, When, walk
from sirius_tf.codegen.occupancy import ARCHITECTURES
from sirius_tf.codegen.spmd import Print, SpmdPrinter
from sirius_tf.config import Precision
from sirius_tf.errors import SiriusError
from sirius_tf.ir.program import Program, Tensor
from sirius_tf.schedule.machine import BLOCKS_PER_SM, Machine, gpu
from sirius_tf.schedule.plan import Plan

HEADER = '#include "sirius_cuda.cuh"\n\n'
_BARRIER = "sirius_grid_barrier(sync);"
_MOST_NAMED = 3  # tensors that a comment names


@dataclass(frozen=True)
class CudaKernel:
    """The CUDA of a program, `source`, in which the kernel is `name`, and how it is launched.

    `blocks` keep the machine busy; it takes any number that run at the same time (a cooperative
    launch). Its arguments: a pointer for each input and each output; the parameters as plan
    computed them, int64; the workspace; the constants; an array of int64, of which element k
    receives parameter k if data decides it; a SiriusSync and a SiriusFailure, all zero at first.
    No pointer is null, be an array empty or not.
    """

    program: Program
    plan: str
    source: str
    name: str
    threads_per_block: int
    shared_bytes: int
    blocks: int
    precision: Precision = "strict"


def machine_of(arch: str, precision: Precision = "strict") -> Machine:
    """The usual GPU of an architecture ("sm_90"); SiriusError if it is not known."""
    if arch not in ARCHITECTURES:
        raise SiriusError(f"architecture {arch} is none of {', '.join(ARCHITECTURES)}")
    return gpu(ARCHITECTURES[arch].sms, precision)


def print_kernel(scheduled: Scheduled) -> CudaKernel:
    """The kernel `<name>_cuda` of a scheduled program, and its plan."""
    name = f"{scheduled.program.name}_cuda"
    source = HEADER + _Printer(scheduled).kernel_function(name)
    plan = print_plan(replace(scheduled, program=replace(scheduled.program, name=name)))
    m = scheduled.machine
    return CudaKernel(scheduled.program, plan, source, name, m.threads, 0, m.workers, m.precision)


def alone(kernel: CudaKernel) -> CudaKernel:
    """The kernel for threads that need more registers: one block on each multiprocessor."""
    threads = kernel.threads_per_block
    source = kernel.source.replace(_bounds(threads, BLOCKS_PER_SM), _bounds(threads, 1))
    return replace(kernel, source=source, blocks=kernel.blocks // BLOCKS_PER_SM)


def _bounds(threads: int, blocks: int) -> str:
    return f"__launch_bounds__({threads}, {blocks})"


@dataclass(frozen=True)
class _Touched:
    """Tensors that threads of a block have touched since they last waited for each other."""

    read: frozenset[str] = frozenset()
    written: frozenset[str] = frozenset()

    def __or__(self, other: _Touched) -> _Touched:
        return _Touched(self.read | other.read, self.written | other.written)


class _Printer(SpmdPrinter):
    language = CUDA
    worker = "block"
    workers = "blocks"
    weights = "weights"

    def __init__(self, kernel: Scheduled) -> None:
        super().__init__(kernel, "cuda")
        self.touched = _Touched()
        self.phases = 0
        self.staged = 0  # float32 elements of shared memory
        own, folded = kernel.storage.private, kernel.storage.windows
        self.reused = own.keys() | folded.keys()  # an element of these may be another one's memory

    def kernel_function(self, name: str) -> str:
        """The kernel, and the functions it calls."""
        machine, program = self.kernel.machine, self.program
        arrays = [*program.inputs, *(o.tensor for o in program.outputs)]
        pointers = [self.parameter(program.tensor[n]) for n in arrays]
        sizes = [f"int64_t {p.name}" for p in program.params]
        others = ["char *workspace", "const char *__restrict__ weights", "int64_t *decided"]
        others += ["SiriusSync *sync", "SiriusFailure *failure"]
        parameters = ", ".join([*pointers, *sizes, *others])
        bounds = _bounds(machine.threads, BLOCKS_PER_SM)
        lines = [f'extern "C" __global__ void {bounds} {name}({parameters}) {{']
        lines.append("  const int64_t block = blockIdx.x, blocks = gridDim.x;")
        lines += [f"  {line}" for line in self.pointers()]
        body = self.node(self.kernel.nest, "  ")
        lines += [f"  __shared__ __align__(16) float staged[{self.staged}];"] if self.staged else []
        lines += body
        if lines[-1] == f"  {_BARRIER}":
            del lines[-2:]  # the launch ends when all blocks have
        lines.append("  (void)workspace; (void)decided; (void)sync; (void)failure;")
        leaves = [
            f"static __device__ void {leaf}{text}\n\n" for text, leaf in self.functions.items()
        ]
        return "".join(leaves) + "\n".join([*lines, "}", ""])

    def parameter(self, t: Tensor) -> str:
        """The kernel's parameter for an input, which nobody writes, or an output."""
        c_type = CUDA.types[t.dtype]
        if t.role == "input":
            return f"const {c_type} *__restrict__ T_{t.name}"
        return f"{c_type} *T_{t.name}"

    def name_of(self, t: Tensor) -> str:
        return f"at.T_{t.name}" if t.role == "temp" else f"T_{t.name}"

    def pointers(self) -> list[str]:
        """Those of temporaries are in shared memory, where they take no registers from sums."""
        tensors = self.program.tensors
        constants = [t for t in tensors if t.role == "constant"]
        lines = [f"const {CUDA.types[t.dtype]} *T_{t.name} = {self.place(t)};" for t in constants]
        temps = [t for t in tensors if t.role == "temp"]
        if not temps:
            return lines
        fields = [f"{CUDA.types[t.dtype]} *T_{t.name};" for t in temps]
        first = [*self.slots(), *(f"{self.name_of(t)} = {self.place(t)};" for t in temps)]
        lines += ["struct Temporaries {", *indented(fields), "};", "__shared__ Temporaries at;"]
        lines += ["if (threadIdx.x == 0) {", *indented(first), "}"]
        return [*lines, "__syncthreads(); // pointers are made by thread 0"]

    # Phases

    def before_phase(self, phase: Phase) -> list[str]:
        """What is computed."""
        self.phases, self.touched = self.phases + 1, _Touched()
        names = dict.fromkeys(n.statement for n in walk(phase) if isinstance(n, Run))
        return [f"// Phase {self.phases}: {', '.join(names)}"]

    def barrier(self, phase: Phase) -> list[str]:
        inside = {n.statement for n in walk(phase) if isinstance(n, Run)}
        made = {self.statements[n].target for n in inside} - self.kernel.storage.private.keys()
        readers = dict[str, list[str]]()
        for s in self.program.statements:
            for name in {load.tensor for load in self.program.needs(s)} & made:
                if s.name not in inside or self.loops:
                    readers.setdefault(name, []).append(s.name)
        reasons = [f"{name} for {', '.join(users)}" for name, users in sorted(readers.items())]
        more = len(reasons) - _MOST_NAMED
        text = "; ".join(reasons[:_MOST_NAMED]) + (f"; {more} more" if more > 0 else "")
        why = f"blocks make {text}" if text else "memory that is read here may be written next"
        return [f"// {why}", _BARRIER]

    def report_trips(self, loop: Loop, number: int) -> str:
        return f"if (block == 0 && threadIdx.x == 0) decided[{number}] = {loop.var};"

    # Tiles

    def whole_tile(self, body: LoopNest, pad: str) -> list[str]:
        """The tile before it may still be using what a block has for one tile at a time, and
        another piece of its cluster may have come before."""
        before, used = self.touched, self.tensors_of(body)
        own = frozenset(self.kernel.storage.private.keys())
        self.touched |= _Touched(used.read & own, used.written & own)
        lines = self.tile(body, pad)
        self.touched = before | used  # a block may have no tile
        return lines

    def control(self, nest: Loop | Guard | When, pad: str, print_body: Print) -> list[str]:
        """The body may follow itself, or what was before; nothing is known to be over after it."""
        conditions = {g.condition.tensor for g in nest.guards} if isinstance(nest, When) else set()
        wait = [pad + line for line in self.wait_for(frozenset(conditions), frozenset())]
        around = self.touched | self.tensors_of(nest)

        def body(part: LoopNest, pad: str) -> list[str]:
            self.touched = around
            return print_body(part, pad)

        lines = super().control(nest, pad, body)
        self.touched = around
        return [*wait, *lines]

    def call(self, run: Run, chain: list[Loop]) -> list[str]:
        tensors = self.tensors_of(run)
        return [*self.wait_for(tensors.read, tensors.written), *super().call(run, chain)]

    def tensors_of(self, nest: LoopNest) -> _Touched:
        """What the statements inside read and write."""
        found = [self.statements[n.statement] for n in walk(nest) if isinstance(n, Run)]
        read = frozenset(load.tensor for s in found for load in s.loads)
        return _Touched(read, frozenset(s.target for s in found))

    def wait_for(self, read: frozenset[str], written: frozenset[str]) -> list[str]:
        """A barrier of the block, if what is read or written now was touched by its threads."""
        made = read & self.touched.written
        again = written & self.reused & (self.touched.read | self.touched.written)
        now = _Touched(read, written)
        if not made and not again:
            self.touched |= now
            return []
        self.touched = now
        reasons = [f"other threads may have made {', '.join(sorted(made))}"] if made else []
        reasons += [f"others may still be using {', '.join(sorted(again))}"] if again else []
        return [f"__syncthreads(); // {'; '.join(reasons)}"]

    def print_leaf(self, leaf: Leaf, plan: Plan) -> Function:
        storage, machine = self.kernel.storage, self.kernel.machine
        arguments = (self.program, leaf, plan, storage, machine)
        function = (
            cuda_mma.print_leaf(*arguments)
            or cuda_staged.print_leaf(*arguments)
            or cuda_leaf.print_leaf(*arguments)
        )
        self.staged = max(self.staged, function.shared)
        return function
