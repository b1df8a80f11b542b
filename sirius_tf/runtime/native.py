# SPDX-License-Identifier: Apache-2.0
"""Bundles on numpy arrays: a ctypes binding of libsirius_tf.so. No TensorFlow needed."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from sirius_tf.bundle import cc
from sirius_tf.errors import InvalidArgument, SiriusError

MAX_RANK = 8
_ERROR_BYTES = 512
_INVALID = 1
_SOURCES = ("team.c", "host.c", "tf_op.c")
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-lpthread", "-ldl", "-Wl,-z,nodelete")

#: numpy's dtypes by TensorFlow's DataType number.
DTYPES: Mapping[int, np.dtype[np.generic]] = MappingProxyType(
    {
        1: np.dtype(np.float32),
        2: np.dtype(np.float64),
        3: np.dtype(np.int32),
        4: np.dtype(np.uint8),
        5: np.dtype(np.int16),
        6: np.dtype(np.int8),
        9: np.dtype(np.int64),
        10: np.dtype(np.bool_),
        17: np.dtype(np.uint16),
        19: np.dtype(np.float16),
        22: np.dtype(np.uint32),
        23: np.dtype(np.uint64),
    }
)
_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
        ("rank", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
    )


class _RegionInfo(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("n_in", ctypes.c_int32),
        ("n_out", ctypes.c_int32),
        ("n_params", ctypes.c_int32),
        ("in_rank", ctypes.POINTER(ctypes.c_int32)),
        ("in_dtype", ctypes.POINTER(ctypes.c_int32)),
        ("out_rank", ctypes.POINTER(ctypes.c_int32)),
        ("out_dtype", ctypes.POINTER(ctypes.c_int32)),
        ("plan", ctypes.c_void_p),
        ("run", ctypes.c_void_p * 2),
        ("weights_offset", ctypes.c_int64),
    )


class _BundleInfo(ctypes.Structure):
    _fields_ = (
        ("abi_version", ctypes.c_int32),
        ("n_regions", ctypes.c_int32),
        ("regions", ctypes.POINTER(_RegionInfo)),
        ("manifest", ctypes.c_void_p),
        ("manifest_bytes", ctypes.c_int64),
        ("weights", ctypes.c_void_p),
        ("weights_bytes", ctypes.c_int64),
        ("variables_hash", ctypes.c_char_p),
    )


_Allocate = ctypes.CFUNCTYPE(
    ctypes.c_int32,
    ctypes.c_void_p,
    ctypes.c_int32,
    ctypes.c_int32,
    ctypes.POINTER(ctypes.c_int64),
    ctypes.c_int32,
    ctypes.POINTER(ctypes.c_void_p),
)


def build_library(output: Path) -> None:
    """Compile the native library to the file `output`."""
    sources = [native_directory() / name for name in _SOURCES]
    cc.compile_shared(sources, output, _FLAGS, os.environ.get("SIRIUS_CC"))


def native_directory() -> Path:
    """Return the folder of the C sources and headers."""
    return Path(__file__).resolve().parent.parent / "native"


@functools.cache
def library_path() -> Path:
    """Find libsirius_tf.so: the packaged one, or else one that is built once into the cache."""
    packaged = native_directory() / "libsirius_tf.so"
    if packaged.exists():
        return packaged
    digest = hashlib.sha256(repr(_FLAGS).encode())
    for source in sorted(native_directory().glob("*.[ch]")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = root / "sirius_tf" / digest.hexdigest()[:16] / "libsirius_tf.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        build_library(path)
    return path


@functools.cache
def library() -> ctypes.CDLL:
    """Load the native library."""
    lib = ctypes.CDLL(str(library_path()))
    lib.sirius_open.restype = ctypes.POINTER(_BundleInfo)
    lib.sirius_open.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
    lib.sirius_isa.restype = ctypes.c_int32
    lib.sirius_default_threads.restype = ctypes.c_int32
    lib.sirius_tf_register.restype = ctypes.c_int32
    lib.sirius_call.restype = ctypes.c_int32
    lib.sirius_call.argtypes = (
        ctypes.POINTER(_BundleInfo),
        ctypes.POINTER(_RegionInfo),
        ctypes.POINTER(_Tensor),
        ctypes.c_int32,
        _Allocate,
        ctypes.c_void_p,
        ctypes.c_int32,
        ctypes.c_char_p,
        ctypes.c_size_t,
    )
    return lib


class _Outputs(threading.local):
    """What the call of this thread has allocated."""

    arrays: list[npt.NDArray[np.generic]]
    raised: BaseException | None = None


_outputs = _Outputs()


def _allocate(
    context: int,
    index: int,
    dtype: int,
    dims: ctypes._Pointer[ctypes.c_int64],
    rank: int,
    data: ctypes._Pointer[ctypes.c_void_p],
) -> int:
    try:
        array = np.empty(tuple(dims[:rank]), DTYPES[dtype])
    except (KeyError, MemoryError, ValueError) as error:  # cannot travel through C
        _outputs.raised = error
        return 1
    _outputs.arrays.append(array)
    data[0] = array.ctypes.data
    return 0


#: Kept for good: C holds no reference to it.
_allocate_callback = _Allocate(_allocate)


class Region:
    """One region of a bundle: its interface."""

    def __init__(self, info: _RegionInfo) -> None:
        self.info = info
        self.name: str = info.name.decode()
        self.input_ranks: tuple[int, ...] = tuple(info.in_rank[: info.n_in])
        self.input_dtypes = tuple(DTYPES[n] for n in info.in_dtype[: info.n_in])
        self.output_ranks: tuple[int, ...] = tuple(info.out_rank[: info.n_out])
        self.output_dtypes = tuple(DTYPES[n] for n in info.out_dtype[: info.n_out])


class Bundle:
    """A loaded bundle. Its code stays in the process for good, so calls are always safe."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        self._info = library().sirius_open(os.fsencode(path), error, _ERROR_BYTES)
        if not self._info:
            raise SiriusError(error.value.decode(errors="replace"))
        info = self._info.contents
        self.path = Path(path)
        self.regions: Mapping[str, Region] = MappingProxyType(
            {r.name: r for r in map(Region, info.regions[: info.n_regions])}
        )

    @functools.cached_property
    def manifest(self) -> Mapping[str, object]:
        """What the compiler noted about the bundle."""
        info = self._info.contents
        text = ctypes.string_at(info.manifest, info.manifest_bytes) if info.manifest else b"{}"
        parsed: dict[str, object] = json.loads(text)
        return parsed

    def call(
        self, region: str, inputs: Sequence[npt.ArrayLike], threads: int = 0
    ) -> list[npt.NDArray[np.generic]]:
        """Run a region on at most `threads` workers (0: all that the process may use).

        Arrays are copied only if they are not dense. Raises InvalidArgument, a ValueError, if the
        inputs do not fit.
        """
        info = self.regions[region].info
        # ascontiguousarray would turn a scalar into a vector
        arrays = [np.asarray(x, order="C") for x in inputs]
        tensors = (_Tensor * len(arrays))()
        for i, array in enumerate(arrays):
            number = _NUMBERS.get(array.dtype)
            if number is None:
                raise InvalidArgument(f"input {i} has dtype {array.dtype}, which is not supported")
            tensors[i] = _Tensor(
                array.ctypes.data, array.ctypes.shape_as(ctypes.c_int64), array.ndim, number
            )
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        _outputs.arrays, _outputs.raised = [], None
        code = library().sirius_call(
            self._info,
            info,
            tensors,
            len(arrays),
            _allocate_callback,
            None,
            threads,
            error,
            _ERROR_BYTES,
        )
        results, _outputs.arrays = _outputs.arrays, []
        if code == 0:
            return results
        message = error.value.decode(errors="replace")
        kind = InvalidArgument if code == _INVALID else SiriusError
        raise kind(message) from _outputs.raised


def default_threads() -> int:
    """How many workers a call takes at most unless told otherwise."""
    return int(library().sirius_default_threads())


def isa() -> int:
    """0 for x86-64-v3, 1 for v4, -1 if this CPU has neither."""
    return int(library().sirius_isa())
