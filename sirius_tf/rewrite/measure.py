# SPDX-License-Identifier: Apache-2.0
"""Times of two calls that take turns."""

from __future__ import annotations

import time
from collections.abc import Callable

_SECONDS = 0.5  # of measuring, per pair
_ROUNDS = (5, 50)  # at least, at most
_MORE = 3  # measurements, if the second call is slower


def interleaved(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """The least times of two calls in milliseconds, taken in turns: other load only ever adds."""
    times: tuple[list[float], list[float]] = ([], [])
    for call in (first, second, first, second):
        call()
    end = time.perf_counter() + _SECONDS
    while len(times[0]) < _ROUNDS[0] or (len(times[0]) < _ROUNDS[1] and time.perf_counter() < end):
        for call, taken in zip((first, second), times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(1e3 * (time.perf_counter() - start))
    return min(times[0]), min(times[1])


def fairly(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """The same, taken again while the second call is slower, since the machine may be busy."""
    theirs, ours = interleaved(first, second)
    for _ in range(_MORE):
        if ours > theirs:
            again = interleaved(first, second)
            theirs, ours = min(theirs, again[0]), min(ours, again[1])
    return theirs, ours
