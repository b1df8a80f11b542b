# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels of programs on the CPU: planned by the host code of a bundle, emulated, compared.

They are compiled for GPUs, too, and fit these.
"""

import ctypes
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from sirius_tf.bundle import cache, cc
from sirius_tf.bundle.cuda import compile_kernel, complete_source
from sirius_tf.bundle.library import native_directory
from sirius_tf.bundle.link import weights
from sirius_tf.codegen.cuda.kernel import print_kernel
from sirius_tf.codegen.cuda.source import CudaKernel
from sirius_tf.codegen.entry import late_outputs
from sirius_tf.codegen.scalar import PRELUDE
from sirius_tf.compile import schedule_program
from sirius_tf.errors import InvalidArgument
from sirius_tf.ir.dtypes import numpy_dtype
from sirius_tf.mapping.targets import machine_of
from sirius_tf.runtime.cuda import FAILURE, FORMATS, SYNC
from sirius_tf.runtime.plan import Planner, message
from tests.emulator import emulator
from tests.support.arrays import assert_close

ARCHITECTURES = ("sm_80", "sm_90")


def check_resources(kernel):
    """Compile it: no thread spills, none has a stack, and a multiprocessor has room for a block."""
    compiled = compile_kernel(kernel, ARCHITECTURES)
    for arch in ARCHITECTURES:
        for used in compiled.cubins[arch].kernels.values():
            assert (used.spill_stores, used.spill_loads, used.stack) == (0, 0, 0)
        assert compiled.blocks(arch) > 0
    return compiled


class Emulated:
    """The kernels of a program, emulated: a function of arrays. `fields` are the machine's. Unless
    edited, they fit GPUs."""

    def __init__(
        self,
        program,
        sanitizer=None,
        edit=None,
        launch="auto",
        precision="strict",
        **fields,
    ):
        machine = replace(machine_of("sm_90", precision), **fields)
        self.scheduled = schedule_program(program, machine)
        self.kernel = print_kernel(self.scheduled, launch)
        self.program = self.kernel.program
        source = complete_source(self.kernel)
        if edit is None:
            check_resources(self.kernel)
        self.module = emulator.build(edit(source) if edit else source, sanitizer)
        self.plan = _plan(self.kernel)

    def __call__(self, feeds, blocks=3, threads=64, order="forward", workspace=None):
        """The outputs; InvalidArgument if the call fails. `workspace`: of an earlier call."""
        names, outputs = self.program.inputs, self.program.outputs
        types = [numpy_dtype(self.program.tensor[n].dtype) for n in names]
        feeds = [np.ascontiguousarray(f, t) for f, t in zip(feeds, types, strict=True)]
        planned = self.plan([(f.shape, f) for f in feeds], blocks)
        for feed in feeds:
            feed.flags.writeable = False
        results = [
            np.empty(s, numpy_dtype(self.program.tensor[o.tensor].dtype))
            for s, o in zip(planned.shapes, outputs, strict=True)
        ]
        constants = np.frombuffer(b"".join(weights(self.program)) or bytes(64), np.uint8)
        decided, failure = np.append(planned.params, 0), np.zeros(1, FAILURE)
        kept = [_stored(a) for a in (*feeds, *results)]
        empty = [np.full(max(n, 1), 0xFF, np.uint8) for n in planned.slots]  # NaN, until written
        self.workspace = slots = workspace or empty
        arguments = [*kept, *planned.params, *slots, constants, decided]
        arguments += [np.zeros(1, SYNC), failure]
        shared, cooperative = self.kernel.shared_bytes, self.kernel.cooperative
        for name, grid in zip(self.kernel.kernels, planned.grids, strict=True):
            self.module.launch(name, grid, threads, arguments, shared, cooperative, order)
        if failure["failed"][0]:
            texts = (*FORMATS, *(m.replace("%", "%%") for m in self.program.messages))
            raise InvalidArgument(message(texts[failure["format"][0]], failure["args"][0]))
        return self.shaped(results, decided[:-1])

    def shaped(self, results, params):
        """The results in the shapes that they have in the end."""
        if not self.plan.shapes:
            return results
        pairs = zip(results, self.plan.late_shapes(params), strict=True)
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
        path, made = Path(folder, "plan.so"), Path(folder, "plan.o")
        made.write_bytes(code)
        cc.compile_shared([made], path)
        library = ctypes.CDLL(str(path))
    program, late = kernel.program, any(late_outputs(kernel.program))
    plan, geometry, shapes = (
        ctypes.cast(getattr(library, f"{kernel.name}_{key}"), ctypes.c_void_p).value if key else 0
        for key in ("plan", "geometry", "shapes" if late else "")
    )
    ranks = tuple(len(o.shape) for o in program.outputs)
    counts = len(kernel.kernels), kernel.slots, len(program.params)
    return Planner(plan, shapes, geometry, *counts, ranks)


DEFAULT = "serving_default"


LAUNCHES = ((1, 32, "forward"), (4, 96, "reverse"), (2, 256, "random:1"))  # blocks, threads, order


def agree(program, expected, feeds, emulated=None, tolerance=1e-5):
    """The emulated kernel computes `expected`, however it is launched."""
    emulated = emulated or Emulated(program)
    for blocks, threads, order in LAUNCHES:
        assert_close(emulated(feeds, blocks, threads, order), expected, tolerance)


def fits(kernel):
    """No thread spills, and as many blocks as the schedule is for run at the same time."""
    compiled = check_resources(kernel)
    for cubin in compiled.cubins.values():
        for used in cubin.kernels.values():
            assert used.registers <= 65536 // kernel.threads_per_block // 2
    assert compiled.kernel == kernel
    assert compiled.blocks("sm_90") == kernel.blocks


def many(program, rows=1 << 14):
    """The program for so many rows that blocks have large tiles."""
    return replace(program, params=tuple(replace(p, hint=rows) for p in program.params))
