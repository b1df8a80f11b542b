# SPDX-License-Identifier: Apache-2.0
"""What the runtime uses of CuPy, for one or more devices that tests/emulator stands in for.

    fake = FakeCupy(monkeypatch, {cubin: source}, capability="80")

`import cupy` is this until the test ends. Arrays are not numpy's, as CuPy's are not: what takes
them for such fails.
"""

import sys
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


class ndarray:  # noqa: N801
    """An array on a device."""

    def __init__(self, data, device):
        self.data_, self.device = data, device

    dtype = property(lambda self: self.data_.dtype)
    shape = property(lambda self: self.data_.shape)
    ndim = property(lambda self: self.data_.ndim)
    size = property(lambda self: self.data_.size)
    flags = property(lambda self: self.data_.flags)
    __cuda_array_interface__ = property(lambda self: self.data_.__array_interface__)

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __getitem__(self, index):
        return ndarray(self.data_[index], self.device)

    def reshape(self, shape):
        return ndarray(self.data_.reshape(shape), self.device)

    def copy(self):
        return ndarray(self.data_.copy(), self.device)

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
        self.uploads, self.loads, self.grids = [], 0, []
        self.ndarray = ndarray
        self.cuda = SimpleNamespace(
            Device=self._device,
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
        array = np.empty(shape, dtype)
        if array.nbytes > self.memory:
            raise OutOfMemoryError(f"Out of memory allocating {array.nbytes} bytes")
        array.reshape(-1).view(np.uint8).fill(0xFF)  # NaN until it is written
        return ndarray(array, self._device())

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
        assert enable_cooperative_groups
        self.loads += 1
        module = emulator.build(self.sources[Path(path).read_bytes()])
        return SimpleNamespace(get_function=lambda name: Kernel(self, module, name))


class _Holder:
    """What numpy takes a capsule from."""

    def __init__(self, capsule):
        self.capsule = capsule

    def __dlpack__(self, **_):
        return self.capsule

    def __dlpack_device__(self):
        return (1, 0)


class Kernel:
    """A RawKernel."""

    def __init__(self, cupy, module, name):
        self.cupy, self.module, self.name = cupy, module, name
        self.kernel = SimpleNamespace(ptr="a function")

    def __call__(self, grid, block, args, shared_mem):
        (blocks,), (threads,) = grid, block
        most = self.cupy.most_blocks or self.cupy.multiprocessors * self.cupy.occupancy
        if blocks > most:
            warnings.warn(
                f"The grid size will be reduced from {blocks} to {most}, as the specified grid "
                "size exceeds the limit.",
                stacklevel=2,
            )
            blocks = most
        self.cupy.grids.append(blocks)
        given = [self._argument(a) for a in args]
        self.module.launch(self.name, blocks, threads, given, shared_mem, cooperative=True)
        for array, result in zip(args, given, strict=True):
            if isinstance(array, ndarray) and array.data_.flags.writeable:
                array.data_.reshape(-1).view(np.uint8)[:] = result

    def _argument(self, value):
        """The bytes of an array in memory of its own: arrays may be parts of each other."""
        if not isinstance(value, ndarray):
            assert isinstance(value, np.generic), "CuPy would guess its width"
            return value
        assert value.size, "a null pointer"
        assert value.flags.c_contiguous, "CuPy would pass a pointer and no strides"
        assert value.device.id == self.cupy.current, "memory of another device"
        return value.get().reshape(-1).view(np.uint8)
