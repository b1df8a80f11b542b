# SPDX-License-Identifier: Apache-2.0
"""A draft becomes the model, unless its results differ."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from pathlib import Path

from sirius_tf.bundle import cache
from sirius_tf.config import Options
from sirius_tf.driver.comparison import machine
from sirius_tf.driver.draft import Draft
from sirius_tf.driver.steps import stages
from sirius_tf.report import Result
from sirius_tf.rewrite import check, output
from sirius_tf.rewrite.canonical import array_digest
from sirius_tf.runtime import native


def compared(source: Path, made: Draft, options: Options) -> Mapping[str, check.Measured]:
    """The measurements, by signature, of a comparison of a draft with the original.

    If one of the same bytes on the same samples is remembered, there is nothing to load.
    """
    stages(options)("check")
    samples, tolerances = made.samples, made.tolerances
    random = {report.name: report.random for report in made.reports}
    compare = functools.partial(
        check.compare,
        source,
        made.work,
        made.tags,
        samples,
        tolerances,
        random,
        made.twice,
        made.twins,
    )
    arrays = [(n, key, array_digest(x)) for n in samples for key, x in samples[n].items()]
    key = (made.content, arrays, sorted(tolerances.items()), sorted(made.twins.items()), machine())
    return cache.remembered("checks", key, compare, _is_fast)


def _is_fast(measured: Mapping[str, check.Measured]) -> bool:
    """Whether nothing is slower; what was, on a busy machine, may not be another time."""
    return not any(one.slower for one in measured.values())


def published(
    target: Path,
    made: Draft,
    measured: Mapping[str, check.Measured],
    options: Options,
    start: float,
) -> Result:
    """Move a draft, of which results are right, to the target."""
    stages(options)("write")
    output.publish(made.work, target, options.force)
    path = target / "assets" / made.bundle
    exists = path.exists()
    return Result(
        target,
        path if exists else None,
        tuple(check.completed(report, measured.get(report.name)) for report in made.reports),
        time.monotonic() - start,
        output.size(target),
        path.stat().st_size if exists else 0,
        native.Bundle(path).manifest.get("cuda", {}).get("state", "") if exists else "",
        skipped=made.skipped,
    )
