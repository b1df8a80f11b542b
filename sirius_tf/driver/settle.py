# SPDX-License-Identifier: Apache-2.0
"""Whole signatures beside the original's: regions of those that are slower go back, one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tensorflow.python.saved_model import loader_impl

from sirius_tf.config import Options
from sirius_tf.driver import bundles
from sirius_tf.driver.draft import Draft, draft
from sirius_tf.driver.kernels import Compiled
from sirius_tf.driver.parts import Part
from sirius_tf.driver.publish import compared
from sirius_tf.driver.steps import stages
from sirius_tf.rewrite import metagraph
from sirius_tf.rewrite.check import Measured


@dataclass(frozen=True, eq=False)
class Linked:
    """A model of which the regions are compiled, linked and timed, but for its graph.

    `source` is the directory of the original, `content` a hash of it, `work` that of the new model,
    `bundle` the file there, and `notes` are what the manifest says of the conversion. The proto of
    the original, which may hold its weights, is read again when it is wanted.
    """

    source: Path
    content: str
    work: Path
    bundle: Path
    parts: list[Part]
    kernels: Mapping[str, Compiled]
    notes: Mapping[str, object]

    def draft(self, options: Options) -> Draft:
        """The rewritten model."""
        saved_model = loader_impl.parse_saved_model(str(self.source))
        return draft(self.content, self.work, saved_model, self.parts, self.bundle, options)

    def with_parts(self, parts: list[Part]) -> Linked:
        """The model of fewer regions, linked anew."""
        meta_graph = metagraph.select(loader_impl.parse_saved_model(str(self.source)))
        kernels = bundles.link(self.work, meta_graph, parts, self.kernels, self.bundle, self.notes)
        bundles.note_accuracy(parts, self.bundle)
        return replace(self, parts=parts, kernels=kernels)


def settled(linked: Linked, options: Options) -> tuple[Draft, Mapping[str, Measured]]:
    """The draft of which no signature is slower than the original, and what was measured.

    As long as one is slower, that of its regions goes back which saved least of its own time: what
    is around regions, and other sizes, are in no time of theirs.
    """
    stage = stages(options)
    while True:
        stage("rewrite")
        made = linked.draft(options)
        measured = compared(linked.source, made, options)
        if options.keep_slow:
            return made, measured
        parts = [_lighter(part, measured.get) for part in linked.parts]
        if all(new is old for new, old in zip(parts, linked.parts, strict=True)):
            return made, measured
        linked = linked.with_parts(parts)


def _lighter(part: Part, measured: Callable[[str], Measured | None]) -> Part:
    """The part without a region if the signature is slower."""
    found = measured(part.signature.name)
    if found is None or not found.slower or not part.uses:
        return part
    saved = {r.name: r.tf_ms - r.sirius_ms for r in part.timed if r.kept}
    region = min(saved, key=saved.__getitem__)
    return part.given_up(region, f"its signature is slower with it ({found.slower})")
