# SPDX-License-Identifier: Apache-2.0
"""Bundles on numpy arrays: a ctypes binding of libsirius_tf.so. No TensorFlow needed."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import json
import os
import struct
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from sirius_tf.bundle.library import library_path as library_path
from sirius_tf.bundle.library import load
from sirius_tf.bundle.library import native_directory as native_directory
from sirius_tf.bundle.stamp import Stamp
from sirius_tf.errors import Cancelled, DeadlineExceeded, InvalidArgument, SiriusError
from sirius_tf.runtime import limits
from sirius_tf.runtime.abi import BundleInfo, RegionInfo
from sirius_tf.runtime.dtypes import dtype_of
from sirius_tf.runtime.plan import Planner, TensorInfo

_ERROR_BYTES = 1024
_KINDS = {1: InvalidArgument, 7: DeadlineExceeded, 8: Cancelled}  # SIRIUS_* in host.h


@dataclass(frozen=True)
class CudaCode:
    """The code of a region for GPUs, as a bundle has it (sirius_abi.h): `cubins`, machine code and
    the most blocks of a launch by architecture; `weights` are its constants; `planner` runs on the
    CPU."""

    name: str
    kernels: tuple[str, ...]
    cooperative: bool
    source: str
    threads_per_block: int
    shared_bytes: int
    cubins: Mapping[str, tuple[bytes, int]]
    weights: bytes
    planner: Planner
    stamp: Stamp


@dataclass(frozen=True)
class CudaCounters:
    """Counters of calls on a GPU in this process: bytes copied to it (weights included) and back
    from it, how many calls there were, and how many of them replayed a graph."""

    to_device: int = 0
    from_device: int = 0
    launches: int = 0
    replays: int = 0


_Nothing = ctypes.c_char * 0  # what has an address and no least size


@functools.cache
def library() -> ctypes.CDLL:
    """Load the native library."""
    lib = load()
    lib.sirius_open.restype = ctypes.c_int32
    lib.sirius_open.argtypes = (
        ctypes.c_char_p,  # path
        ctypes.POINTER(ctypes.c_void_p),  # where the opened bundle goes
        ctypes.c_char_p,  # where a message goes
        ctypes.c_size_t,  # its capacity
    )
    lib.sirius_close.restype = None
    lib.sirius_close.argtypes = (ctypes.c_void_p,)
    lib.sirius_opened_bundle.restype = ctypes.POINTER(BundleInfo)
    lib.sirius_opened_bundle.argtypes = (ctypes.c_void_p,)
    lib.sirius_isa.restype = ctypes.c_int32
    lib.sirius_isa_of.restype = ctypes.c_int32
    lib.sirius_isa_of.argtypes = (ctypes.c_int32, ctypes.c_char_p)
    lib.sirius_default_threads.restype = ctypes.c_int32
    lib.sirius_fix_workers.restype = None
    lib.sirius_fix_workers.argtypes = (ctypes.c_int32,)
    lib.sirius_cpu_quota.restype = ctypes.c_int32
    lib.sirius_cpu_quota.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
    lib.sirius_tf_register.restype = ctypes.c_int32
    lib.sirius_cuda_counters.restype = None
    lib.sirius_cuda_hold.restype = None
    lib.sirius_cuda_hold.argtypes = (ctypes.c_int32,)
    return lib


@functools.cache
def _caller() -> Callable[..., int]:
    """Return what calls a region: it gives back the GIL by itself, and raises what Python raises
    meanwhile, signal handlers included."""
    call = ctypes.PyDLL(str(library_path())).sirius_call_from_python
    call.restype = ctypes.c_int32
    call.argtypes = (
        ctypes.c_void_p,  # bundle
        ctypes.c_void_p,  # region
        ctypes.c_void_p,  # inputs
        ctypes.c_int32,  # how many
        ctypes.py_object,  # _Frame.allocate
        ctypes.py_object,  # Limits.cancelled
        ctypes.c_int64,  # Limits.deadline
        ctypes.c_int32,  # threads
        ctypes.c_char_p,  # where a message goes
        ctypes.c_size_t,  # its capacity
    )
    return call


def _address(array: npt.NDArray[Any]) -> int:
    """The address of the data of a dense array."""
    try:  # five times as fast as array.ctypes.data, but refuses what is read-only
        return ctypes.addressof(_Nothing.from_buffer(array))  # type: ignore[arg-type]
    except (TypeError, ValueError):  # a bfloat16 array is no buffer
        return int(array.__array_interface__["data"][0])


class _Frame:
    """Memory of one call of a region; calls that run at the same time have their own."""

    def __init__(self, region: Region) -> None:
        self.outputs: dict[int, npt.NDArray[Any]] = {}  # by number, as they come
        self.error = ctypes.create_string_buffer(_ERROR_BYTES)
        self.dims = (ctypes.c_int64 * sum(region.input_ranks))()
        self.tensors = (TensorInfo * len(region.input_ranks))()
        self._region = region.name
        self._dtypes = region.output_dtypes
        first = ctypes.addressof(self.dims)
        for tensor, dtype, rank in zip(
            self.tensors, region.input_numbers, region.input_ranks, strict=True
        ):
            tensor.dtype, tensor.rank, tensor.dims = dtype, rank, first
            first += rank * ctypes.sizeof(ctypes.c_int64)

    def allocate(self, index: int, dims: int, rank: int) -> int:
        """Make an output of the shape at the address `dims`; return the address of its data."""
        shape = (ctypes.c_int64 * rank).from_address(dims)[:] if rank else ()
        try:
            array = np.empty(shape, self._dtypes[index])
        except (MemoryError, ValueError) as error:
            what = f"cannot allocate output {index} of region {self._region}"
            raise SiriusError(f"{what}: {error}") from error
        self.outputs[index] = array
        return _address(array)


class _Opened:
    """A bundle in memory, where it stays while anything refers to this."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        opened = ctypes.c_void_p()
        if library().sirius_open(os.fsencode(path), opened, error, _ERROR_BYTES) != 0:
            raise SiriusError(error.value.decode(errors="replace"))
        self.info: BundleInfo = library().sirius_opened_bundle(opened).contents
        close = weakref.finalize(self, library().sirius_close, opened)
        close.atexit = False  # other threads may still call it then


class Region:
    """One region of a bundle: its interface, and what calls it."""

    def __init__(self, opened: _Opened, info: RegionInfo) -> None:
        self._opened = opened
        self.name: str = info.name.decode()
        self.digest: str = info.digest.decode()
        self.input_ranks: tuple[int, ...] = tuple(info.in_rank[: info.n_in])
        self.input_numbers: tuple[int, ...] = tuple(info.in_dtype[: info.n_in])
        self.input_dtypes = tuple(map(dtype_of, self.input_numbers))
        self.output_ranks: tuple[int, ...] = tuple(info.out_rank[: info.n_out])
        self.output_dtypes = tuple(map(dtype_of, info.out_dtype[: info.n_out]))
        self._bundle, self._info = ctypes.addressof(opened.info), ctypes.addressof(info)
        self._cuda, self._n_params, self.messages = info.cuda, info.n_params, info.messages
        self._expected = tuple(zip(self.input_dtypes, self.input_ranks, strict=True))
        self._dims = struct.Struct(f"{sum(self.input_ranks)}q")
        self._idle: list[_Frame] = []  # as many as calls ever ran at once
        self._call = _caller()

    @functools.cached_property
    def cuda(self) -> CudaCode | None:
        """Its code for GPUs, if the bundle has some."""
        if not self._cuda:
            return None
        c, start = self._cuda.contents, self._opened.info.weights
        cubins = {
            x.arch.decode(): (ctypes.string_at(x.code, x.bytes), int(x.blocks))
            for x in c.cubins[: c.n_cubins]
        }
        return CudaCode(
            c.name.decode(),
            tuple(name.decode() for name in c.kernels[: c.n_kernels]),
            bool(c.cooperative),
            ctypes.string_at(c.source, c.source_bytes).decode(),
            c.threads_per_block,
            c.shared_bytes,
            cubins,
            ctypes.string_at(start + c.weights_offset, c.weights_bytes),
            Planner(
                c.plan,
                c.shapes or 0,
                c.geometry,
                c.n_kernels,
                c.n_slots,
                self._n_params,
                self.output_ranks,
                self._opened,
            ),
            Stamp(c.stamp[0]),
        )

    def __call__(self, inputs: Iterable[npt.ArrayLike], threads: int = 0) -> list[npt.NDArray[Any]]:
        """See Bundle.call."""
        arrays = [np.asarray(x, order="C") for x in inputs]  # ascontiguousarray has no scalars
        self._check(arrays)
        return self.run(arrays, threads)

    def run(self, arrays: Sequence[npt.NDArray[Any]], threads: int) -> list[npt.NDArray[Any]]:
        """Run on dense arrays that are known to have the right dtypes and ranks."""
        try:
            frame = self._idle.pop()
        except IndexError:
            frame = _Frame(self)
        dims: list[int] = []
        for tensor, array in zip(frame.tensors, arrays, strict=True):
            tensor.data = _address(array)
            dims += array.shape
        self._dims.pack_into(frame.dims, 0, *dims)
        limit = limits.current.get()
        code = self._call(
            self._bundle, self._info, frame.tensors, len(arrays), frame.allocate, limit.cancelled,
            limit.deadline, threads, frame.error, _ERROR_BYTES,
        )  # fmt: skip
        if code == 0:
            outputs, frame.outputs = frame.outputs, {}  # an idle frame keeps no arrays
            self._idle.append(frame)
            return [outputs[k] for k in range(len(outputs))]
        kind = _KINDS.get(code, SiriusError)
        raise kind(frame.error.value.decode(errors="replace"))

    def _check(self, arrays: list[npt.NDArray[Any]]) -> None:
        if len(arrays) != len(self._expected):
            count = len(self._expected)
            raise InvalidArgument(f"region {self.name} takes {count} inputs, got {len(arrays)}")
        for i, (array, (dtype, rank)) in enumerate(zip(arrays, self._expected, strict=True)):
            if array.dtype != dtype or array.ndim != rank:
                raise InvalidArgument(
                    f"input {i} of region {self.name} must be {dtype} of rank {rank}, "
                    f"got {array.dtype} of rank {array.ndim}"
                )


class Bundle:
    """A loaded bundle. Its code stays in the process while anybody has the bundle or one of its
    regions, so that calls are always safe."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._opened = opened = _Opened(path)
        self.path = Path(path)
        regions = (Region(opened, r) for r in opened.info.regions[: opened.info.n_regions])
        self.regions: Mapping[str, Region] = MappingProxyType({r.name: r for r in regions})

    @functools.cached_property
    def manifest(self) -> Mapping[str, Any]:
        """The notes of the compiler on the bundle."""
        info = self._opened.info
        text = ctypes.string_at(info.manifest, info.manifest_bytes) if info.manifest else b"{}"
        try:
            parsed: dict[str, Any] = json.loads(text)
        except ValueError as error:
            message = f"{self.path}: its manifest cannot be read ({error}); convert the model again"
            raise SiriusError(message) from error
        return parsed

    def call(
        self, region: str, inputs: Iterable[npt.ArrayLike], threads: int = 0
    ) -> list[npt.NDArray[Any]]:
        """Run a region on at most `threads` workers (0: all that the process may use).

        Arrays are copied only if they are not dense. Raises InvalidArgument, a ValueError, if the
        inputs do not fit.
        """
        return self.regions[region](inputs, threads)


def default_threads() -> int:
    """The number of workers that a call of this thread takes at most unless told otherwise."""
    return int(library().sirius_default_threads())


def isa() -> int:
    """0 for x86-64-v3, 1 for v4, -1 if this CPU has neither."""
    return int(library().sirius_isa())


def cuda_counters() -> CudaCounters:
    """Read the counters of this process."""
    values = (ctypes.c_int64 * len(dataclasses.fields(CudaCounters)))()
    library().sirius_cuda_counters(values)
    return CudaCounters(*values)


@contextlib.contextmanager
def exactly(workers: int) -> Iterator[None]:
    """Meanwhile calls of the process have so many workers, however little work: for tests.

    A call that runs beside another one has one, as always.
    """
    library().sirius_fix_workers(workers)
    try:
        yield
    finally:
        library().sirius_fix_workers(0)


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
    """Meanwhile the CPU runs all regions of the process, those with code for GPUs too."""
    library().sirius_cuda_hold(1)
    try:
        yield
    finally:
        library().sirius_cuda_hold(-1)
