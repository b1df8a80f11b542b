# SPDX-License-Identifier: Apache-2.0
"""Limits of calls: a deadline, and an event that cancels them."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """A deadline by time.monotonic_ns, 0 if there is none; and whether calls are cancelled."""

    deadline: int = 0
    cancelled: Callable[[], bool] | None = None


NONE = Limits()
current: ContextVar[Limits] = ContextVar("sirius_tf_limits", default=NONE)


@contextlib.contextmanager
def limited(seconds: float = math.inf, cancelled: threading.Event | None = None) -> Iterator[None]:
    """End calls of this thread, or task, that are in this block for too long, or once they shall.

    A call raises DeadlineExceeded, a TimeoutError, once the block, or one around it, has taken so
    many seconds, and Cancelled once the event of the innermost block that has one is set. Calls on
    a GPU end as they do.
    """
    outer = current.get()
    deadline = outer.deadline
    if seconds < math.inf:
        own = time.monotonic_ns() + max(int(seconds * 1e9), 0)
        deadline = min(own, deadline or own)
    token = current.set(Limits(deadline, cancelled.is_set if cancelled else outer.cancelled))
    try:
        yield
    finally:
        current.reset(token)
