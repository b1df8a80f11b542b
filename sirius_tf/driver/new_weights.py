# SPDX-License-Identifier: Apache-2.0
"""An optimized model with the weights of another SavedModel."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from tensorflow.python.saved_model import loader_impl

from sirius_tf.bundle import cache
from sirius_tf.config import Options
from sirius_tf.driver import bundles
from sirius_tf.driver.comparison import with_exact
from sirius_tf.driver.draft import Draft, draft
from sirius_tf.driver.failures import told
from sirius_tf.driver.garbage import rarely_collected
from sirius_tf.driver.kernels import Compiled, compile_region, with_originals
from sirius_tf.driver.publish import compared, published
from sirius_tf.driver.steps import (
    cut_signatures,
    stages,
    time_parts,
)
from sirius_tf.errors import SiriusError
from sirius_tf.frontend import savedmodel
from sirius_tf.report import Result
from sirius_tf.rewrite import metagraph, output
from sirius_tf.rewrite import samples as sampling
from sirius_tf.rewrite.regions import Region
from sirius_tf.runtime import native
from sirius_tf.runtime.op import register_with_tensorflow


@told
@native.on_cpu()
@rarely_collected()
def refresh(
    optimized_dir: str | os.PathLike[str],
    saved_model_dir: str | os.PathLike[str],
    *,
    samples: Mapping[str, Any] | None = None,
    options: Options = Options(),  # noqa: B008  it is frozen
) -> Result:
    """Give an optimized model the weights of a SavedModel that has the graph it was made from.

    What was compiled then is kept, so that the C compiler runs only where weights are part of the
    code. The optimized model is replaced if it gives the same results as the SavedModel.
    """
    start = time.monotonic()
    source, target = Path(saved_model_dir), output.named(Path(optimized_dir))
    output.prepare(source, target, replace=True)
    register_with_tensorflow()
    with ExitStack() as stack:
        made = _refreshed(stack, source, target, samples, options)
        measured = compared(source, made, options)
        return published(target, made, measured, replace(options, force=True), start)


def _refreshed(
    stack: ExitStack,
    source: Path,
    target: Path,
    samples: Mapping[str, Any] | None,
    options: Options,
) -> Draft:
    """The rewritten model in a place on the stack, with the code of the target's bundle."""
    stage = stages(options)
    stage("read")
    old, notes = _old_bundle(target)
    if made := notes.get("cuda"):
        arch, precision = tuple(made["arch"]), made.get("precision", "strict")
        options = replace(options, target="cuda", arch=arch, precision=precision)
    options = replace(options, keep_variables=notes.get("keep_variables", False))
    model = savedmodel.read(source, list(notes["signatures"]))
    saved_model = loader_impl.parse_saved_model(str(source))
    meta_graph = metagraph.select(saved_model)
    given = sampling.of_signatures(model.signatures, samples)
    stage("regions")
    content = cache.content(source)
    parts = [
        part.only(notes["signatures"][part.signature.name]["uses"])
        for part in cut_signatures(
            source, content, meta_graph, model, given, options.keep_variables
        )
    ]
    stage("compile")
    regions = {u.kernel: u.region for p in reversed(parts) for u in p.uses}
    kernels = {name: _compiled(name, region, notes, options) for name, region in regions.items()}
    same = all(kernel.code == notes["kernels"][name]["code"] for name, kernel in kernels.items())
    parts = with_exact([with_originals(part, kernels) for part in parts], kernels)
    parts = [part.hollow() for part in parts]
    del model
    work = stack.enter_context(output.workplace(source, target))
    bundle = work / "assets" / old.name
    stage("link")
    noted, with_code_of = bundles.notes(options), old if same else None
    kernels = bundles.link(work, meta_graph, parts, kernels, bundle, noted, with_code_of)
    stage("time")
    as_before = replace(options, keep_slow=True, strict_math=True)
    timed = time_parts(work, meta_graph, parts, kernels, bundle, as_before)
    for region in (region for part in timed for region in part.timed if not region.kept):
        raise SiriusError(f"region {region.name} has wrong results; convert the model anew")
    bundles.note_accuracy(timed, bundle)
    stage("rewrite")
    return draft(content, work, saved_model, timed, bundle, options)


def _compiled(name: str, region: Region, notes: Mapping[str, Any], options: Options) -> Compiled:
    """A region compiled as it was for the bundle that has these notes."""
    note, launches = notes["kernels"][name], notes.get("cuda", {}).get("launch", {})
    options = replace(
        options,
        strict_math=note["strict_math"],
        without=tuple(note.get("without", ())),
        cuda_launch=launches.get(name, options.cuda_launch),
    )
    return compile_region(region, note["hints"], note["threads"], options, note.get("tilings", {}))


def _old_bundle(optimized: Path) -> tuple[Path, Mapping[str, Any]]:
    """The bundle of an optimized model, and its manifest."""
    found = sorted((optimized / "assets").glob("*.sirius.so"))
    if len(found) != 1:
        raise SiriusError(f"{optimized} has no bundle to refresh; convert the model anew")
    return found[0], native.Bundle(found[0]).manifest
