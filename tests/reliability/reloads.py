# SPDX-License-Identifier: Apache-2.0
"""Versions of a model that TensorFlow loads one after the other, as a server does for months.

usage: python -m tests.reliability.reloads [--reloads=N] [--how=objects|session]

Each is a copy of the rewritten model in a folder of its own, called, dropped and deleted. What is
printed: wrong results, and what the process holds after a tenth of the reloads and at the end:
memory, mappings, open files, and megabytes of files that are deleted and still take room.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from absl import app, flags

from tests.reliability.damaged_models import LOADERS, export
from tests.support.held import held

_RELOADS = flags.DEFINE_integer("reloads", 2000, "How many.", lower_bound=10)
_HOW = flags.DEFINE_enum("how", "objects", list(LOADERS), "Who loads.")


def deleted() -> float:
    """Megabytes of the files that this process has mapped or open, and nobody can see."""
    links = [*Path("/proc/self/map_files").iterdir(), *Path("/proc/self/fd").iterdir()]
    gone = set()
    for link in links:
        try:
            found = link.stat()
        except OSError:  # it is closed by now
            continue
        if os.readlink(link).endswith(" (deleted)"):
            gone.add((found.st_ino, found.st_size))
    return sum(size for _, size in gone) / 1e6


def reloads(original: Path, how: str, count: int) -> int:
    """Reload so often, and print what is held after a tenth and at the end; how many are wrong."""
    load, wrong = LOADERS[how], 0
    want = np.asarray(load(original)())
    for k in range(1, count + 1):
        folder = original.with_name(str(k))
        shutil.copytree(original, folder)
        wrong += not np.array_equal(load(folder)(), want)
        shutil.rmtree(folder)
        if k in (count // 10, count):
            gc.collect()
            print(k, {**held(), "MB of deleted files": round(deleted(), 1)}, flush=True)
    return wrong


def main(_: list[str]) -> None:
    from sirius_tf.runtime.op import register_with_tensorflow

    register_with_tensorflow()
    with tempfile.TemporaryDirectory() as name:
        model = export(Path(name))["model"]
        wrong = reloads(model, _HOW.value, _RELOADS.value)
    print(f"{_RELOADS.value} reloads, {wrong} wrong")


if __name__ == "__main__":
    app.run(main)
