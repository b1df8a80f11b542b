# SPDX-License-Identifier: Apache-2.0
"""A program that is scheduled: what is printed as code."""

from __future__ import annotations

from dataclasses import dataclass

from sirius_tf.ir.program import Program
from sirius_tf.nest.nodes import LoopNest
from sirius_tf.schedule.machine import Machine
from sirius_tf.schedule.storage import Storage


@dataclass(frozen=True)
class Scheduled:
    """A program with its loops, where its temporaries are kept, and what that was made for."""

    program: Program
    nest: LoopNest
    storage: Storage
    machine: Machine
