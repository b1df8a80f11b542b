# SPDX-License-Identifier: Apache-2.0
"""Failures of the compiler that nobody foresaw: what is kept of them."""

from __future__ import annotations

import contextlib
import traceback

from sirius_tf.bundle import store
from sirius_tf.errors import SiriusError, VerifyError, defect
from sirius_tf.frontend.graph import show
from sirius_tf.rewrite.regions import Region


def reason(region: Region, error: Exception) -> str:
    """The reason why a region stays on TensorFlow; of defects, an invariant that is broken among
    them, with notes."""
    if isinstance(error, SiriusError) and not isinstance(error, VerifyError):
        return f"{type(error).__name__}: {error}"
    return noted(region, error)


def noted(region: Region, error: Exception) -> str:
    """The reason why a region stays on TensorFlow, and the file that shows the failure and the
    region's graph: what a bug report needs."""
    reason = defect(error)
    advice = f"sirius-inspect MODEL --region={region.name} --bisect says which pass is wrong\n\n"
    text = advice + "".join(traceback.format_exception(error)) + "\n" + show(region.graph) + "\n"
    folder = store.directory()
    if folder is None:
        return reason
    with contextlib.suppress(OSError):
        path = folder / "failures" / f"{region.name}-{region.digest[:12]}.txt"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_text(text)
        return f"{reason} (see {path})"
    return reason
