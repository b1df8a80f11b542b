# SPDX-License-Identifier: Apache-2.0
"""occupancy.py against values that NVIDIA's cuda_occupancy.h (CUDA 13.0) returned."""

import pytest

from sirius_tf.mapping.occupancy import (
    ARCHITECTURES,
    blocks_per_sm,
    cooperative_limit,
    shared_of_block,
)

pytestmark = pytest.mark.ir

# architecture, threads, registers, bytes of shared memory, blocks
KNOWN = [
    ("sm_80", 256, 96, 2048, 2),
    ("sm_80", 256, 166, 4096, 1),
    ("sm_80", 128, 72, 24576, 6),
    ("sm_86", 32, 16, 0, 16),
    ("sm_86", 256, 40, 30000, 3),
    ("sm_86", 128, 64, 101376, 1),
    ("sm_89", 32, 16, 0, 24),
    ("sm_89", 192, 50, 20000, 4),
    ("sm_89", 1024, 65, 0, 0),
    ("sm_90", 128, 72, 24576, 7),
    ("sm_90", 256, 96, 2048, 2),
    ("sm_90", 256, 166, 4096, 1),
    ("sm_90", 512, 128, 204800, 1),
    ("sm_90", 1024, 64, 0, 1),
    ("sm_90a", 96, 30, 0, 21),
]


@pytest.mark.parametrize(("arch", "threads", "registers", "shared", "blocks"), KNOWN)
def test_blocks_per_sm(arch, threads, registers, shared, blocks):
    assert blocks_per_sm(arch, threads, registers, shared) == blocks


def test_what_no_sm_runs():
    for arch, limits in ARCHITECTURES.items():
        assert blocks_per_sm(arch, 1024, 64, limits.shared_per_block) == 1
        assert blocks_per_sm(arch, 1024, 64, limits.shared_per_block + 1) == 0
        assert blocks_per_sm(arch, 1056, 32, 0) == 0
        assert blocks_per_sm(arch, 32, 256, 0) == 0


def test_cooperative_limit():
    assert cooperative_limit("sm_90", 128, 72, 24576) == 7 * 132
    assert cooperative_limit("sm_80", 256, 166, 4096) == 108
    assert cooperative_limit("sm_90", 256, 96, 2048, sms=114) == 2 * 114


@pytest.mark.parametrize("blocks", [1, 2, 3, 5])
def test_shared_of_block(blocks):
    """As many blocks have that much, and no more."""
    for arch in ARCHITECTURES:
        most = shared_of_block(arch, blocks)
        assert blocks_per_sm(arch, 128, 64, most) == blocks
        assert blocks_per_sm(arch, 128, 64, most + 128) < blocks
