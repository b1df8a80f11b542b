# SPDX-License-Identifier: Apache-2.0
"""What the runtime uses of CuPy, for one or more devices that tests/emulator stands in for.

    fake = FakeCupy(monkeypatch, {cubin: source}, capability="80")

`import cupy` is this until the test ends. Arrays are not numpy's, as CuPy's are not: what takes
them for such fails.
"""

import collections
import sys
import threading
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np

from tests.emulator import emulator


class CUDARuntimeError(RuntimeError):
    pass


class CUDADriverError(RuntimeError):
    pass


class OutOfMemoryError(MemoryError):
    pass


class Memory:
    """What an array and its parts are in. When they are gone, the next one of its size gets it."""

    def __init__(self, pool, nbytes):
        self.free = pool[nbytes]
        try:
            self.block = self.free.pop()
        except IndexError:
            self.block = np.empty(nbytes, np.uint8)
        self.block.fill(0xFF)  # NaN until it is written

    def __del__(self):
        self.free.append(self.block)


class ndarray:  # noqa: N801
    """An array on a device."""

    def __init__(self, data, device, memory):
        self.data_, self.device, self.memory = data, device, memory

    data = property(lambda self: SimpleNamespace(ptr=self.data_.__array_interface__["data"][0]))
    dtype = property(lambda self: self.data_.dtype)
    shape = property(lambda self: self.data_.shape)
    ndim = property(lambda self: self.data_.ndim)
    size = property(lambda self: self.data_.size)
    flags = property(lambda self: self.data_.flags)
    __cuda_array_interface__ = property(lambda self: self.data_.__array_interface__)

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __getitem__(self, index):
        return ndarray(self.data_[index], self.device, self.memory)

    def reshape(self, shape):
        return ndarray(self.data_.reshape(shape), self.device, self.memory)

    def copy(self):
        result = self.device.cupy.empty(self.shape, self.dtype)
        result.set(self.data_)
        return result

    def get(self):
        return np.array(self.data_, order="C")

    def set(self, array):
        assert (array.dtype, array.shape) == (self.dtype, self.shape)
        self.data_[...] = array


class Device:
    """A device, which is the current one in a `with`."""

    def __init__(self, cupy, number):
        self.cupy, self.id, self.before = cupy, number, []
        self.compute_capability = cupy.capability
        self.attributes = {"MultiProcessorCount": cupy.multiprocessors}

    def __enter__(self):
        self.before.append(self.cupy.current)
        self.cupy.current = self.id

    def __exit__(self, *_):
        self.cupy.current = self.before.pop()


class FakeCupy(ModuleType):
    """The module. Its counters and limits may be read and set at any time."""

    def __init__(
        self, monkeypatch, sources, capability="80", multiprocessors=2, occupancy=2, devices=1
    ):
        super().__init__("cupy")
        self.sources = sources  # CUDA C++ by cubin
        self.current, self.devices, self.capability = 0, devices, capability
        self.multiprocessors, self.occupancy = multiprocessors, occupancy
        self.most_blocks = None  # of a cooperative launch, if not what occupancy says
        self.memory = 1 << 40  # bytes of an array that is too large
        self.uploads, self.loads, self.grids, self.replays = [], 0, [], 0
        self.pool, self.streams = collections.defaultdict(list), threading.local()
        self.ndarray = ndarray
        self.cuda = SimpleNamespace(
            Device=self._device,
            Stream=lambda non_blocking: Stream(self, non_blocking),
            runtime=SimpleNamespace(getDeviceCount=self._count, CUDARuntimeError=CUDARuntimeError),
            driver=SimpleNamespace(
                occupancyMaxActiveBlocksPerMultiprocessor=self._occupancy,
                CUDADriverError=CUDADriverError,
            ),
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        )
        monkeypatch.setitem(sys.modules, "cupy", self)

    def _device(self, number=None):
        return Device(self, self.current if number is None else number)

    def _count(self):
        if self.devices is None:
            raise CUDARuntimeError("cudaErrorInsufficientDriver")
        return self.devices

    def _occupancy(self, function, block, shared):
        assert function == "a function" and block > 0 and shared >= 0
        return self.occupancy

    def empty(self, shape, dtype):
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if nbytes > self.memory:
            raise OutOfMemoryError(f"Out of memory allocating {nbytes} bytes")
        memory = Memory(self.pool, nbytes)
        return ndarray(memory.block.view(dtype).reshape(shape), self._device(), memory)

    def captured(self):
        """The work that the thread's current stream is captured to, or None."""
        return getattr(self.streams, "captured", None)

    def asarray(self, array):
        if isinstance(array, ndarray):
            return array
        self.uploads.append(array.nbytes)
        result = self.empty(array.shape, array.dtype)
        result.data_[...] = array
        return result

    def from_dlpack(self, capsule):
        assert type(capsule).__name__ == "PyCapsule"
        return self.asarray(np.from_dlpack(_Holder(capsule)))

    def RawModule(self, path, enable_cooperative_groups):  # noqa: N802
        assert self.captured() is None, "a module is loaded during a capture"
        self.loads += 1
        of = emulator.build(self.sources[Path(path).read_bytes()]), enable_cooperative_groups
        return SimpleNamespace(get_function=lambda name: Kernel(self, name, *of))


class _Holder:
    """What numpy takes a capsule from."""

    def __init__(self, capsule):
        self.capsule = capsule

    def __dlpack__(self, **_):
        return self.capsule

    def __dlpack_device__(self):
        return (1, 0)


class Stream:
    """A stream that is only captured: the default one does all work at once."""

    def __init__(self, cupy, non_blocking):
        assert non_blocking, "the default stream would wait for it"
        self.cupy, self.current = cupy, False

    def __enter__(self):
        self.current = True

    def __exit__(self, *_):
        self.current = False

    def begin_capture(self):
        assert self.current and self.cupy.captured() is None
        self.cupy.streams.captured = []

    def end_capture(self):
        work, self.cupy.streams.captured = self.cupy.captured(), None
        return Graph(self.cupy, work)


class Graph:
    """Launches and the blocks of memory they take, of which a graph keeps none."""

    def __init__(self, cupy, launches):
        self.cupy, self.launches = cupy, launches

    def launch(self):
        self.cupy.replays += 1
        free = [id(block) for blocks in self.cupy.pool.values() for block in blocks]
        for launch, blocks in self.launches:
            assert not {id(block) for block in blocks} & set(free), "memory that was given back"
            launch()


class Kernel:
    """A RawKernel."""

    def __init__(self, cupy, name, module, cooperative):
        self.cupy, self.name, self.module, self.cooperative = cupy, name, module, cooperative
        self.kernel = SimpleNamespace(ptr="a function")
        self.max_dynamic_shared_size_bytes = 48 << 10

    def __call__(self, grid, block, args, shared_mem):
        (blocks,), (threads,) = grid, block
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        most = self.cupy.most_blocks or self.cupy.multiprocessors * self.cupy.occupancy
        if self.cooperative and blocks > most:
            warnings.warn(
                f"The grid size will be reduced from {blocks} to {most}, as the specified grid "
                "size exceeds the limit.",
                stacklevel=2,
            )
            blocks = most
        given = [self._argument(a) for a in args]
        captured = self.cupy.captured()
        if captured is None:
            self._run(blocks, threads, given, shared_mem)
        else:
            memories = [a.memory.block for a in args if isinstance(a, ndarray)]
            captured.append((lambda: self._run(blocks, threads, given, shared_mem), memories))

    def _run(self, blocks, threads, args, shared_mem):
        """With memory of its own for each array, since they may be parts of each other."""
        self.cupy.grids.append(blocks)
        arrays = [isinstance(a, np.ndarray) for a in args]
        given = [a.copy() if array else a for a, array in zip(args, arrays, strict=True)]
        self.module.launch(self.name, blocks, threads, given, shared_mem, self.cooperative)
        for old, new, array in zip(args, given, arrays, strict=True):
            if array and old.flags.writeable:
                old[:] = new

    def _argument(self, value):
        """The bytes of an array, or a number."""
        if not isinstance(value, ndarray):
            assert isinstance(value, np.generic), "CuPy would guess its width"
            return value
        assert value.size, "a null pointer"
        assert value.flags.c_contiguous, "CuPy would pass a pointer and no strides"
        assert value.device.id == self.cupy.current, "memory of another device"
        return value.data_.reshape(-1).view(np.uint8)
