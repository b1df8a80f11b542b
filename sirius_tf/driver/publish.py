# SPDX-License-Identifier: Apache-2.0
"""A draft becomes the model, unless its results differ."""

from __future__ import annotations

import functools
import time
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


def published(source: Path, target: Path, made: Draft, options: Options, start: float) -> Result:
    """Compare a draft with the original, and move it to the target.

    If a comparison of the same bytes on the same samples is remembered, there is nothing to load.
    """
    stage = stages(options)
    stage("check")
    samples, tolerances = made.samples, made.tolerances
    random = {report.name: report.random for report in made.reports}
    compare = functools.partial(
        check.compare, source, made.work, made.tags, samples, tolerances, random
    )
    arrays = [(n, key, array_digest(x)) for n in samples for key, x in samples[n].items()]
    key = (made.content, arrays, sorted(tolerances.items()), machine())
    measured = cache.remembered("checks", key, compare)
    stage("write")
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
