# SPDX-License-Identifier: Apache-2.0
"""The end of a bundle's file, by which whoever opens it knows that it is whole.

content | mark, 16 bytes | bytes of the file, int64 | 0, int32 | CRC-32C of all before, uint32
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from sirius_tf.bundle import library, marks
from sirius_tf.errors import SiriusError

Piece = bytes | bytearray | memoryview
_MARK = marks.mark("sealed")
_SEAL = struct.Struct("<16sqiI")


def write_sealed(path: Path, pieces: Iterable[Piece]) -> None:
    """Write the file of a bundle at once, of the pieces of its content."""
    marks.replace_file(path, sealed(pieces))


def sealed(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The pieces of a content, and what its file ends with."""
    size, checksum = 0, 0
    for piece in pieces:
        size, checksum = size + len(piece), crc32c(piece, checksum)
        yield piece
    head = _SEAL.pack(_MARK, size + _SEAL.size, 0, 0)[:-4]
    yield head + struct.pack("<I", crc32c(head, checksum))


def content_size(data: Piece | mmap.mmap, path: Path) -> int:
    """The bytes of a bundle's file that are its content; SiriusError if the file is not whole."""
    size = len(data) - _SEAL.size
    mark, total, _, checksum = _SEAL.unpack_from(data, size) if size >= 0 else (b"", 0, 0, 0)
    if (mark, total) != (_MARK, len(data)):
        raise SiriusError(f"{path} is not a sirius_tf bundle of this version, or was cut short")
    if crc32c(data, size=len(data) - 4) != checksum:
        raise SiriusError(f"{path} is damaged: restore it, or convert the model again")
    return size


def crc32c(data: Piece | mmap.mmap, before: int = 0, size: int | None = None) -> int:
    """CRC-32C of the first `size` bytes (all unless given), which go on where `before` ended."""
    array = np.frombuffer(data, np.uint8)
    return _crc32c()(before, array.ctypes.data, array.nbytes if size is None else size)


@functools.cache
def _crc32c() -> Callable[[int, int, int], int]:
    function = library.load().sirius_crc32c
    function.restype = ctypes.c_uint32
    function.argtypes = (ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t)
    return function
