# SPDX-License-Identifier: Apache-2.0
"""What calls take of memory, and how long they keep it."""

import ctypes
import subprocess
import sys

import numpy as np
import pytest

from sirius_tf.bundle.link import ISAS, link
from sirius_tf.codegen import entry
from sirius_tf.compile import compile_program
from sirius_tf.errors import InvalidArgument
from sirius_tf.ir import interp
from sirius_tf.runtime import native
from tests.support import programs

GB = 1 << 30
SECOND = 1_000_000_000


class Workspace(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_size_t),
        ("reserved", ctypes.c_int32),
    )


class Pool:
    """The workspaces of this process, at times that are made up."""

    def __init__(self):
        self.library = native.library()
        self.take_workspace = self.library.sirius_take_workspace
        self.take_workspace.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p)
        self.give_workspace = self.library.sirius_give_workspace
        self.give_workspace.argtypes = (Workspace, ctypes.c_int64)
        self.library.sirius_idle_bytes.restype = ctypes.c_int64

    def take(self, size, certain=None):
        workspace = Workspace()
        assert not self.take_workspace(
            size, size if certain is None else certain, ctypes.byref(workspace)
        )
        return workspace

    def give(self, workspace, seconds=0):
        self.give_workspace(workspace, int(seconds * SECOND))

    @property
    def idle(self):
        return self.library.sirius_idle_bytes()


def alone(check):
    """Run a function of this module in a process that has no workspaces yet."""
    code = f"from tests.runtime import test_memory; test_memory.{check.__name__}()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def workspaces_go_when_they_have_been_idle():
    pool = Pool()
    small, large = pool.take(1 << 20), pool.take(300 << 20)
    pool.give(large, 0)
    pool.give(small, 0)
    for second in range(0, 61, 10):  # small calls leave the large one alone
        again = pool.take(1 << 20)
        assert (again.data, pool.idle) == (small.data, 300 << 20)
        pool.give(again, second)
    pool.give(pool.take(1 << 20), 61)
    assert pool.idle == 1 << 20


def what_fits_is_used_again():
    pool = Pool()
    first = pool.take(100_000)
    pool.give(first)
    second = pool.take(60_000)
    assert second.data == first.data
    pool.give(second)
    third = pool.take(10_000)
    assert third.data != first.data and pool.idle == 100_000


def workspaces_have_a_limit():
    pool = Pool()
    taken = [pool.take(GB // 4) for _ in range(10)]
    for second, workspace in enumerate(taken):
        pool.give(workspace, second)
    assert pool.idle == GB
    assert [pool.take(GB // 4).data for _ in range(4)] == [w.data for w in taken[:5:-1]]
    large = pool.take(3 * GB)
    pool.give(large)
    assert pool.idle == 3 * GB
    pool.give(pool.take(1000))
    assert pool.idle == 1000


def addresses_need_no_memory():
    pool = Pool()
    reserved = pool.take(1 << 45, 1000)
    ctypes.memset(reserved.data + (1 << 44), 1, 1000)
    pool.give(reserved)
    assert reserved.reserved and pool.idle == 0
    assert (
        pool.take_workspace(1 << 46, 1 << 45, ctypes.byref(Workspace())) == 1
    )  # certain is too much


@pytest.mark.parametrize(
    "check",
    [
        workspaces_go_when_they_have_been_idle,
        what_fits_is_used_again,
        workspaces_have_a_limit,
        addresses_need_no_memory,
    ],
    ids=lambda check: check.__name__,
)
def test_workspaces(check):
    alone(check)


def grows(tmp_path, limits, *width):
    """Whether a loop's results are right for upper bounds; the bundle that it is in."""
    program = programs.growth(*width)
    link([compile_program(program)], tmp_path / "x.so", {}, isas=[ISAS[native.isa()]])
    bundle = native.Bundle(tmp_path / "x.so")
    for limit in limits:
        few = {"x": np.float32(1.9), "limit": np.int64(min(limit, 1000))}
        (want,) = interp.run(program, few)
        (have,) = bundle.call("growth", [np.float32(1.9), np.int64(limit)])
        np.testing.assert_array_equal(have, want)
    return bundle


def test_a_bound_that_is_as_good_as_none(tmp_path):
    grows(tmp_path, [0, 5, 51, 52, 53, 2**31 - 1, 2**43, 2**46])


def test_a_bound_that_is_as_good_as_none_of_rows_of_64_kb(tmp_path):
    grows(tmp_path, [0, 5, 51, 52, 53, 2**31 - 1, 2**43], 1 << 14)


def test_a_loop_that_needs_more_than_there_are_addresses_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(entry, "GROWN", 4 * 50)  # 52 iterations are run
    bundle = grows(tmp_path, [0, 5, 49])
    for limit in (50, 60, 2**31):
        with pytest.raises(InvalidArgument, match="49 iterations of a loop need more than"):
            bundle.call("growth", [np.float32(1.9), np.int64(limit)])
