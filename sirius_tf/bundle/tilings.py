# SPDX-License-Identifier: Apache-2.0
"""Tile sizes that tools/tune.py has measured: a file of the cache for each kind of processor.

{ key of a cluster: tile sizes }. What another version of the compiler has measured is not read: its
code was other code. A file that is damaged is one without entries.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from sirius_tf.bundle import cache

Sizes = tuple[int, ...]


def path() -> Path:
    """The file of this machine's processor, and of this version of the compiler."""
    digest = hashlib.sha256(f"{cache.version()} {cache.processor()}".encode()).hexdigest()
    return cache.directory() / "tilings" / f"{digest}.json"


def read() -> dict[str, Sizes]:
    """All tile sizes, by the key of the cluster."""
    content: object = None
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path().read_bytes())
    entries = content.items() if isinstance(content, dict) else ()
    return {key: tuple(sizes) for key, sizes in entries if _are_sizes(sizes)}


def write(tilings: Mapping[str, Sizes]) -> None:
    """Replace all tile sizes."""
    cache.write(path(), json.dumps(tilings, indent=0, sort_keys=True).encode())


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(size) is int for size in value)
