# SPDX-License-Identifier: Apache-2.0
"""GPUs that code is made for."""

from __future__ import annotations

from collections.abc import Sequence

from sirius_tf.config import Precision
from sirius_tf.errors import SiriusError
from sirius_tf.mapping.occupancy import ARCHITECTURES, shared_of_block
from sirius_tf.schedule.gpu_costs import BLOCKS_PER_SM
from sirius_tf.schedule.machine import Machine, gpu


def machine_of(arch: str, precision: Precision = "strict", others: Sequence[str] = ()) -> Machine:
    """The usual GPU of an architecture ("sm_90"), with no more shared memory for a block than it
    has on `others`; SiriusError if one is not known."""
    for name in (arch, *others):
        if name not in ARCHITECTURES:
            raise SiriusError(f"architecture {name} is none of {', '.join(ARCHITECTURES)}")
    shared = min(shared_of_block(name, BLOCKS_PER_SM) for name in (arch, *others))
    return gpu(ARCHITECTURES[arch].sms, shared, precision)
