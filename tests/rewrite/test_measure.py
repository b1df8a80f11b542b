# SPDX-License-Identifier: Apache-2.0
"""Times of calls that take turns."""

import pytest

from sirius_tf.rewrite import measure


def test_the_least_times_count(monkeypatch):
    clock, turns = [0.0], []

    def call(name, milliseconds):
        left = iter(milliseconds)

        def run():
            turns.append(name)
            clock[0] += next(left) / 1000

        return run

    monkeypatch.setattr(measure, "_SECONDS", 0.0)
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    warm = [0.5, 0.5]
    first, second = call("first", [*warm, 4, 2, 8, 6, 9]), call("second", [*warm, 7, 5, 3, 9, 9])
    assert measure.interleaved(first, second) == pytest.approx((2, 3))
    assert turns == ["first", "second"] * 7
