# SPDX-License-Identifier: Apache-2.0
"""The pass to blame for results that made a conversion start again with strict arithmetic."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from sirius_tf.config import Options
from sirius_tf.debug.differences import Finding
from sirius_tf.debug.passes import in_passes
from sirius_tf.debug.rounding import roughest
from sirius_tf.driver.kernels import pipeline_of
from sirius_tf.driver.sampled import Sampled, sampled
from sirius_tf.driver.steps import threads_of
from sirius_tf.errors import defect
from sirius_tf.schedule.machine import cpu
from sirius_tf.schedule.plan import work

LARGEST = 1 << 31
"""Points of a program that is interpreted after each pass, at most: some seconds for each."""


def blamed(
    source: str | os.PathLike[str],
    signatures: Sequence[str] | None,
    samples: Mapping[str, Any] | None,
    options: Options,
) -> str:
    """The pass to blame, its region, and the reason, as text: the first pass that is wrong, else
    the one whose rounding is felt most; else that none was found, and why."""
    try:
        regions = sampled(source, signatures=signatures, samples=samples)
        return _blamed(regions, options)
    except Exception as error:  # no diagnosis may cost a model that is converted
        return f"not known, since {defect(error)}"


def _blamed(regions: Sequence[Sampled], options: Options) -> str:
    machine, passes = cpu(threads_of(options)), pipeline_of(options)
    rough = [(0.0, "no pass by itself, on these samples")]
    for region in regions:
        program, inputs = region.program, region.inputs
        if sum(work(s, program.hints) for s in program.statements) > LARGEST:
            advice = f"sirius-inspect --bisect --region={region.name} takes long, but finds it"
            rough[0] = 0.0, f"not known, since region {region.name} is large: {advice}"
            continue
        if found := in_passes(program, inputs, machine, passes):
            return _told(found, region)
        if felt := roughest(program, inputs, machine, passes):
            rough.append((felt[0], _told(felt[1], region)))
    return max(rough)[1]


def _told(found: Finding, region: Sampled) -> str:
    place = f"in region {region.name}"
    place += f", at {found.statement.partition(': ')[0]}" if found.statement else ""
    return f"{found.stage} ({place}): {found.problem}"
