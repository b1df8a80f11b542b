# SPDX-License-Identifier: Apache-2.0
"""Tile sizes that tools/tune.py has measured: an entry of the store for each kind of processor.

{ key of a cluster: tile sizes }. What another version of the compiler has measured is not read: its
code was other code. A file that is damaged is one without entries.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from sirius_tf.bundle import cache, store
from sirius_tf.errors import SiriusError

Sizes = tuple[int, ...]
_KIND = "tilings"


def read() -> dict[str, Sizes]:
    """All tile sizes, by the key of the cluster."""
    content = json.loads(store.read(_KIND, _name()) or b"{}")
    return {key: tuple(sizes) for key, sizes in content.items()}


def write(tilings: Mapping[str, Sizes]) -> None:
    """Replace all tile sizes; SiriusError if they cannot be kept."""
    content = json.dumps(tilings, indent=0, sort_keys=True).encode()
    if store.keep(_KIND, _name(), lambda entry: entry.write(content)) is None:
        raise SiriusError(
            "the tile sizes cannot be kept, since the cache cannot be written: set XDG_CACHE_HOME"
        )


def _name() -> str:
    """The name of the entry for this machine's processor, and for this version of the compiler."""
    return hashlib.sha256(f"{cache.version()} {cache.processor()}".encode()).hexdigest()
