# SPDX-License-Identifier: Apache-2.0
"""Failures of the compiler that nobody foresaw: what is kept of them."""

from __future__ import annotations

import contextlib
import traceback

from sirius_tf.bundle import store
from sirius_tf.errors import defect
from sirius_tf.frontend.graph import show
from sirius_tf.rewrite.regions import Region


def noted(region: Region, error: Exception) -> str:
    """The reason why a region stays on TensorFlow, and the file that shows the failure and the
    region's graph: what a bug report needs."""
    reason = defect(error)
    text = "".join(traceback.format_exception(error)) + "\n" + show(region.graph) + "\n"
    folder = store.directory()
    if folder is None:
        return reason
    with contextlib.suppress(OSError):
        path = folder / "failures" / f"{region.name}-{region.digest[:12]}.txt"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_text(text)
        return f"{reason} (see {path})"
    return reason
