# SPDX-License-Identifier: Apache-2.0
"""A program that is scheduled: what is printed as code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sirius_tf.ir.program import Program
from sirius_tf.nest.nodes import LoopNest
from sirius_tf.schedule.machine import Machine
from sirius_tf.schedule.plan import Plan
from sirius_tf.schedule.storage import Storage


@dataclass(frozen=True)
class Scheduled:
    """A program with its loops, how each statement is computed, where temporaries are kept, and the
    machine all that was decided for."""

    program: Program
    nest: LoopNest
    plans: Mapping[str, Plan]
    storage: Storage
    machine: Machine
