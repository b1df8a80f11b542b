# SPDX-License-Identifier: Apache-2.0
"""The regions of a model with what they read on the samples: for tools that look at programs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorflow.python.saved_model import loader_impl

from sirius_tf.bundle import cache
from sirius_tf.driver.parts import Part, hints
from sirius_tf.driver.steps import cut_signatures
from sirius_tf.frontend import savedmodel
from sirius_tf.frontend.graph import Edge, Graph
from sirius_tf.ir.program import Program
from sirius_tf.lower.graph import lower
from sirius_tf.rewrite import metagraph
from sirius_tf.rewrite import samples as sampling
from sirius_tf.rewrite.samples import Array
from sirius_tf.runtime.op import register_with_tensorflow


@dataclass(frozen=True, eq=False)
class Sampled:
    """A region: its graph, its program, and the arrays that the program reads on the samples."""

    name: str
    graph: Graph
    program: Program
    inputs: Mapping[str, Array]


def sampled(
    saved_model_dir: str | os.PathLike[str],
    *,
    signatures: Sequence[str] | None = None,
    samples: Mapping[str, Any] | None = None,
) -> list[Sampled]:
    """The regions of a SavedModel as `optimize` compiles them, one for equal regions."""
    source = Path(saved_model_dir)
    register_with_tensorflow()
    model = savedmodel.read(source, signatures)
    meta_graph = metagraph.select(loader_impl.parse_saved_model(str(source)))
    given = sampling.of_signatures(model.signatures, samples)
    found = {
        use.region.digest: (part, use.region)
        for part in cut_signatures(source, cache.content(source), meta_graph, model, given)
        for use in part.uses
    }
    made = []
    for part, region in found.values():
        program = lower(region.graph, hints(part, region))
        arrays = [read(part, edge) for edge in region.inputs]
        inputs = dict(zip(program.inputs, arrays, strict=True))
        made.append(Sampled(region.name, region.graph, program, inputs))
    return made


def read(part: Part, edge: Edge) -> Array:
    """The value of what a region reads: on the samples, or of a variable that is not copied."""
    if edge in part.values:
        return part.values[edge]
    return part.signature.graph.by_name[edge.node].attr_array()


def programs(
    saved_model_dir: str | os.PathLike[str],
    *,
    signatures: Sequence[str] | None = None,
    samples: Mapping[str, Any] | None = None,
) -> list[Program]:
    """The programs of a SavedModel's regions as `optimize` compiles them, one for equal regions."""
    regions = sampled(saved_model_dir, signatures=signatures, samples=samples)
    return [region.program for region in regions]
