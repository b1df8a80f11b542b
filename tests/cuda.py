# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels of programs on the CPU: planned by the host code of a bundle, emulated, compared."""

import ctypes
import math
import tempfile
from pathlib import Path

import numpy as np

from sirius_tf.bundle import cache, cc
from sirius_tf.bundle.cuda import complete_source
from sirius_tf.bundle.library import native_directory
from sirius_tf.bundle.link import weights
from sirius_tf.codegen.cuda import CudaKernel, machine_of, print_kernel
from sirius_tf.codegen.entry import late_outputs
from sirius_tf.codegen.scalar import PRELUDE
from sirius_tf.compile import schedule_program
from sirius_tf.errors import InvalidArgument
from sirius_tf.ir.functions import numpy_dtype
from sirius_tf.runtime.native import TensorInfo
from tests.emulator import emulator

MAX_RANK = 8
FORMATS = ("index %d is not in [0, %d)", "integer division by zero")
SYNC = np.dtype([("arrived", np.uint32), ("generation", np.uint32)])
FAILURE = np.dtype([("failed", np.int32), ("format", np.int32), ("args", np.int64, 2)])


class _Error(ctypes.Structure):
    _fields_ = (("format", ctypes.c_char_p), ("args", ctypes.c_int64 * 4))


class Emulated:
    """The kernel of a program, emulated: a function of arrays."""

    def __init__(self, program, sanitizer=None, edit=lambda source: source):
        self.kernel = print_kernel(schedule_program(program, machine_of("sm_90")))
        self.program = self.kernel.program
        self.module = emulator.build(edit(complete_source(self.kernel)), sanitizer)
        self.plan = _plan(self.kernel)

    def __call__(self, feeds, blocks=3, threads=64, order="forward"):
        """The outputs; InvalidArgument if the call fails."""
        names, outputs = self.program.inputs, self.program.outputs
        types = [numpy_dtype(self.program.tensor[n].dtype) for n in names]
        feeds = [np.ascontiguousarray(f, t) for f, t in zip(feeds, types, strict=True)]
        params, shapes, size = self.planned(feeds, blocks)
        for feed in feeds:
            feed.flags.writeable = False
        results = [
            np.empty(s, numpy_dtype(self.program.tensor[o.tensor].dtype))
            for s, o in zip(shapes, outputs, strict=True)
        ]
        constants = np.frombuffer(weights(self.program) or bytes(64), np.uint8)
        decided, failure = np.zeros(max(len(params), 1), np.int64), np.zeros(1, FAILURE)
        kept = [_stored(a) for a in (*feeds, *results)]
        self.module.launch(
            self.kernel.name,
            blocks,
            threads,
            [
                *kept,
                *params,
                np.full(max(size, 1), 0xFF, np.uint8),  # NaN until it is written
                constants,
                decided,
                np.zeros(1, SYNC),
                failure,
            ],
            self.kernel.shared_bytes,
            cooperative=True,
            order=order,
        )
        if failure["failed"][0]:
            raise InvalidArgument(FORMATS[failure["format"][0]] % tuple(failure["args"][0])[:2])
        return self.shaped(results, params, decided)

    def planned(self, feeds, blocks):
        """Parameters, shapes of outputs and bytes of workspace, by the plan of the kernel."""
        tensors, dims = (TensorInfo * max(len(feeds), 1))(), []
        for tensor, feed in zip(tensors, feeds, strict=False):
            dims.append(np.array(feed.shape, np.int64))
            tensor.data, tensor.dims = feed.ctypes.data, dims[-1].ctypes.data
            tensor.rank = feed.ndim
        params = np.zeros(len(self.program.params), np.int64)
        shapes = np.zeros((len(self.program.outputs), MAX_RANK), np.int64)
        size, work, error = ctypes.c_int64(), ctypes.c_int64(), _Error()
        failed = self.plan[0](
            tensors,
            blocks,
            ctypes.c_void_p(params.ctypes.data),
            ctypes.c_void_p(shapes.ctypes.data),
            *map(ctypes.byref, (size, work, error)),
        )
        if failed:
            raise InvalidArgument(error.format.decode().replace("%lld", "%d"))
        return params, self.cut(shapes), size.value

    def cut(self, shapes):
        outputs = self.program.outputs
        return [tuple(s[: len(o.shape)]) for s, o in zip(shapes, outputs, strict=True)]

    def shaped(self, results, params, decided):
        """The results in the shapes that they have in the end."""
        if not any(late_outputs(self.program)):
            return results
        exits = np.array([p.exit is not None for p in self.program.params])
        params = np.where(exits, decided[: len(params)], params)
        shapes = np.zeros((len(results), MAX_RANK), np.int64)
        self.plan[1](ctypes.c_void_p(params.ctypes.data), ctypes.c_void_p(shapes.ctypes.data))
        pairs = zip(results, self.cut(shapes), strict=True)
        return [r.reshape(-1)[: math.prod(s)].reshape(s) for r, s in pairs]


def _stored(array):
    """Half precision as its bits, bool as bytes, and at least an element: what kernels take."""
    array = array if array.size else np.zeros(1, array.dtype)
    return (
        array.view(f"u{array.itemsize}")
        if array.dtype.kind in "fVb" and array.itemsize < 4
        else array
    )


def _plan(kernel: CudaKernel):
    """The functions `plan` and, perhaps, `shapes` of a kernel, compiled."""
    code = cache.compiled(PRELUDE + kernel.plan, ["-std=gnu11", "-O0"], native_directory())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "plan.so")
        cc.compile_shared([code], path)
        library = ctypes.CDLL(str(path))
    late = any(late_outputs(kernel.program))
    return getattr(library, f"{kernel.name}_plan"), (
        getattr(library, f"{kernel.name}_shapes") if late else None
    )
