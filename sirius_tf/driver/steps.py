# SPDX-License-Identifier: Apache-2.0
"""Steps that all conversions take."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from sirius_tf.bundle.cuda import check_archs
from sirius_tf.config import Options
from sirius_tf.driver.comparison import compare_and_time
from sirius_tf.driver.kernels import Compiled
from sirius_tf.driver.parts import Part, cut
from sirius_tf.errors import DifferenceError
from sirius_tf.frontend import savedmodel
from sirius_tf.pipeline import PIPELINE
from sirius_tf.rewrite.regions import stems
from sirius_tf.rewrite.samples import Choice
from sirius_tf.runtime import native

T = TypeVar("T")


def strictly_if_needed(convert: Callable[[Options], T], options: Options) -> tuple[T, str]:
    """A conversion; if results differ, once more with strict arithmetic, and how they differed."""
    try:
        return convert(options), ""
    except DifferenceError as error:
        if options.strict_math:
            raise
        why = str(error)
    return convert(replace(options, strict_math=True)), why


def cut_signatures(
    source: Path,
    content: str,
    meta_graph: Any,
    model: savedmodel.Model,
    samples: Mapping[str, Choice],
    keep_variables: bool = False,
) -> list[Part]:
    """The regions of every signature."""
    names = stems(model.signatures)
    return [
        cut(
            source, content, meta_graph, signature, names[name], samples[name], None, keep_variables
        )
        for name, signature in model.signatures.items()
    ]


def check_options(options: Options) -> None:
    """SiriusError if no region could be compiled: each would stay on TensorFlow for this reason."""
    PIPELINE.without(options.without)
    if options.target == "cuda":
        check_archs(options.arch)


def threads_of(options: Options) -> int:
    """The number of threads for which calls are compiled."""
    return options.threads or native.default_threads()


def stages(options: Options) -> Callable[[str], None]:
    """A function that begins a stage. It gives memory that the stage before freed back to the
    system.

    The C library keeps it among what is in use: sessions leave hundreds of megabytes of holes. The
    values of a model, which end before two of the stages, are held by circles of closures, too.
    """
    libc = ctypes.CDLL(None)

    def begin(name: str) -> None:
        if name in ("link", "check"):
            gc.collect()
        libc.malloc_trim(0)
        if options.progress:
            options.progress(name)

    return begin


def time_parts(
    work: Path,
    meta_graph: Any,
    parts: Sequence[Part],
    kernels: Mapping[str, Compiled],
    bundle: Path,
    options: Options,
) -> list[Part]:
    """The parts without the regions that differ from TensorFlow, or are slower."""
    times: dict[str, tuple[float, float]] = {}
    return [
        compare_and_time(work, meta_graph, part, kernels, bundle, times, options) for part in parts
    ]
