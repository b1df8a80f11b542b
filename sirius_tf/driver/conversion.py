# SPDX-License-Identifier: Apache-2.0
"""From a SavedModel to a SavedModel in which compiled regions replace TensorFlow's ops."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from tensorflow.python.saved_model import loader_impl

from sirius_tf.bundle import cache, tilings
from sirius_tf.config import Options
from sirius_tf.driver import bundles
from sirius_tf.driver.blame import blamed
from sirius_tf.driver.comparison import with_exact
from sirius_tf.driver.failures import told
from sirius_tf.driver.garbage import rarely_collected
from sirius_tf.driver.kernels import compile_parts
from sirius_tf.driver.publish import published
from sirius_tf.driver.settle import Linked, settled
from sirius_tf.driver.steps import (
    check_options,
    cut_signatures,
    stages,
    strictly_if_needed,
    threads_of,
    time_parts,
)
from sirius_tf.driver.twins import with_twins
from sirius_tf.errors import SiriusError
from sirius_tf.frontend import savedmodel
from sirius_tf.report import Result
from sirius_tf.rewrite import metagraph, output
from sirius_tf.rewrite import samples as sampling
from sirius_tf.rewrite.substitute import OP
from sirius_tf.runtime import native
from sirius_tf.runtime.op import register_with_tensorflow


@told
@native.on_cpu()  # whose code is what a conversion compares and times
@rarely_collected()
def optimize(
    saved_model_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str] | None = None,
    *,
    signatures: Sequence[str] | None = None,
    samples: Mapping[str, Any] | None = None,
    options: Options = Options(),  # noqa: B008  it is frozen
) -> Result:
    """Compile the signatures of a SavedModel (all, unless named) into a new SavedModel.

    `samples` are inputs to compare and time on: {signature: {input: array}}, or {input: array} if
    all signatures take the same; without them they are made up. Nothing is written to `output_dir`
    (default: the input's name and ".sirius") unless the rewritten model gives the same results.
    """
    source = output.named(Path(saved_model_dir))
    target = output.named(Path(output_dir or f"{source}.sirius"))
    result, why = strictly_if_needed(
        lambda o: _optimize(source, target, signatures, samples, o), options
    )
    to_blame = blamed(source, signatures, samples, options) if why else ""
    return replace(result, strict_because=why, strict_blame=to_blame)


def _optimize(
    source: Path,
    target: Path,
    signatures: Sequence[str] | None,
    samples: Mapping[str, Any] | None,
    options: Options,
) -> Result:
    start = time.monotonic()
    output.prepare(source, target, options.force)
    register_with_tensorflow()
    with ExitStack() as stack:
        linked, skipped = _linked(stack, source, target, signatures, samples, options)
        made, measured = settled(linked, options)
        return published(target, replace(made, skipped=skipped), measured, options, start)


def _linked(
    stack: ExitStack,
    source: Path,
    target: Path,
    signatures: Sequence[str] | None,
    samples: Mapping[str, Any] | None,
    options: Options,
) -> tuple[Linked, Mapping[str, str]]:
    """The compiled model in a place on the stack, and the signatures that are not read, with the
    reasons."""
    check_options(options)
    stage = stages(options)
    stage("read")
    model = savedmodel.read(source, signatures)
    meta_graph = metagraph.select(loader_impl.parse_saved_model(str(source)))
    if OP in {op.name for op in meta_graph.meta_info_def.stripped_op_list.op}:
        raise SiriusError(f"{source} is already optimized; take the model it was made from")
    given = sampling.of_signatures(model.signatures, samples)
    stage("regions")
    content = cache.content(source)
    parts = cut_signatures(source, content, meta_graph, model, given, options.keep_variables)
    stage("compile")
    parts, kernels = compile_parts(parts, threads_of(options), options, tilings.read())
    parts = [part.hollow() for part in with_twins(with_exact(parts, kernels))]
    skipped = model.skipped
    del model
    work = stack.enter_context(output.workplace(source, target))
    bundle = work / "assets" / f"{source.name}.sirius.so"
    stage("link")
    notes = bundles.notes(options)
    parts, kernels = bundles.link_what_compiles(work, meta_graph, parts, kernels, bundle, notes)
    stage("time")
    timed = time_parts(work, meta_graph, parts, kernels, bundle, options)
    if [part.uses for part in timed] != [part.uses for part in parts]:
        bundles.link(work, meta_graph, timed, kernels, bundle, notes)
    bundles.note_accuracy(timed, bundle)
    return Linked(source, content, work, bundle, timed, kernels, notes), skipped
