# SPDX-License-Identifier: Apache-2.0
"""Whether the package works under pairs of Python and TensorFlow that stand for all supported ones.

usage: python -m tests.reliability.versions [--folder=FOLDER] [PYTHON-TENSORFLOW ...]

For each pair: a virtual environment, the package and what its tests need, installed from a copy of
this tree, and SELECTIONS of the tests. Pythons are pyenv's, or python3.10 and so on of the PATH. A
pair takes minutes, and 3 GB; a FOLDER keeps its environment for the next time. Prints a row for
each; the exit code is 1 if a test failed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from sirius_tf.tools.tables import table
from tests.support import ROOT

PAIRS = ("3.10-2.19", "3.12-2.20", "3.13-2.21")

_OPTIMIZE = "tests/driver/test_optimize.py::test_"
SELECTIONS = {
    "`-m ir`": ["-m", "ir"],
    "loaded alone": ["tests/runtime/test_load.py"],
    "converted by the command": ["tests/tools/test_tools.py::test_conversion"],
    "in sessions, as objects": [
        f"{_OPTIMIZE}a_moved_model_works_for_every_batch",
        f"{_OPTIMIZE}another_process_can_load_the_model",
        "tests/runtime/test_op.py",
    ],
}
_VERSIONS = """
import platform, tensorflow, keras, numpy
print(platform.python_version(), *(m.__version__ for m in (tensorflow, keras, numpy)))
"""


def find_python(version: str) -> str:
    """The path of a Python; exits where there is none."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    if several := sorted(root.glob(f"versions/{version}.*/bin/python")):
        return str(several[-1])  # what pyenv has on the PATH need not be a Python
    if found := shutil.which(f"python{version}"):
        return found
    sys.exit(f"there is no python{version} in {root} or on the PATH: install it, or leave it out")


def install(pair: str, venv: Path, tree: Path) -> str:
    """Copy this tree, and install it into the environment of a pair; returns its Python."""
    version, tensorflow = pair.split("-")
    ignored = shutil.ignore_patterns("*.so", "__pycache__", ".*_cache", "*.egg-info", ".git")
    shutil.copytree(ROOT, tree, ignore=ignored)
    python = str(venv / "bin" / "python")
    if not venv.exists():
        subprocess.run([find_python(version), "-m", "venv", str(venv)], check=True)
    wanted = [f"tensorflow-cpu=={tensorflow}.*", "--editable", f"{tree}[tf-cpu,test]"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    return python


def check(pair: str, venv: Path, work: Path) -> tuple[list[str], bool]:
    """A row of the table, and whether all tests passed."""
    tree = work / "tree"
    python = install(pair, venv, tree)
    versions = subprocess.run([python, "-c", _VERSIONS], check=True, capture_output=True, text=True)
    own = {**os.environ, "XDG_CACHE_HOME": str(work / "cache")}
    row, good = versions.stdout.split(), True
    for name, chosen in SELECTIONS.items():
        words = [python, "-m", "pytest", "-n0", "-o", "addopts=", *chosen]
        done = subprocess.run(words, cwd=tree, env=own, check=False, capture_output=True, text=True)
        said = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "nothing"
        row.append(said.strip("= ").split(" in ")[0])  # "68 passed, 1 skipped in 12.34s"
        print(f"{pair}, {name}: {row[-1]}", file=sys.stderr, flush=True)
        if done.returncode:
            good = False
            print(done.stdout, done.stderr, file=sys.stderr, flush=True)
    return row, good


def main() -> int:
    options = argparse.ArgumentParser(prog="versions")
    options.add_argument("--folder", type=Path)
    options.add_argument("pairs", nargs="*", default=PAIRS)
    given = options.parse_args()
    rows, good = [], True
    for pair in given.pairs:
        with tempfile.TemporaryDirectory() as work:
            folder = (given.folder or Path(work)).absolute()
            row, passed = check(pair, folder / pair, Path(work))
        rows.append(row)
        good = good and passed
    print(table(["Python", "TensorFlow", "Keras", "numpy", *SELECTIONS], rows))
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
