# SPDX-License-Identifier: Apache-2.0
"""Runs of tests on mutants, in a copy of the tree.

Each run is a fork of this process, which has imported what tests import, but for the project.
"""

import contextlib
import importlib.util
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mutation.mutant import Mutant
from tests.support import ROOT

QUICK = ("numpy", "islpy", "hypothesis")
WHOLE = (*QUICK, "tensorflow")
CPU_SECONDS, WALL_SECONDS = 300, 900
OPTIONS = ("-x", "-n0", "-p", "no:cacheprovider", "--timeout=120")
EARLY = ("-W", "ignore::pytest.PytestAssertRewriteWarning")  # imports before pytest starts


@dataclass(frozen=True)
class Verdict:
    """`killed` names the test that failed, and how; empty: none did."""

    killed: str
    seconds: float

    @property
    def test(self) -> str:
        """The test that failed."""
        return self.killed.rpartition(" (")[0]


class Log:
    """A plugin of pytest: the first failure, or the test that never ended, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.path.write_text(f"{nodeid} (ended the process)")

    def pytest_runtest_logfinish(self) -> None:
        if not self.path.read_text().endswith("(failed)"):
            self.path.write_text("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.path.write_text(f"{report.nodeid} (failed)")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.path.write_text(f"{report.nodeid} (failed)")


@contextlib.contextmanager
def copied_tree() -> Iterator[Path]:
    """A copy of the tree as it is, which is deleted afterwards, with a cache of its own."""
    with tempfile.TemporaryDirectory(prefix="mutants_") as folder:
        root = Path(folder, "tree")
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
        for name in filter(None, names.split("\0")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
        yield root


def warm_up(modules: tuple[str, ...]) -> None:
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # as tests/conftest.py, before TensorFlow is there
    for module in modules:
        importlib.import_module(module)


def verdict_on(mutant: Mutant, root: Path, stages: list[list[str]]) -> Verdict:
    """The verdict of the tests, stage by stage: each stage is a list of arguments of pytest."""
    path = root / mutant.file
    original, times = path.read_text(), path.stat()
    began = time.monotonic()
    try:
        path.write_text(mutant.applied(original))
        killed = next(filter(None, (failure(root, stage) for stage in stages)), "")
    finally:
        path.write_text(original)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        # a mutant that is tried next may have the size, and be written in the second, of this one
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
    return Verdict(killed, round(time.monotonic() - began, 1))


def failure(root: Path, arguments: list[str]) -> str:
    """The first test that fails in a process of its own, or an empty text."""
    log = root.parent / "log"
    log.write_text("")
    child = os.fork()
    if not child:
        try:
            os.setsid()
            enter(root)
            code = pytest.main([*OPTIONS, *EARLY, *arguments], [Log(log)])
        except BaseException:
            traceback.print_exc()
            code = 3
        sys.stdout.flush()
        os._exit(int(code))
    code = exit_code(child)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it started
    return "" if code in (0, 5) else log.read_text() or f"{arguments[-1]} (does not begin)"


def enter(root: Path) -> None:
    """Turn this process into one that was started in the copy."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    output = os.open(root.parent / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(root)
    os.environ |= {"PYTHONPATH": str(root), "XDG_CACHE_HOME": str(root.parent / "cache")}
    sys.path = [str(root), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
    for name in [m for m in sys.modules if m.partition(".")[0] in ("tests", "sirius_tf")]:
        del sys.modules[name]


def exit_code(child: int) -> int:
    """How a process ended, which has so many seconds."""
    until = time.monotonic() + WALL_SECONDS
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGKILL
