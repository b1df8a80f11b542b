# SPDX-License-Identifier: Apache-2.0
"""How many workers a call has, on which CPUs they are, and what signals they take."""

import os
import subprocess
import sys

import numpy as np
import pytest

from sirius_tf.bundle import cc
from sirius_tf.runtime import native
from tests.support import ROOT
from tests.support.example import build_example
from tests.support.workers import exactly

pytestmark = pytest.mark.skipif(native.default_threads() < 2, reason="there is one CPU")

BEGIN = """
import os, sys, threading
import numpy as np
from sirius_tf.runtime import native

bundle = native.Bundle(sys.argv[1])

def call(n, threads=0):
    x = np.arange(n, dtype="f")
    return bundle.call("axpb", [x, np.float32(3), x], threads)[0]

def workers(threads=0):  # 17 elements are told how many there were
    return int(call(17, threads)[-1]) // 10

def masks():
    tasks = [int(t) for t in os.listdir("/proc/self/task") if int(t) != os.getpid()]
    return [os.sched_getaffinity(t) for t in tasks]

cpus = os.sched_getaffinity(0)
one = {min(cpus)}
"""


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return build_example(tmp_path_factory.mktemp("example"))


def child(example, text, **environment):
    """Run a text behind BEGIN; returns its exit status and what it wrote to stderr."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + text, example],
        env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_so_many_workers_as_a_test_wants(example, workers):
    x = np.arange(17, dtype="f")
    (y,) = exactly(native.Bundle(example), "axpb", [x, np.float32(3), x], workers)
    assert int(y[-1]) == 11 * workers


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_denormals_are_zeros_for_workers_and_numbers_for_who_calls(example, workers):
    tiny = np.full(1000, 1e-40, "f")
    arrays = [tiny, np.float32(1), np.zeros(1000, "f")]
    (y,) = exactly(native.Bundle(example), "axpb", arrays, workers)
    assert y.tobytes() == bytes(y.nbytes)
    assert np.all(tiny * np.float32(1) != 0)


def test_a_pinned_thread_has_one_worker_and_the_others_have_all(example):
    text = """
def pinned():
    os.sched_setaffinity(0, one)
    assert workers() == 1 and native.default_threads() == 1

thread = threading.Thread(target=pinned)
thread.start()
thread.join()
assert workers() > 1 and native.default_threads() > 1
"""
    assert child(example, text) == (0, "")


def test_workers_follow_the_thread_that_calls(example):
    text = """
workers()
assert masks() == [cpus], masks()
for mask in (one, cpus):
    os.sched_setaffinity(0, mask)
    with native.exactly(2):
        call(100)
    assert masks() == [mask], (mask, masks())
"""
    assert child(example, text, SIRIUS_THREADS="2", OPENBLAS_NUM_THREADS="1") == (0, "")


def test_workers_may_be_left_where_they_are(example):
    text = """
workers()
os.sched_setaffinity(0, one)
with native.exactly(2):
    call(100)
assert masks() == [cpus], masks()
"""
    environment = {"SIRIUS_THREADS": "2", "SIRIUS_MOVE": "0", "OPENBLAS_NUM_THREADS": "1"}
    assert child(example, text, **environment) == (0, "")


def test_one_worker_goes_on_where_the_other_has_lost_its_cpu(example, tmp_path):
    """Two calls in a row that wait let one worker do the next ones, for twice as long each time."""
    text = """
from itertools import groupby
seen = [int(call(17, 2)[-1]) for _ in range(150)]  # workers at first and in the end of each call
turns = [(workers, len(list(calls))) for workers, calls in groupby(seen)]
(_, begin), (_, short), (_, again), (_, long) = turns[:4]
assert [workers for workers, _ in turns[:4]] == [21, 11, 21, 11], turns
assert (begin, again) == (2, 2) and short > 9 and abs(long - 2 * short) <= 1, turns
"""
    clock = tmp_path / "clock.so"
    cc.compile_shared([ROOT / "tests" / "support" / "clock.c"], clock, ["-O1"])
    assert child(example, text, LD_PRELOAD=str(clock)) == (0, "")


@pytest.mark.parametrize("value", ["", "0", "-1", "two", "3x"])
def test_a_number_of_threads_that_is_none_is_reported_once(example, value):
    text = "assert workers() > 1"
    line = f"sirius_tf: SIRIUS_THREADS={value} is no positive integer, and is ignored\n"
    assert child(example, text, SIRIUS_THREADS=value) == (0, line)


def test_the_number_of_threads_may_be_set(example):
    assert child(example, "assert workers() == 3", SIRIUS_THREADS="3") == (0, "")
    assert child(example, "assert workers() == 1", SIRIUS_THREADS="1") == (0, "")


def test_a_crash_of_a_worker_reaches_the_handler(example):
    text = "import faulthandler; faulthandler.enable()\nwith native.exactly(2): call(19)"
    status, written = child(example, text)
    assert status == -11 and "Fatal Python error: Segmentation fault" in written


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 256),
        ("0::/pod/box\n", {"pod/cpu.max": "300000 100000\n", "pod/box/cpu.max": "max 100000\n"}, 3),
        ("0::/pod/box\n", {"pod/cpu.max": "300000 100000\n", "pod/box/cpu.max": "1 100000\n"}, 1),
        ("0::/of/the/host\n", {"cpu.max": "400000 100000\n"}, 4),
        (
            "5:memory:/a\n4:cpu,cpuacct:/a\n0::/\n",
            {"cpu/a/cpu.cfs_quota_us": "250000\n", "cpu/a/cpu.cfs_period_us": "50000\n"},
            5,
        ),
        (
            "3:cpuacct,cpu:/\n2:cpuset:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            256,
        ),
        ("3:cpuset:/a\n", {"cpu/a/cpu.cfs_quota_us": "1\n", "cpu/a/cpu.cfs_period_us": "1\n"}, 256),
    ],
)
def test_quotas_of_control_groups(tmp_path, membership, files, quota):
    (tmp_path / "cgroup").write_text(membership)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    places = (bytes(tmp_path / "cgroup"), bytes(tmp_path))
    assert native.library().sirius_cpu_quota(*places) == quota
    assert native.library().sirius_cpu_quota(b"/none", bytes(tmp_path)) == 256
