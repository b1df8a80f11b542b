# SPDX-License-Identifier: Apache-2.0
"""Threads of a block wait for each other where one may need what another does, and only there."""

import pytest

from sirius_tf.codegen.cuda.hazards import Touched

pytestmark = pytest.mark.ir

BEFORE = Touched(frozenset({"a"}), frozenset({"b"}))


def after(read=(), written=(), memory=None):
    now = Touched(frozenset(read), frozenset(written))
    return BEFORE.followed_by(now, memory or {})


def test_what_others_made_is_waited_for() -> None:
    touched, lines = after(read="b")
    assert lines == ["__syncthreads(); // other threads may have made b"]
    assert touched == Touched(frozenset("b"))  # all before is done


def test_memory_that_is_used_again_is_waited_for() -> None:
    _, lines = after(written="c", memory={"c": "m", "a": "m"})
    assert lines == ["__syncthreads(); // others may still be using c"]
    assert after(written="c", memory={"c": "n", "a": "m"})[1] == []


@pytest.mark.parametrize("touched", [{"read": "a"}, {"read": "c"}, {"written": "b"}])
def test_nothing_else_is(touched) -> None:
    found, lines = after(**touched)
    assert lines == [] and found.read >= {"a"} and found.written >= {"b"}
