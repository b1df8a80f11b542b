# SPDX-License-Identifier: Apache-2.0
"""Failures of the compiler that nobody foresaw: what is kept of them."""

from __future__ import annotations

import contextlib
import functools
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from sirius_tf.bundle import store
from sirius_tf.errors import SiriusError, VerifyError, defect
from sirius_tf.frontend.graph import show
from sirius_tf.rewrite.regions import Region

P = ParamSpec("P")
T = TypeVar("T")


def told(convert: Callable[P, T]) -> Callable[P, T]:
    """A conversion of which every failure is a SiriusError: what nobody foresaw, too, of which a
    file has the whole story."""

    @functools.wraps(convert)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return convert(*args, **kwargs)
        except SiriusError:
            raise
        except Exception as error:
            path = _kept("conversion", "".join(traceback.format_exception(error)))
            where = f" (see {path})" if path else ""
            raise SiriusError(
                f"nothing is written, since what a conversion needs failed: "
                f"{type(error).__name__}: {_first_line(error)}{where}; try again, and report it if "
                "that ends in the same way"
            ) from error

    return call


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


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
    path = _kept(f"{region.name}-{region.digest[:12]}", text)
    return f"{reason} (see {path})" if path else reason


def _kept(name: str, text: str) -> Path | None:
    """The file of a text among those that tell of failures; None if it cannot be written."""
    folder = store.directory()
    if folder is None:
        return None
    with contextlib.suppress(OSError):
        path = folder / "failures" / f"{name}.txt"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_text(text)
        return path
    return None
