# SPDX-License-Identifier: Apache-2.0
"""Conversions that are killed, or whose calls of the C library fail, at every point.

usage: python -m tests.reliability.kill_points [--every=N] [--jobs=N]
           [--only=CASE,...] [--ends=END,...]

A row for each kind of conversion and of end: at how many points it ended, and whether there was the
old model then (or none, if there was none before) or the new one. "Neither" is anything else, what
remains beside the target when the next conversion has made its preparations, and an entry of the
cache that is damaged. Last come classes of errors other than SiriusError.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from absl import app, flags
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import sirius_tf
from sirius_tf.bundle import store
from sirius_tf.rewrite import output
from tests.support.preload import preload

COUNT_CHANGES, COUNT_ALL, KILL, FAIL, FULL = range(5)  # kill_points.c has the same
#: What happens at a point, and the error.
ENDS = {
    "killed": (KILL, 0),
    "disk full from there on": (FULL, errno.ENOSPC),
    "ENOSPC": (FAIL, errno.ENOSPC),
    "EIO": (FAIL, errno.EIO),
    "EACCES": (FAIL, errno.EACCES),
}
Conversion = Callable[[Path, Path], object]
PATIENCE = 300  # seconds, after which a conversion hangs
OPTIONS = sirius_tf.Options(keep_slow=True, threads=1, force=True)


@dataclass(frozen=True)
class Case:
    """A conversion to a path, of models in a folder."""

    run: Conversion
    before: Conversion | None  # makes the old target
    exchange: bool = True  # the file system knows of it
    cold: bool = False  # the cache is empty


def frozen(name: str, models: Path, target: Path) -> None:
    """Convert a frozen graph."""
    import tensorflow as tf

    graph = tf.compat.v1.GraphDef.FromString((models / f"{name}.pb").read_bytes())
    sirius_tf.optimize_graph_def(graph, ["x"], ["y"], options=replace(OPTIONS, bundle=target))


def saved(name: str, models: Path, target: Path) -> None:
    """Convert a SavedModel."""
    sirius_tf.optimize(models / name, target, options=OPTIONS)


def refreshed(models: Path, target: Path) -> None:
    """Give a converted SavedModel the weights of another one."""
    sirius_tf.refresh(target, models / "b", options=OPTIONS)


def a(convert: Callable[[str, Path, Path], None]) -> Conversion:
    """The conversion of the old model."""
    return lambda models, target: convert("a", models, target)


def b(convert: Callable[[str, Path, Path], None]) -> Conversion:
    """The conversion of the new model."""
    return lambda models, target: convert("b", models, target)


CASES = {
    "convert": Case(b(saved), None),
    "convert --force": Case(b(saved), a(saved)),
    "refresh": Case(refreshed, a(saved)),
    "refresh without exchange": Case(refreshed, a(saved), exchange=False),
    "frozen graph": Case(b(frozen), a(frozen)),
    "convert --force with a cold cache": Case(b(saved), a(saved), cold=True),
}


def export(models: Path) -> None:
    """Write models "a" and "b", which differ in weights, each as a frozen graph, too."""
    import tensorflow as tf

    class Layer(tf.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.w = tf.Variable(tf.fill([8, 4], value))

        @tf.function(input_signature=[tf.TensorSpec([None, 8], tf.float32, name="x")])
        def serve(self, x: Any) -> Any:
            return {"y": tf.tanh(x @ self.w)}

    for name, value in (("a", 1.0), ("b", 2.0)):
        layer = Layer(value)
        tf.saved_model.save(layer, str(models / name), signatures=layer.serve)
        with tf.Graph().as_default() as graph:
            x = tf.compat.v1.placeholder(tf.float32, [None, 8], name="x")
            tf.tanh(x @ tf.constant(value, shape=[8, 4]), name="y")
        (models / f"{name}.pb").write_bytes(graph.as_graph_def().SerializeToString())


def in_child(work: Callable[[], object], folder: Path) -> Any:
    """What `work` returns in a process of its own, of which the cache is in a folder; None if that
    is killed, also for taking too long."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        try:
            os.write(write, json.dumps(work()).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        if not select.select([pipe], [], [], PATIENCE)[0]:
            os.kill(child, signal.SIGKILL)
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if not text and status != signal.SIGKILL:
        print(f"{folder}: a process ended with status {status:#x}", file=sys.stderr, flush=True)
    return json.loads(text) if text else None


def files(path: Path) -> dict[str, str]:
    """A hash of each file of a target; none if it is not there."""
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in found
        if file.is_file()
    }


class Job:
    """A folder in which conversions of a case end, one after the other."""

    def __init__(self, folder: Path, case: Case, models: Path) -> None:
        self.case, self.folder, self.models = case, folder, models
        self.target, self.former = folder / "out" / "target", folder / "former" / "target"
        for path in (self.target, self.former):
            path.parent.mkdir(parents=True)
        if case.before is not None:
            self.convert(case.before, self.former, COUNT_ALL)
        self.old = files(self.former)
        self.restore()
        self.convert(case.run, self.target, COUNT_ALL)
        self.new = files(self.target)
        if not self.new or self.old == self.new or (case.before and not self.old):
            raise AssertionError(f"nothing is converted: {folder.with_suffix('.log').read_text()}")

    def convert(self, run: Conversion, target: Path, act: int, at: int = 0, error: int = 0) -> Any:
        """How many calls a conversion made, and the class of its error; None if it was killed."""
        library = ctypes.CDLL(None)
        library.kill_points_disarm.restype = ctypes.c_long

        def work() -> tuple[int, str]:
            wrong = None
            point = act, ctypes.c_long(at), error, not self.case.exchange
            library.kill_points_arm(os.fsencode(self.folder), *point)
            try:
                run(self.models, target)
            except BaseException as problem:
                wrong = problem
            calls = library.kill_points_disarm()
            print(act, at, error, calls, repr(wrong), file=sys.stderr, flush=True)
            return calls, type(wrong).__name__ if wrong else ""

        return in_child(work, self.folder)

    def restore(self) -> None:
        """Let all be as it was before the conversion."""
        shutil.rmtree(self.target.parent)
        shutil.copytree(self.former.parent, self.target.parent)
        if self.case.cold:
            for kind in (self.folder / "cache" / "sirius_tf").iterdir():
                if kind.name not in ("native", "zig"):
                    shutil.rmtree(kind)

    def ended(self, act: int, at: int, error: int) -> tuple[str, str]:
        """What a conversion that ends at a point leaves, and the class of its error."""
        self.restore()
        result = self.convert(self.case.run, self.target, act, at, error)
        if result is not None and result[0] <= at:
            return "past the end", ""
        left = "neither"
        if files(self.target) in (self.old, self.new) or not self.case.exchange:
            output.prepare_file(self.target, replace=True)
            if {self.target.name}.issuperset(os.listdir(self.target.parent)) and self.is_whole():
                found = files(self.target)
                left = "new" if found == self.new else "old" if found == self.old else left
        return left, ("" if act == KILL else "it hangs") if result is None else result[1]

    def is_whole(self) -> bool:
        """Whether all entries of the cache are."""
        for path in (self.folder / "cache" / "sirius_tf").rglob("*"):
            if path.is_file() and path.name[0] != "." and "zig" not in path.parts:
                with path.open("rb") as file:
                    if not store._is_whole(file, path.parent.name, path.name):
                        return False
        return True


def row(jobs: Sequence[Job], end: tuple[int, int], every: int) -> Counter[str]:
    """How often there was what, and which error, at each of the points."""
    act, error = end
    count = COUNT_ALL if act == FAIL else COUNT_CHANGES
    jobs[0].restore()
    calls, _ = jobs[0].convert(jobs[0].case.run, jobs[0].target, count)

    def part(k: int) -> Counter[str]:
        found = Counter[str]()
        for at in range(k * every, calls, len(jobs) * every):
            found.update(jobs[k].ended(act, at, error))
        return found

    with ThreadPoolExecutor(len(jobs)) as pool:
        return sum(pool.map(part, range(len(jobs))), Counter())


def main(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> int:
    """See the module."""
    import sirius_tf.driver  # noqa: F401  what is imported is not what is tested

    table = Table(box=SIMPLE_HEAD)
    for column in ("conversion", "ends", "points", "old", "new", "neither", "other errors"):
        table.add_column(column)
    neither = 0
    with tempfile.TemporaryDirectory() as name:
        models = Path(name, "models")
        models.mkdir()
        if in_child(lambda: export(models) or "done", models) is None:
            raise AssertionError(models.with_suffix(".log").read_text())
        for label in values.only or CASES:
            folders = [Path(name, label, str(k)) for k in range(values.jobs)]
            jobs = [Job(folder, CASES[label], models) for folder in folders]
            for end in values.ends or ENDS:
                found = row(jobs, ENDS[end], values.every)
                counts = [found.pop(key, 0) for key in ("old", "new", "neither")]
                others = [k for k in found if k not in ("", "past the end", "SiriusError")]
                cells = (label, end, sum(counts), *counts, ", ".join(others))
                table.add_row(*map(str, cells))
                print(*cells, sep=" | ", flush=True)
                neither += counts[2]
    Console(width=120).print(table)
    return int(neither > 0)


def run() -> None:
    """Preload the library that fails, and run the command."""
    flags.DEFINE_integer("every", 1, "Every how manieth point is taken.", lower_bound=1)
    flags.DEFINE_integer("jobs", 2, "Conversions at once.", lower_bound=1)
    flags.DEFINE_list("ends", None, "How they end; all ways unless given.")
    flags.DEFINE_list("only", None, "Conversions to look at; all unless given.")
    preload(Path(__file__), "kill_points_arm")
    app.run(main)


if __name__ == "__main__":
    run()
