# SPDX-License-Identifier: Apache-2.0
"""Short versions of what docs/reliability.md has run for long: hostile requests, allocations that
fail, and a soak."""

import shutil
import subprocess
import sys

import pytest

from tests.reliability import allocations, hostile
from tests.support import ROOT, sanitized

sanitizers = pytest.mark.skipif(not shutil.which("gcc"), reason="gcc has the runtimes")
HOSTILE = (
    "slice, int64",
    "tile, int32",
    "gather a row, int64",
    "functions of two numbers, float32",
)


@sanitizers
def test_hostile_requests():
    cases = [c for c in hostile.CASES if c.name in HOSTILE]
    assert len(cases) == len(HOSTILE)
    counts = hostile.measure(cases, 25)
    assert counts["calls"] == 2 * len(hostile.WORKERS) * counts["distinct requests"] >= 600
    assert counts["refused by TensorFlow"] > 20
    assert not counts["ended by a signal, or with a leak"] + counts["other than TensorFlow"]


@sanitizers
def test_allocations_that_fail(tmp_path):
    host = sanitized.build_host(tmp_path)
    assert allocations.measure("dense", host, tmp_path / "p") == [(1, 1, 0), (3, 1, 2)]


@pytest.mark.parametrize(
    "command",
    [
        ("soak", "--seconds=4"),
        ("soak_calls", "--calls=200000"),
        ("allocations_op", "--only=dense,70 outputs"),
    ],
    ids=lambda command: command[0],
)
def test_command(command):
    """In a process of its own, since these fork, or preload a library."""
    module, *options = command
    words = [sys.executable, "-m", f"tests.reliability.{module}", *options]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr[-2000:])
    assert done.returncode == 0
