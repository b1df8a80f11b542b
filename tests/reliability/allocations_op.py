# SPDX-License-Identifier: Apache-2.0
"""Calls by TensorFlow's op of which the n-th allocation fails, for all n.

usage: python -m tests.reliability.allocations_op [--only=PROGRAM,...]

The allocations are those of libsirius_tf.so, from making the kernel of the op and opening the
bundle on. Rows are those of `tests.reliability.allocations`: a failure is answered by
ResourceExhaustedError or by the right result, and the same call is right afterwards.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import tensorflow as tf
from absl import app, flags
from rich.console import Console
from rich.table import Table

from sirius_tf.bundle import library
from sirius_tf.bundle.link import link
from sirius_tf.compile import compile_program
from sirius_tf.ir import interp
from sirius_tf.runtime import native
from sirius_tf.runtime.op import sirius_region
from tests.reliability.allocations import GROWS, PROGRAMS, WORKERS
from tests.support import programs
from tests.support.arrays import assert_close
from tests.support.preload import preload

_ONLY = flags.DEFINE_list("only", [], "Programs to call; all by default.")


def failures(call: Callable[[], list[tf.Tensor]], wanted, retried: bool) -> tuple[int, int, int]:
    """Allocations of a call, failures of them that are errors, and right results in spite of
    one; the call is made again after each, or once at the end."""
    shim, counts = ctypes.CDLL(None), [0, 0]
    while True:
        shim.allocations_fail(sum(counts) + 1)
        try:
            found = [call()]
        except tf.errors.ResourceExhaustedError:
            found = []
        left = shim.allocations_left()
        shim.allocations_fail(0)
        for results in [*found, call()] if retried or left else found:
            assert_close([x.numpy() for x in results], wanted, 1e-4)
        if left:
            return sum(counts), *counts
        counts[len(found)] += 1


def measure(name: str, workers: int, folder: Path) -> tuple[int, int, int]:
    """The counts of one program: its workspace is new in the first round, and there in the next."""
    make, sizes = PROGRAMS[name]
    program = make()
    inputs = programs.random_inputs(program, sizes) if sizes else GROWS
    bundle = folder / f"{program.name}_{workers}.so"
    link([compile_program(program)], bundle, {}, isas=["v3"])
    dtypes = [program.tensor[o.tensor].dtype for o in program.outputs]
    call = partial(sirius_region, list(inputs.values()), bundle, program.name, dtypes)
    wanted = interp.run(program, inputs)
    with native.exactly(workers):
        counts = failures(call, wanted, False)
        failures(call, wanted, True)
    assert counts[1], "no allocation was seen"
    return counts


def main(_: list[str]) -> None:
    tf.get_logger().setLevel("ERROR")  # each call is a function of its own
    native.library()
    assert ctypes.CDLL(None).allocations_of(library.NAME.encode())
    table = Table("program", "workers", "allocations", "errors", "right results")
    with tempfile.TemporaryDirectory() as folder:
        for name, workers in product(_ONLY.value or PROGRAMS, WORKERS):
            table.add_row(name, str(workers), *map(str, measure(name, workers, Path(folder))))
    Console(width=100).print(table)


def run() -> None:
    """Preload the library that fails, and run the command."""
    preload(Path(__file__), "allocations_fail")
    app.run(main)


if __name__ == "__main__":
    run()
