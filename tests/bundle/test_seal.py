# SPDX-License-Identifier: Apache-2.0
"""The end of a bundle's file: CRC-32C against its definition, and what is not whole."""

import random

import numpy as np
import pytest

from sirius_tf.bundle import seal
from sirius_tf.errors import SiriusError


def crc32c(data):
    """The definition, a bit at a time."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


BLOCK = 3 * 8192
SIZES = [*range(20), 4096, BLOCK - 1, BLOCK, BLOCK + 9, 2 * BLOCK + 8191]


def test_the_checksum_is_crc32c() -> None:
    assert seal.crc32c(b"123456789") == 0xE3069283
    data = np.random.default_rng(0).bytes(max(SIZES) + 1)
    for size in SIZES:
        assert seal.crc32c(data[:size]) == crc32c(data[:size])
        assert seal.crc32c(data[1 : size + 1]) == crc32c(data[1 : size + 1])  # unaligned


def test_checksums_go_on(tmp_path) -> None:
    data = np.random.default_rng(1).bytes(3 * BLOCK)
    for cut in (0, 1, 7, BLOCK, BLOCK + 3, len(data)):
        assert seal.crc32c(data[cut:], seal.crc32c(data[:cut])) == seal.crc32c(data)
    seal.write_sealed(tmp_path / "file", [data[:5], memoryview(data)[5:5], bytearray(data[5:])])
    written = (tmp_path / "file").read_bytes()
    assert written[: seal.content_size(written, tmp_path)] == data


def test_what_is_not_whole_is_refused(tmp_path) -> None:
    written = b"".join(seal.sealed([b"some content"]))
    for size in range(len(written)):
        with pytest.raises(SiriusError, match="cut short"):
            seal.content_size(written[:size], tmp_path)
    rng = random.Random(0)
    for bit in rng.sample(range(8 * len(written)), 100):
        damaged = bytearray(written)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SiriusError, match=r"cut short|damaged"):
            seal.content_size(damaged, tmp_path)
