# SPDX-License-Identifier: Apache-2.0
"""Limits of calls: blocks in blocks."""

import threading
import time

import pytest

from sirius_tf.runtime.limits import NONE, current, limited

pytestmark = pytest.mark.ir


def seconds_left():
    return (current.get().deadline - time.monotonic_ns()) / 1e9


def test_a_block_ends_with_its_limits() -> None:
    with pytest.raises(KeyError), limited(seconds=5):
        assert 4 < seconds_left() <= 5
        raise KeyError
    assert current.get() is NONE


def test_the_earliest_deadline_counts() -> None:
    with limited(seconds=5):
        with limited(seconds=50):
            assert seconds_left() <= 5
        with limited(seconds=1):
            assert seconds_left() <= 1
        with limited():
            assert 4 < seconds_left() <= 5
    with limited(seconds=-3):
        assert seconds_left() <= 0 < current.get().deadline


def test_the_innermost_event_counts() -> None:
    outer, inner = threading.Event(), threading.Event()
    with limited(cancelled=outer):
        with limited(seconds=5):
            outer.set()
            assert current.get().cancelled()
        with limited(cancelled=inner):
            assert not current.get().cancelled()


def test_other_threads_have_their_own() -> None:
    found = []
    with limited(seconds=5):
        thread = threading.Thread(target=lambda: found.append(current.get()))
        thread.start()
        thread.join()
    assert found == [NONE]
