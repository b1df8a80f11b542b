# SPDX-License-Identifier: Apache-2.0
"""Bugs of one line, in each pass and behind them: what does a bisection name?

usage: python -m tests.support.bugs [STAGE ...]

Programs of the documentation's examples (tests/support/document_models.py) and of the small graphs
(testdata/programs) are written as cases. Each bug is put into a copy of the package, in which
`sirius-inspect --replay` then looks at a case that the line is about. Prints the table of
docs/testing.md; the exit code is 1 if a stage is not named.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support import ROOT


@dataclass(frozen=True)
class Bug:
    """A line of a file, and what it is changed to. `case` is an example, or a small graph."""

    stage: str
    case: str
    file: str
    line: str
    wrong: str
    mistake: str


BUGS = (
    Bug(
        "reroll",
        "unrolled",
        "transform/runs.py",
        "along(x, 0, lambda k: k + shift[x.tensor])",
        "along(x, 0, lambda k: k)",
        "no room for the initial value",
    ),
    Bug(
        "simplify",
        "small/normalized",
        "transform/simplify.py",
        "(x, Const(1.0 / value, dtype))",
        "(x, Const(value, dtype))",
        "a product with the divisor",
    ),
    Bug(
        "powers",
        "gelu",
        "transform/powers.py",
        "x if value == 3.0 else square",
        "x if value == 4.0 else square",
        "the fourth power for the third",
    ),
    Bug(
        "lookup_sums",
        "embedding",
        "transform/lookup_sums.py",
        "return substitute(source.value, places(source, load))",
        "return source.value",
        "iterators of the definition in its reader",
    ),
    Bug(
        "split_dims",
        "lstm",
        "transform/split_dims.py",
        "at = symbol(which) * cut.size + symbol(name)",
        "at = symbol(which) + symbol(name)",
        "slices one element apart",
    ),
    Bug(
        "epilogue",
        "expansion",
        "transform/epilogue.py",
        "index=reader.index,",
        "index=s.index,",
        "stored where the sum was",
    ),
    Bug(
        "scale_weights",
        "normalized",
        "transform/scale_weights.py",
        'value=Call("mul", pair, "float32"), finish=finish)',
        'value=Call("mul", pair, "float32"))',
        "the factor stays behind the sum",
    ),
    Bug(
        "winograd",
        "convolution",
        "transform/winograd.py",
        "(0, -1, 1, 0)",
        "(0, 1, 1, 0)",
        "a sign of a matrix",
    ),
    Bug(
        "overlap",
        "expansion",
        "schedule/overlap.py",
        "symbol(inside.name) + low",
        "symbol(inside.name)",
        "a tile begins behind its border",
    ),
    Bug(
        "versions",
        "updates",
        "schedule/versions.py",
        "lambda t: t * count + number)",
        "lambda t: t * count)",
        "versions of an iteration in one place",
    ),
    Bug(
        "hoist",
        "layers",
        "schedule/hoist.py",
        "n for component in found if len(component) > 1 for n in component)",
        "n for component in found if len(component) > 2 for n in component)",
        "a recurrence of two leaves its loop",
    ),
    Bug(
        "split_k",
        "product",
        "schedule/split_k.py",
        "_piece(s, k, symbol(p) * length, length,",
        "_piece(s, k, symbol(p) * whole, length,",
        "pieces begin at other terms",
    ),
    Bug(
        "wavefront",
        "layers",
        "schedule/wavefront.py",
        "Iter(name, i.extent, True, shift)",
        "Iter(name, i.extent, True, -shift)",
        "a layer is ahead of the one that it reads",
    ),
    Bug(
        "layout",
        "normalized",
        "schedule/layout.py",
        "at = (*at[:outer], at[-1] // PANEL, *at[outer:-1], at[-1] % PANEL)",
        "at = (*at[:outer], at[-1] % PANEL, *at[outer:-1], at[-1] // PANEL)",
        "place and panel are exchanged",
    ),
    Bug(
        "schedule",
        "lstm",
        "schedule/storage.py",
        "bound.to_python() + 1 if",
        "bound.to_python() if",
        "a window that is one too small",
    ),
    Bug(
        "code",
        "softmax",
        "native/sirius_coefficients.h",
        "0.4999999701976776f",
        "0.4899999701976776f",
        "a digit of exp's polynomial",
    ),
)


def write_case(name: str, folder: Path) -> None:
    """Write the case of an example, or of a small graph, as `--replay` takes it."""
    from sirius_tf.debug.reproducer import Case, save  # TensorFlow takes seconds
    from tests.support import documents, saved

    if name.startswith("small/"):
        program = saved.read(name.removeprefix("small/"))
        save(Case(program, saved.inputs(program, 6)), folder)
    else:
        save(documents.case(name), folder)


def said(bug: Bug, folder: Path) -> str:
    """The text that a bisection prints where a copy of the package, in a folder, has the bug."""
    package, case = folder / "sirius_tf", folder / "cases" / bug.case
    if not package.exists():
        shutil.copytree(ROOT / "sirius_tf", package)
    if not case.exists():
        write_case(bug.case, case)
    file = package / bug.file
    right = file.read_text()
    assert right.count(bug.line) == 1, f"{bug.file} has no such line, or several: {bug.line}"
    file.write_text(right.replace(bug.line, bug.wrong))
    try:
        command = [sys.executable, "-m", "sirius_tf.tools.inspect", f"--replay={case}"]
        environment = os.environ | {"PYTHONPATH": str(folder), "SIRIUS_CHECK": "0"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    finally:
        file.write_text(right)
    return done.stdout or done.stderr


def main(stages: list[str]) -> int:
    """Print the table; whether a stage is not named."""
    missed = False
    print("| stage | bug | in | named | what is said |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for bug in BUGS:
            if not stages or bug.stage in stages:
                named, _, problem = said(bug, Path(folder)).split("\n")[0].partition(": ")
                missed |= named != bug.stage
                problem = problem if len(problem) < 70 else f"{problem[:70]} ..."
                found = "yes" if named == bug.stage else named
                row = [f"`{bug.stage}`", bug.mistake, f"`{bug.file}`", found, problem]
                print("|", " | ".join(row), "|", flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
