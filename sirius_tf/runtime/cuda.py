# SPDX-License-Identifier: Apache-2.0
"""Regions on CuPy arrays: their CUDA code, launched on CuPy's current stream.

CuPy's reference: https://docs.cupy.dev/en/stable/reference/ (RawModule, RawKernel, Stream, Graph).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import itertools
import math
import re
import tempfile
import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sirius_tf.bundle.nvrtc import compile_cubin
from sirius_tf.bundle.stamp import Stamp
from sirius_tf.errors import InvalidArgument, SiriusError
from sirius_tf.runtime.native import CudaCode, CudaCounters, Region
from sirius_tf.runtime.plan import Planned, message

#: Messages by number: SiriusFormat of sirius_cuda.cuh.
FORMATS = ("index %lld is not in [0, %lld)", "integer division by zero")
#: SiriusSync and SiriusFailure of sirius_cuda.cuh.
SYNC = np.dtype([("arrived", np.uint32), ("generation", np.uint32)])
FAILURE = np.dtype([("failed", np.int32), ("format", np.int32), ("args", np.int64, 2)])
_PLANS = 64  # that a region remembers
_LAUNCHES = 16  # likewise a frame, of regions that a graph runs
_ON_GPU = 2  # kDLCUDA (dlpack.h)

_counts, _counting = dataclasses.asdict(CudaCounters()), threading.Lock()


def counters() -> CudaCounters:
    """Counters of calls on CuPy arrays in this process; `native.cuda_counters` are those of other
    calls.

    Of bytes, what the runtime copies: weights, tables, arrays of numpy, and a call's own buffer.
    """
    return CudaCounters(**_counts)


def _count(counter: str, n: int = 1) -> None:
    with _counting:
        _counts[counter] += n


class Cuda:
    """The GPU that is CuPy's current device now; SiriusError if there is none."""

    def __init__(self) -> None:
        self.cupy = _import_cupy()
        # what CuPy warns of is a launch of fewer blocks, which leaves results unwritten
        warnings.filterwarnings("error", message="The grid size will be reduced")
        try:
            count = self.cupy.cuda.runtime.getDeviceCount()
        except self.cupy.cuda.runtime.CUDARuntimeError as error:
            raise SiriusError(f"device='cuda' needs a GPU and its driver: {error}") from None
        if not count:
            raise SiriusError("device='cuda' needs a GPU, and the driver knows of none")
        self.device = self.cupy.cuda.Device()

    def array(self, value: Any) -> Any:
        """A dense CuPy array; strings and objects, which no region takes, stay in numpy's."""
        with self.errors("copy of an array"):
            return self._array(value)

    def _array(self, value: Any) -> Any:
        if hasattr(value, "__cuda_array_interface__"):
            array = self.cupy.asarray(value)
        elif getattr(value, "__dlpack_device__", lambda: (None,))()[0] == _ON_GPU:
            # a capsule: TensorFlow refuses the stream that CuPy asks for if it is given the tensor
            array = self.cupy.from_dlpack(value.__dlpack__())
        else:
            host = np.asarray(value)
            return host if host.dtype.kind in "OSU" else self.upload(host)
        return array if array.flags.c_contiguous else array.copy()

    def upload(self, value: npt.NDArray[Any]) -> Any:
        """A copy on the GPU."""
        with self.errors(f"upload of {value.nbytes} bytes"):
            _count("to_device", value.nbytes)
            return self.cupy.asarray(np.asarray(value, order="C"))

    def bind(
        self, region: Region, plan_reads: Sequence[int] | None
    ) -> Callable[[Sequence[Any]], list[Any]]:
        """The region as a function of arrays; `plan_reads` are numbers of inputs whose elements
        plan reads."""
        if region.cuda is None or plan_reads is None:
            raise SiriusError(
                f"region {region.name} has no code for GPUs: convert the model with "
                "Options(target='cuda')"
            )
        if region.cuda.stamp is Stamp.OFF:
            warnings.warn(
                f"region {region.name} runs on the CPU: a check on a GPU found its CUDA code wrong "
                "or slower",
                RuntimeWarning,
                stacklevel=2,
            )
            return functools.partial(self._on_cpu, region)
        return CudaRegion(self, region, region.cuda, frozenset(plan_reads))

    def _on_cpu(self, region: Region, inputs: Sequence[Any]) -> list[Any]:
        """Run a region on the CPU, with arrays of the GPU."""
        with self.errors(f"region {region.name}"):
            given = [np.asarray(_fetched(x), order="C") for x in inputs]
        return [self.upload(result) for result in region.run(given, threads=0)]

    @contextlib.contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Make the GPU current; errors of CUDA inside are SiriusErrors that say `what` failed."""
        cuda = self.cupy.cuda
        try:
            with cuda.Device(self.device.id):  # one of its own: it remembers what was current
                yield
        except cuda.memory.OutOfMemoryError as error:
            raise SiriusError(f"{what}: the GPU is out of memory: {error}") from error
        except (
            cuda.driver.CUDADriverError,
            cuda.runtime.CUDARuntimeError,
            UserWarning,  # see above
        ) as error:
            raise SiriusError(f"{what}: {error}") from error


class _Graphs:
    """Launches by their arguments: the second one of a kind is captured, later ones replay it.

    Not the first: its kernels may have to be loaded, which must not be while a stream is captured,
    and arguments may never come again.
    """

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._known: dict[Hashable, Any] = {}  # the least recent first; None is not captured yet

    def launch(self, arguments: Hashable, enqueue: Callable[[], None]) -> None:
        """Do on the current stream what `enqueue` does on it, which follows from `arguments`."""
        graph = None
        if arguments in self._known:
            graph = self._known.pop(arguments) or self._capture(enqueue)
            graph.launch()
            _count("replays")
        else:
            enqueue()
        self._known[arguments] = graph
        if len(self._known) > _LAUNCHES:
            del self._known[next(iter(self._known))]

    def _capture(self, enqueue: Callable[[], None]) -> Any:
        """A graph, which any stream runs; the current one may be one that records none."""
        stream = self._cupy.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            try:
                enqueue()
            finally:
                graph = stream.end_capture()
        return graph


class _Frame:
    """Memory of one call on the device besides its arrays; calls at the same time have their own.

    A call ends when its launch has, so that the next one may be on another stream.
    """

    def __init__(self, cupy: Any, n_params: int) -> None:
        state = np.dtype([("sync", SYNC), ("failure", FAILURE), ("params", np.int64, n_params)])
        self.host = np.zeros(1, state)
        self.device = cupy.empty(state.itemsize, np.uint8)
        first, second = SYNC.itemsize, SYNC.itemsize + FAILURE.itemsize
        self.parts = self.device[:first], self.device[first:second], self.device[second:]
        self.graphs = _Graphs(cupy)
        self._cupy = cupy
        self._planned: Planned | None = None  # the last one, for which the slots are
        self.workspace, self.slots = cupy.empty(1, np.uint8), list[Any]()

    def reset(self, planned: Planned) -> None:
        """Before a launch: slots, and the parameters, of which it overwrites those that data
        decides."""
        if planned is not self._planned:
            ends = list(itertools.accumulate(planned.slots, initial=0))
            room = ends[-1] + 1  # an empty slot is a place, too
            if self.workspace.size < room:
                self.workspace = self._cupy.empty(room, np.uint8)
            pairs = itertools.pairwise(ends)
            self.slots = [self.workspace[first : max(end, first + 1)] for first, end in pairs]
            self._planned = planned
        self.host[:] = np.zeros((), self.host.dtype)
        self.host["params"] = planned.params
        self.device.set(self.host.view(np.uint8))
        _count("to_device", self.host.nbytes)

    def read(self) -> None:
        """After a launch, for which it waits."""
        self.host = _fetched(self.device).view(self.host.dtype)


class CudaRegion:
    """A region as a function of dense CuPy arrays. It may be called from several threads."""

    def __init__(
        self, cuda: Cuda, region: Region, code: CudaCode, plan_reads: frozenset[int]
    ) -> None:
        self._cuda, self._region, self._code, self._plan_reads = cuda, region, code, plan_reads
        self._planned = functools.lru_cache(_PLANS)(self._plan)
        self._idle: list[_Frame] = []  # as many as calls ever ran at once
        with cuda.errors(f"region {region.name}"):
            self._kernels, self._blocks = self._load()
            self._weights = cuda.upload(np.frombuffer(code.weights or bytes(1), np.uint8))

    def _load(self) -> tuple[list[Any], int]:
        """The kernels on the device, and the most blocks of a launch, as the bundle has them for
        its usual GPU (Compiled.blocks)."""
        cupy, device, code = self._cuda.cupy, self._cuda.device, self._code
        cubin, blocks = _machine_code(code, device.compute_capability)
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:  # which is how CuPy loads one
            file.write(cubin)
            file.flush()
            module = cupy.RawModule(path=file.name, enable_cooperative_groups=code.cooperative)
            kernels = [module.get_function(name) for name in code.kernels]
        occupancy = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor
        threads, shared = code.threads_per_block, code.shared_bytes
        for kernel in kernels:
            kernel.max_dynamic_shared_size_bytes = shared
        each = [occupancy(kernel.kernel.ptr, threads, shared) for kernel in kernels]
        if not all(each):
            raise SiriusError(
                f"a multiprocessor of the GPU has no room for a block of {code.name}: run it on "
                "the CPU"
            )
        most = min(each) if code.cooperative else max(each)
        return kernels, min(blocks, most * device.attributes["MultiProcessorCount"])

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """The outputs for arrays that are known to have the right dtypes and ranks.

        On the current stream, and complete on return. InvalidArgument if the inputs do not fit.
        """
        with self._cuda.errors(f"region {self._region.name}"):
            return self._run(inputs)

    def _run(self, inputs: Sequence[Any]) -> list[Any]:
        cupy, device, planner = self._cuda.cupy, self._cuda.device, self._code.planner
        for number, array in enumerate(inputs):
            if array.device.id != device.id:
                raise InvalidArgument(
                    f"input {number} of region {self._region.name} is on device "
                    f"{array.device.id}, and the model on {device.id}: copy it there"
                )
        planned = self._planned(
            tuple(
                (x.shape, _fetched(x).tobytes() if number in self._plan_reads else None)
                for number, x in enumerate(inputs)
            )
        )
        flat = [
            cupy.empty(max(math.prod(shape), 1), dtype)
            for shape, dtype in zip(planned.shapes, self._region.output_dtypes, strict=True)
        ]
        try:
            frame = self._idle.pop()
        except IndexError:
            frame = _Frame(cupy, planner.n_params)
        frame.reset(planned)
        self._launch(inputs, flat, frame, planned)
        frame.read()
        failure, params = frame.host["failure"][0], frame.host["params"][0].copy()
        self._idle.append(frame)
        if failure["failed"]:
            number = int(failure["format"]) - len(FORMATS)
            if number >= 0:
                raise InvalidArgument(self._region.messages[number].decode(errors="replace"))
            raise InvalidArgument(message(FORMATS[failure["format"]], failure["args"].tolist()))
        shapes = planner.late_shapes(params) if planner.shapes else planned.shapes
        return [
            _shaped(a, bound, s) for a, bound, s in zip(flat, planned.shapes, shapes, strict=True)
        ]

    def _launch(
        self, inputs: Sequence[Any], outputs: Sequence[Any], frame: _Frame, planned: Planned
    ) -> None:
        """Queue the kernels, whose arguments CudaKernel lists (codegen/cuda/kernel.py)."""
        sync, failure, decided = frame.parts
        given = [x if x.size else frame.workspace for x in inputs]  # that of none may be null
        decided = decided if decided.size else frame.workspace
        arrays = [*given, *outputs], [*frame.slots, self._weights, decided, sync, failure]
        arguments = (*arrays[0], *planned.params, *arrays[1])

        def enqueue() -> None:
            for kernel, blocks in zip(self._kernels, planned.grids, strict=True):
                threads, shared = self._code.threads_per_block, self._code.shared_bytes
                kernel((blocks,), (threads,), arguments, shared_mem=shared)

        _count("launches")
        if self._code.cooperative:
            enqueue()
            return
        pointers = tuple(x.data.ptr for part in arrays for x in part)
        frame.graphs.launch((pointers, planned.params.tobytes(), planned.grids), enqueue)

    def _plan(self, inputs: tuple[tuple[tuple[int, ...], bytes | None], ...]) -> Planned:
        dtypes = self._region.input_dtypes
        given = [
            (shape, None if data is None else np.frombuffer(data, dtype))
            for (shape, data), dtype in zip(inputs, dtypes, strict=True)
        ]
        planned = self._code.planner(given, self._blocks)
        for number, shape in enumerate(planned.shapes):
            if min(shape, default=0) < 0:
                raise InvalidArgument(
                    f"output {number} of region {self._region.name} has a negative size"
                )
        return planned


def _import_cupy() -> Any:
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        raise SiriusError(
            f"device='cuda' needs CuPy: pip install 'sirius_tf[cuda]' ({error})"
        ) from error


def _fetched(array: Any) -> npt.NDArray[Any]:
    """A copy on the CPU."""
    copy: npt.NDArray[Any] = array.get()
    _count("from_device", copy.nbytes)
    return copy


def _machine_code(code: CudaCode, capability: str) -> tuple[bytes, int]:
    """An ELF image for a device of compute capability "90", and the blocks it was made for.

    The bundle's, for the same architecture or an earlier one of the same major version (CUDA C++
    Programming Guide, Binary Compatibility), or else that of its source.
    """
    arch = f"sm_{capability}"
    served = [name for name in code.cubins if _serves(name, arch)]
    if served:
        return code.cubins[max(served, key=lambda name: (name == arch, name))]
    blocks = max(blocks for _, blocks in code.cubins.values())
    try:
        return compile_cubin(code.source, arch).data, blocks
    except SiriusError as error:
        raise SiriusError(
            f"{code.name} has machine code for {', '.join(code.cubins)}, which {arch} does not "
            f"run, and cannot be compiled for it: {error}"
        ) from error


def _serves(cubin: str, arch: str) -> bool:
    """Whether sm_80 runs on sm_86, say; code for sm_90a on nothing but sm_90."""
    made, wanted = (re.fullmatch(r"sm_(\d+)(\d)", name) for name in (cubin, arch))
    if made is None or wanted is None:
        return cubin.removesuffix("a") == arch
    return made[1] == wanted[1] and made[2] <= wanted[2]


def _shaped(flat: Any, bound: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    """An output in its shape; it gives back what memory its bound was too much."""
    size = math.prod(shape)
    kept = flat[:size] if shape == bound else flat[:size].copy()
    return kept.reshape(shape)
