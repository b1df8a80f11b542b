# SPDX-License-Identifier: Apache-2.0
"""Conversions with a cache that is damaged, cleared, too small, or used by others at the same time.

usage: python -m tests.reliability.damaged_cache [--flips=N] [--rounds=N]

A row for each kind of damage to all entries at once, or of company: how many conversions there
were, and how many of them wrote the same bytes as one without a cache. The first row is of single
bits, and of entries: how many were taken for damaged.
"""

from __future__ import annotations

import os
import pickle
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from absl import app, flags

import sirius_tf
from sirius_tf.bundle import store
from tests.reliability.kill_points import OPTIONS, export, files, in_child

Damage = Callable[[random.Random, list[Path]], None]


def _each(change: Callable[[random.Random, bytes], bytes]) -> Damage:
    """The damage that a change does to each of some files."""

    def damage(choose: random.Random, paths: list[Path]) -> None:
        for path in paths:
            path.write_bytes(change(choose, path.read_bytes()))

    return damage


def flipped(choose: random.Random, data: bytes) -> bytes:
    """The data with another bit."""
    changed = bytearray(data)
    changed[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
    return bytes(changed)


def swapped(choose: random.Random, paths: list[Path]) -> None:
    """Give each file the content of another one."""
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, contents[1:] + contents[:1], strict=True):
        path.write_bytes(content)


def others(choose: random.Random, paths: list[Path]) -> None:
    """Let others write to each file."""
    for path in paths:
        path.chmod(0o666)


class Planted:
    """What ends the process if a pickle of it is loaded."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (1,)


DAMAGE: dict[str, Damage] = {
    "none": lambda choose, paths: None,
    "a bit flipped": _each(flipped),
    "cut off": _each(lambda choose, data: data[: choose.randrange(len(data))]),
    "zeros from there on": _each(lambda choose, data: data[:40].ljust(len(data), b"\0")),
    "empty": _each(lambda choose, data: b""),
    "a pickle in its place": _each(lambda choose, data: pickle.dumps(Planted())),
    "that of another entry": swapped,
    "others may write to it": others,
    "deleted": lambda choose, paths: [path.unlink() for path in paths] and None,
}


class Folder:
    """Models, a cache, and outputs."""

    def __init__(self, root: Path) -> None:
        self.root, self.models = root, root / "models"
        self.models.mkdir()
        in_child(lambda: export(self.models), self.models)
        self.want = self.converted("without", lambda: os.environ.update(XDG_CACHE_HOME="/dev/null"))

    def converted(self, out: str, first: Callable[[], object] = lambda: None) -> dict[str, str]:
        """The files of a conversion, by a process that does something first."""
        target = self.root / out

        def convert() -> None:
            first()
            sirius_tf.optimize(self.models / "b", target, options=OPTIONS)

        in_child(convert, self.root)
        return files(target)

    def entries(self) -> list[Path]:
        """The files of the cache."""
        found = sorted((self.root / "cache" / "sirius_tf").rglob("*"))
        return [path for path in found if path.is_file() and "zig" not in path.parts]

    def flips(self, choose: random.Random, count: int) -> int:
        """How many of so many entries with a bit flipped are taken for damaged."""
        damaged = 0
        for _ in range(count):
            path = choose.choice(self.entries())
            content = path.read_bytes()
            path.write_bytes(flipped(choose, content))
            damaged += store.find(path.parent.name, path.name) is None
            path.write_bytes(content)
        return damaged

    def crowd(self, rounds: int, first: Callable[[], object], cleared: bool) -> int:
        """How many of 3 conversions a round, at the same time, have the right bytes."""
        right = 0
        for _ in range(rounds):
            shutil.rmtree(self.root / "cache" / "sirius_tf", ignore_errors=True)
            with ThreadPoolExecutor(3) as pool:
                made = [pool.submit(self.converted, f"out{k}", first) for k in range(3)]
                while cleared and not all(m.done() for m in made):
                    store.clear()
                    time.sleep(0.05)
                right += sum(m.result() == self.want for m in made)
        return right


def main(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> int:
    """See the module."""
    import sirius_tf.driver  # noqa: F401  once for all processes

    choose, wrong = random.Random(0), 0

    def row(label: str, count: int, right: int) -> None:
        nonlocal wrong
        wrong += count - right
        print(f"{label:32} {count:6} {right:6}", flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Folder(Path(name))
        os.environ["XDG_CACHE_HOME"] = f"{name}/cache"
        assert folder.converted("out") == folder.want != {}
        row("single bits in entries", values.flips, folder.flips(choose, values.flips))
        for label, damage in DAMAGE.items():
            right = 0
            for _ in range(values.rounds):
                damage(choose, folder.entries())
                right += folder.converted("out") == folder.want
            row(label, values.rounds, right)
        small = {"SIRIUS_CACHE_LIMIT": "100000"}
        crowds = {
            "three at once": (lambda: None, False),
            "and room for a part of them": (lambda: os.environ.update(small), False),
            "and another one clears it": (lambda: None, True),
        }
        for label, (first, cleared) in crowds.items():
            row(label, 3 * values.rounds, folder.crowd(values.rounds, first, cleared))
    return int(wrong > 0)


def run() -> None:
    """Run the command."""
    flags.DEFINE_integer("flips", 10_000, "Single bits to flip.")
    flags.DEFINE_integer("rounds", 10, "Conversions for each kind of damage.")
    app.run(main)


if __name__ == "__main__":
    run()
