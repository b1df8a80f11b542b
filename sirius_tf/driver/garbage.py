# SPDX-License-Identifier: Apache-2.0
"""Python's collector of circles, which looks less often while a model is converted."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_RARELY = (50_000, 20, 50)  # new objects, and collections of a generation, before the next one
_lock = threading.Lock()
_before: list[tuple[int, int, int]] = []  # of each conversion under way: what the first one found


@contextmanager
def rarely_collected() -> Iterator[None]:
    """Let the collector look rarely: the compiler's values are trees of millions of objects, which
    are counted references alone and would be walked again and again. The last conversion that ends
    restores what the first one found."""
    with _lock:
        _before.append(_before[0] if _before else gc.get_threshold())
        gc.set_threshold(*_RARELY)
    try:
        yield
    finally:
        with _lock:
            found = _before.pop()
            if not _before:
                gc.set_threshold(*found)
