# SPDX-License-Identifier: Apache-2.0
"""Fetch a real model: the SavedModel of Basic Pitch, audio to notes, out of its Python package.

usage: fetch_model.py OUTPUT
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from absl import app

PACKAGE = "basic-pitch==0.4.0"
FOLDER = "basic_pitch/saved_models/icassp_2022/nmp/"


def extract(wheel: Path, output: Path) -> None:
    """Write the files of the wheel that lie under FOLDER to `output`."""
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if n.startswith(FOLDER) and not n.endswith("/")]
        if not names:
            raise FileNotFoundError(f"{wheel} has no {FOLDER}")
        for name in names:
            target = output / name.removeprefix(FOLDER)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))


def fetch(output: Path) -> None:
    """Download the package and write its SavedModel to `output`."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        subprocess.run([sys.executable, "-m", "pip", *words], check=True)
        extract(next(Path(folder).glob("*.whl")), output)


def main(argv: list[str]) -> None:
    """See the module."""
    if len(argv) != 2:
        raise app.UsageError("expected OUTPUT")
    fetch(Path(argv[1]))


def run() -> None:
    """Run the command line of this process."""
    app.run(main)


if __name__ == "__main__":
    run()
