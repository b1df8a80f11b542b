# SPDX-License-Identifier: Apache-2.0
"""The files of a checkpoint: their hash, and where in them a tensor is.

`variables.index` is a table as LevelDB writes them: blocks of sorted entries, of which each key
omits what it shares with the one before. The last block but for the footer is an index of blocks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tensorflow.core.protobuf import tensor_bundle_pb2

from sirius_tf.errors import SiriusError

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_OFFSET, _PRIME = 0xCBF29CE484222325, 0x100000001B3
_MASK = 0xA282EAD8  # of checksums


@dataclass(frozen=True)
class Place:
    """A tensor's file, relative to the SavedModel, its offset there, and CRC-32C of its bytes."""

    file: str
    offset: int
    crc32c: int


def variables_hash(model: Path) -> str:
    """FNV-1a-64 of variables.index in hex; empty for a model without variables."""
    index = model / "variables" / "variables.index"
    if not index.exists():
        return ""
    value = _OFFSET
    for byte in index.read_bytes():
        value = ((value ^ byte) * _PRIME) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def tensor_places(model: Path) -> dict[str, Place]:
    """The place of each tensor of a checkpoint, by its key; tensors in parts are left out."""
    index = model / "variables" / "variables.index"
    data = index.read_bytes()
    header = tensor_bundle_pb2.BundleHeaderProto()
    places: dict[str, Place] = {}
    for key, value in _entries(index, data):
        if not key:
            header.ParseFromString(value)
            continue
        entry = tensor_bundle_pb2.BundleEntryProto.FromString(value)
        if not entry.slices:
            file = f"variables/variables.data-{entry.shard_id:05d}-of-{header.num_shards:05d}"
            place = Place(file, int(entry.offset), _unmasked(entry.crc32c))
            places[key.decode(errors="replace")] = place
    return places


def _unmasked(checksum: int) -> int:
    """CRC-32C as it is computed; TensorFlow rotates and shifts it, for it may be among the data."""
    rotated = (checksum - _MASK) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def _entries(path: Path, data: bytes) -> Iterator[tuple[bytes, bytes]]:
    if len(data) < _FOOTER or struct.unpack("<Q", data[-8:])[0] != _MAGIC:
        raise SiriusError(f"{path} is not the index of a checkpoint: save the model anew")
    _, at = _handle(data, len(data) - _FOOTER)
    (offset, size), _ = _handle(data, at)
    for _, handle in _block(path, data, offset, size):
        (offset, size), _ = _handle(handle, 0)
        yield from _block(path, data, offset, size)


def _block(path: Path, data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    if data[offset + size] != 0:
        raise SiriusError(f"{path} is compressed; save the model anew with TensorFlow")
    (restarts,) = struct.unpack("<I", data[offset + size - 4 : offset + size])
    at, end, key = offset, offset + size - 4 * (restarts + 1), b""
    while at < end:
        shared, at = _varint(data, at)
        fresh, at = _varint(data, at)
        length, at = _varint(data, at)
        key = key[:shared] + data[at : at + fresh]
        at += fresh
        yield key, data[at : at + length]
        at += length


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
