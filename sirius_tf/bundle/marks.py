# SPDX-License-Identifier: Apache-2.0
"""Places of a bundle's file that are rewritten when it is finished.

A place is a mark of 16 bytes, its size in bytes as int64, and its content at the next multiple of
64 bytes.
"""

from __future__ import annotations

import json
import mmap
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sirius_tf.bundle import files
from sirius_tf.errors import SiriusError

ALIGN = 64
MARK_BYTES = 16


def mark(name: str) -> bytes:
    """The bytes before a place, which name it."""
    return f"sirius {name}".encode().ljust(MARK_BYTES, b"\0")


def head(name: str, size: int) -> bytes:
    """The bytes before the content of a place of some size: its mark, and the size."""
    return (mark(name) + size.to_bytes(8, "little")).ljust(ALIGN, b"\0")


def places(data: bytes | bytearray | mmap.mmap, name: str) -> Iterator[slice]:
    """The contents of all places of a name. SiriusError if one is not inside of the data."""
    at = data.find(mark(name))
    while at >= 0:
        size = int.from_bytes(data[at + MARK_BYTES : at + MARK_BYTES + 8], "little")
        if at + ALIGN + size > len(data):
            raise SiriusError(f"not a whole bundle: its {name} end behind it")
        yield slice(at + ALIGN, at + ALIGN + size)
        at = data.find(mark(name), at + ALIGN + size)


def edit_manifest(data: bytearray, bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest in the data of a bundle; SiriusError if there is no room for it."""
    (place,) = places(data, "manifest")
    manifest = json.loads(bytes(data[place]))
    change(manifest)
    text, room = json.dumps(manifest).encode(), place.stop - place.start
    if len(text) > room:
        raise SiriusError(f"{bundle} has no room for its new manifest: convert the model anew")
    data[place] = text.ljust(room)


def replace_file(path: Path, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
    """Write a file at once, of pieces: who has the old one open keeps it."""
    with files.written(path, durable=True) as file:
        if path.exists():
            os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
        file.writelines(pieces)
