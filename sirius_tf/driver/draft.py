# SPDX-License-Identifier: Apache-2.0
"""The rewritten model, before it is compared with the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sirius_tf.bundle import cache
from sirius_tf.config import Options
from sirius_tf.driver.parts import Part, computes
from sirius_tf.driver.twins import twins
from sirius_tf.report import LeftNode, SignatureReport
from sirius_tf.rewrite import metagraph, output, regions
from sirius_tf.rewrite import samples as sampling
from sirius_tf.rewrite.difference import allowed, random_outputs
from sirius_tf.rewrite.samples import Array


@dataclass(frozen=True, eq=False)
class Draft:
    """A rewritten model that is not compared yet. Holds nothing of what it was made from.

    `work` is its directory, `bundle` the name of a file there, `content` are hashes of the original
    and of what was written. Signatures that have regions are timed on `twice` the samples, too, if
    they take more; those in `twins` not at all, but the earlier one that is named. The reports lack
    what a comparison measures.
    """

    work: Path
    bundle: str
    content: tuple[str, ...]
    tags: tuple[str, ...]
    samples: Mapping[str, Mapping[str, Array]]
    twice: Mapping[str, Mapping[str, Array]]
    tolerances: Mapping[str, float]
    reports: tuple[SignatureReport, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    twins: Mapping[str, str] = field(default_factory=dict)


def draft(
    content: str,
    work: Path,
    saved_model: Any,
    parts: Sequence[Part],
    bundle: Path,
    options: Options,
) -> Draft:
    """Write the SavedModel with the regions of the parts; `content` is a hash of the original."""
    meta_graph = metagraph.select(saved_model)
    edits = [metagraph.Edit(part.signature, part.uses) for part in parts]
    meta_graph.CopyFrom(metagraph.rewrite(meta_graph, edits, bundle))
    output.write_saved_model(work, saved_model)
    written = (work / "saved_model.pb", *([bundle] if bundle.exists() else []))
    graphs = {part.signature.name: part.signature.graph for part in parts}
    samples = {p.signature.name: p.samples for p in parts if p.samples is not None}
    larger = {
        p.signature.name: sampling.twice(p.signature, p.samples)
        for p in parts
        if p.uses and p.samples is not None
    }
    return Draft(
        work,
        bundle.name,
        (content, *map(cache.content, written)),
        tuple(meta_graph.meta_info_def.tags),
        samples,
        {name: arrays for name, arrays in larger.items() if arrays is not None},
        {name: allowed(graph, options.tolerance) for name, graph in graphs.items()},
        tuple(map(_report, parts)),
        twins=twins(parts),
    )


def _report(part: Part) -> SignatureReport:
    """The report on a signature, but for the numbers that a comparison measures."""
    graph, name = part.signature.graph, part.signature.name
    results = {edge.node for _, edge in graph.outputs}
    ops = [n for n in graph.nodes if n.name not in results and computes(n)]
    left = [LeftNode(name, n.name, n.op, part.left[n.name]) for n in ops if n.name in part.left]
    count = len(ops) - len(left)
    constants = tuple(regions.constants(use.region for use in part.uses))
    measured = (0.0, 0.0, 1.0, 1.0, 0.0)
    return SignatureReport(
        name,
        len(ops),
        count,
        tuple(left),
        part.timed,
        *measured,
        random=random_outputs(graph),
        constants=constants,
    )
