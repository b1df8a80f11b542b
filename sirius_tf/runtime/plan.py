# SPDX-License-Identifier: Apache-2.0
"""Plans of calls, which the host computes before kernels are launched: `plan` of a region
(sirius_abi.h)."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sirius_tf.errors import InvalidArgument, SiriusError
from sirius_tf.ir.program import MAX_RANK


class TensorInfo(ctypes.Structure):
    """SiriusTensor (sirius_abi.h)."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dims", ctypes.c_void_p),
        ("rank", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
    )


class _Error(ctypes.Structure):
    _fields_ = (("format", ctypes.c_char_p), ("args", ctypes.c_int64 * 4))


_Plan = ctypes.CFUNCTYPE(
    ctypes.c_int32,
    ctypes.c_void_p,  # inputs
    ctypes.c_int32,  # workers
    ctypes.c_void_p,  # parameters
    ctypes.c_void_p,  # shapes of outputs
    ctypes.c_int64 * 2,  # bytes of workspace
    ctypes.POINTER(ctypes.c_int64),  # work
    ctypes.POINTER(_Error),
)
_Shapes = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
_Geometry = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p
)


@dataclass(frozen=True)
class Planned:
    """Parameters (int64), shapes of outputs, upper bounds where data decides, bytes of each slot of
    the workspace, on how many workers each kernel runs, and an estimate of the multiplications."""

    params: npt.NDArray[np.int64]
    shapes: tuple[tuple[int, ...], ...]
    slots: tuple[int, ...]
    grids: tuple[int, ...]
    work: int


@dataclass(frozen=True)
class Planner:
    """The functions `plan`, `shapes` (0: plan knows them all) and `geometry`, by address; while
    `bundle` is referred to, they are there."""

    plan: int
    shapes: int
    geometry: int
    n_kernels: int
    n_slots: int
    n_params: int
    output_ranks: tuple[int, ...]
    bundle: object = None

    def __call__(
        self, inputs: Sequence[tuple[tuple[int, ...], npt.NDArray[Any] | None]], workers: int
    ) -> Planned:
        """Plan a call on at most so many workers, for inputs of some shapes, dense arrays where
        plan reads their elements.

        InvalidArgument says what does not fit, SiriusError that no workspace can be so large.
        """
        tensors = (TensorInfo * len(inputs))()
        dims = [np.array(shape, np.int64) for shape, _ in inputs]
        for tensor, (shape, data), sizes in zip(tensors, inputs, dims, strict=True):
            tensor.dims, tensor.rank = sizes.ctypes.data, len(shape)
            tensor.data = None if data is None else data.ctypes.data
        params = np.zeros(self.n_params, np.int64)
        sizes = self._no_sizes()
        workspace, work, error = (ctypes.c_int64 * 2)(), ctypes.c_int64(), _Error()
        failed = _Plan(self.plan)(
            ctypes.addressof(tensors), workers, params.ctypes.data, sizes.ctypes.data,
            workspace, ctypes.byref(work), ctypes.byref(error),
        )  # fmt: skip
        if failed:
            raise InvalidArgument(message(error.format.decode(), error.args))
        if workspace[0] < 0:
            raise SiriusError(
                "a call needs more bytes of workspace than 64 bits can count: take smaller inputs"
            )
        grids, slots = (ctypes.c_int32 * self.n_kernels)(), (ctypes.c_int64 * self.n_slots)()
        _Geometry(self.geometry)(
            params.ctypes.data, workers, ctypes.addressof(grids), ctypes.addressof(slots)
        )
        return Planned(params, self._cut(sizes), tuple(slots), tuple(grids), work.value)

    def late_shapes(self, params: npt.NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
        """The shapes of all outputs after a run, which has completed the parameters."""
        sizes = self._no_sizes()
        _Shapes(self.shapes)(params.ctypes.data, sizes.ctypes.data)
        return self._cut(sizes)

    def _no_sizes(self) -> npt.NDArray[np.int64]:
        return np.zeros((len(self.output_ranks), MAX_RANK), np.int64)

    def _cut(self, sizes: npt.NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
        pairs = zip(sizes.tolist(), self.output_ranks, strict=True)
        return tuple(tuple(row[:rank]) for row, rank in pairs)


def message(text: str, args: Sequence[int]) -> str:
    """A SiriusError as text, as printf would print it: its format takes int64 as %lld, and %%
    is %."""
    numbers = iter(args)
    return re.sub("%(%|lld)", lambda m: "%" if m[1] == "%" else str(next(numbers)), text)
