# SPDX-License-Identifier: Apache-2.0
"""Calls of which the n-th allocation fails, for all n, under AddressSanitizer.

usage: python -m tests.reliability.allocations

Memory for parameters, workspaces, outputs and workers is refused. A row for each program and number
of workers: how many allocations a call has, how many of their failures were answered by an error,
and how many by the right result. It ends with an error unless the same call, later in the process,
always is right, and nothing is leaked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from absl import app
from rich.console import Console
from rich.table import Table

from sirius_tf.compile import compile_program
from sirius_tf.ir import interp
from sirius_tf.ir.expr import Const
from sirius_tf.ir.program import Program
from tests.support import programs, sanitized
from tests.support.arrays import assert_close
from tests.support.programs import F, b, it, load, param, stmt, tensor

EXHAUSTED = 2  # SIRIUS_EXHAUSTED
WORKERS = (1, 3)


def many_outputs(count: int = 70) -> Program:
    """More outputs than there is room for on the stack."""
    made = [f"y{k}" for k in range(count)]
    box = [it("b", programs.B)]
    products = [programs.call("mul", load("x", b), Const(float(k), F)) for k in range(count)]
    one = programs.program(
        "many",
        [param("B", "x", 0)],
        [
            tensor("x", [programs.B], role="input"),
            *(tensor(y, [programs.B], role="output") for y in made),
        ],
        [stmt(f"S_{y}", box, y, [b], x) for y, x in zip(made, products, strict=True)],
        [programs.B],
    )
    return replace(one, outputs=tuple(replace(one.outputs[0], tensor=y) for y in made))


GROWS = {"x": np.array(1.5, F), "limit": np.array(1000)}
PROGRAMS: Mapping[str, tuple[Callable[[], Program], dict[str, int]]] = {
    "dense": (programs.dense, {"B": 7}),
    "softmax": (programs.softmax, {"B": 33}),
    "lstm": (programs.lstm, {"B": 5, "T": 9}),
    "of a size that data decides": (programs.growth, {}),
    "70 outputs": (many_outputs, {"B": 5}),
}


def failures(built: sanitized.Sanitized, feeds, wanted, workers: int) -> tuple[int, int, int]:
    """Allocations of a call, failures of them that are errors, and right results in spite of
    one."""
    errors = survived = 0
    while found := built.with_a_failure(feeds, errors + survived + 1, workers):
        first, later = found
        if isinstance(first, sanitized.Refusal):
            assert first.code == EXHAUSTED, first
            errors += 1
        else:
            assert_close(first, wanted, 1e-4)
            survived += 1
        assert not isinstance(later, sanitized.Refusal), later
        assert_close(later, wanted, 1e-4)
    return errors + survived, errors, survived


def measure(name: str, host: list[Path], folder: Path) -> list[tuple[int, int, int]]:
    """The counts of one program for each number of workers."""
    make, sizes = PROGRAMS[name]
    made = make()
    built = sanitized.build(compile_program(made), host, folder, "v3")
    inputs = programs.random_inputs(made, sizes) if sizes else GROWS
    wanted = interp.run(made, inputs)
    return [failures(built, list(inputs.values()), wanted, count) for count in WORKERS]


def main(_: list[str]) -> None:
    table = Table("program", "workers", "allocations", "errors", "right results")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        host = sanitized.build_host(folder)
        for number, program in enumerate(PROGRAMS):
            rows = measure(program, host, folder / f"p{number}")
            for workers, row in zip(WORKERS, rows, strict=True):
                table.add_row(program, str(workers), *map(str, row))
    Console().print(table)


if __name__ == "__main__":
    app.run(main)
