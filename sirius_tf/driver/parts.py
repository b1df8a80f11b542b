# SPDX-License-Identifier: Apache-2.0
"""A signature on its way through a conversion."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from sirius_tf.bundle import cache
from sirius_tf.driver.accuracy import Exact
from sirius_tf.driver.trials import Trial
from sirius_tf.errors import SiriusError
from sirius_tf.frontend.graph import Edge, Node, Shape
from sirius_tf.frontend.savedmodel import Signature
from sirius_tf.frontend.upstream import node_of
from sirius_tf.report import Accuracy, RegionReport
from sirius_tf.rewrite import regions
from sirius_tf.rewrite.canonical import array_digest
from sirius_tf.rewrite.hollow import hollow, hollow_region
from sirius_tf.rewrite.made_up import Recipe
from sirius_tf.rewrite.regions import Region, constant, is_variable
from sirius_tf.rewrite.samples import Array, Choice
from sirius_tf.rewrite.session import Session
from sirius_tf.rewrite.substitute import Use


@dataclass(frozen=True)
class Described:
    """An array's shape, and a hash of it."""

    shape: tuple[int, ...]
    digest: str


@dataclass(frozen=True, eq=False)
class Values(Mapping[Edge, Array]):
    """The values of edges on the samples; `find` has to run the model for the arrays themselves.

    Later conversions get by with descriptions, most often: nothing of the samples is cached.
    """

    described: Mapping[Edge, Described]
    find: Callable[[], Mapping[Edge, Array]]

    def __getitem__(self, edge: Edge) -> Array:
        return self.find()[edge]

    def __iter__(self) -> Iterator[Edge]:
        return iter(self.described)

    def __len__(self) -> int:
        return len(self.described)

    def __contains__(self, edge: object) -> bool:
        return edge in self.described


@dataclass(frozen=True, eq=False)
class Part:
    """A signature on its way: regions in use, nodes left with reasons, and regions timed.

    `values` are those of the edges that regions read, on the samples; there are no samples where it
    runs on none that could be made up. `exact` are, by region, the errors against float64 if they
    are known, or else the results in float64. `digest` is that of the graph, if another signature
    may have the same.
    """

    signature: Signature
    samples: Mapping[str, Array] | None
    values: Values
    uses: tuple[Use, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)
    timed: tuple[RegionReport, ...] = ()
    exact: Mapping[str, Exact | Accuracy] = field(default_factory=dict)
    digest: str = ""

    def without(self, reasons: Mapping[str, str]) -> Part:
        """Regions, by name, go back to TensorFlow."""
        dropped = [use for use in self.uses if use.region.name in reasons]
        left = {n: reasons[use.region.name] for use in dropped for n in use.region.nodes}
        kept = tuple(use for use in self.uses if use not in dropped)
        return replace(self, uses=kept, left={**self.left, **left})

    def given_up(self, region: str, reason: str) -> Part:
        """A region that was timed goes back to TensorFlow."""
        timed = (
            replace(r, kept=False, accuracy=Accuracy(because=reason)) if r.name == region else r
            for r in self.timed
        )
        return replace(self.without({region: reason}), timed=tuple(timed))

    def hollow(self) -> Part:
        """The part without the values of constants."""
        signature = replace(self.signature, graph=hollow(self.signature.graph))
        uses = tuple(replace(use, region=hollow_region(use.region)) for use in self.uses)
        return replace(self, signature=signature, uses=uses)

    def only(self, kernels: Mapping[str, str]) -> Part:
        """The regions that have a kernel in a former bundle."""
        found = {use.region.name: use.region for use in self.uses}
        missing = kernels.keys() - found.keys()
        if missing:
            raise SiriusError(
                f"signature '{self.signature.name}' has no region {min(missing)}: its graph is "
                "another one; convert the model anew"
            )
        part = self.without({name: "left before" for name in found if name not in kernels})
        uses = tuple(replace(use, kernel=kernels[use.region.name]) for use in part.uses)
        return replace(part, uses=uses)


@dataclass(frozen=True)
class Ran:
    """The samples that a signature ran on, a recipe or the number of given ones, and what regions
    read then. Without samples, why it does not run."""

    samples: Recipe | int | None
    read: Mapping[Edge, Described]
    problem: str = ""


def cut(
    source: Path | None,
    content: str,
    meta_graph: Any,
    signature: Signature,
    stem: str,
    choice: Choice,
    kept: Mapping[str, str] | None = None,
    keep_variables: bool = False,
) -> Part:
    """The regions of a signature, called `<stem>_<k>`; nodes in `kept` stay on TensorFlow.

    The model runs on samples; hashes of what regions read then are remembered by a hash of its
    content.
    """
    signature = _ranked(signature, choice)
    graph = signature.graph
    probes = {edge.node: "" for _, edge in graph.outputs}
    found = regions.cut(graph, stem, {**probes, **(kept or {})}, keep_variables)
    edges = sorted({e for region in found.regions for e in _read(signature, region)}, key=str)
    bare = hollow(graph)
    start = functools.partial(Session, source, meta_graph, signature.inlined, bare)
    must_run = not _marked_for_xla(meta_graph.graph_def)
    trial = Trial(signature.inputs, bare, choice, edges, start, must_run)
    made: list[Mapping[Edge, Array]] = []

    def run() -> Ran:
        first = trial.first(graph, found.regions)
        if isinstance(first, str):
            return Ran(None, {}, first)
        samples, values = first
        made.append(values)
        described = {e: Described(a.shape, array_digest(a)) for e, a in values.items()}
        return Ran(samples, described)

    given = [sorted((k, array_digest(array)) for k, array in x.items()) for x in trial.given]
    key = (content, signature.name, given, edges, tf.__version__)
    ran = cache.remembered("values", key, run, lambda ran: ran.samples is not None)
    if (samples := ran.samples) is None:
        reason = _does_not_run(choice, ran.problem)
        left = {node.name: reason for node in graph.nodes if node.name not in probes}
        return Part(signature, None, Values({}, dict), (), left)

    @functools.cache
    def find() -> Mapping[Edge, Array]:
        return made[0] if made else trial.read(samples)

    uses = tuple(Use(region, region.name) for region in found.regions)
    left = {node: reason for node, reason in found.left.items() if node not in probes}
    return Part(signature, trial.arrays(samples), Values(ran.read, find), uses, left)


def _does_not_run(choice: Choice, problem: str) -> str:
    """The reason for which all of a signature stays on TensorFlow."""
    if choice.given is None:
        return f"no sample that it runs on could be made up, give one: {problem}"
    return f"TensorFlow runs it through XLA alone (jit_compile): {problem}"


def _marked_for_xla(graph_def: Any) -> bool:
    """Whether functions are marked for XLA, which runs what TensorFlow's kernels refuse, as a
    Conv3D with groups."""
    functions = graph_def.library.function
    bodies = (graph_def.node, *(function.node_def for function in functions))
    marked = (*functions, *(node for nodes in bodies for node in nodes))
    return any("_XlaMustCompile" in m.attr and m.attr["_XlaMustCompile"].b for m in marked)


def _ranked(signature: Signature, choice: Choice) -> Signature:
    """The signature with inputs of the rank that its samples have, where it does not say; made-up
    ones are scalars."""
    samples = choice.others if choice.given is None else (choice.given,)
    shapes = dict[str, Shape]()
    for key, tensor in signature.inputs.items():
        if tensor.shape is None:
            ranks = {np.ndim(arrays[key]) for arrays in samples} or {0}
            shapes |= {node_of(tensor.name): (None,) * rank for rank in ranks if len(ranks) == 1}
    arguments = tuple(
        replace(a, shape=shapes.get(node_of(a.name), a.shape)) for a in signature.graph.inputs
    )
    return replace(signature, graph=replace(signature.graph, inputs=arguments))


def _read(signature: Signature, region: Region) -> list[Edge]:
    """The inputs of a region that are no tables."""
    nodes = signature.graph.by_name
    return [e for e in region.inputs if e.node not in nodes or not is_variable(nodes[e.node])]


def hints(part: Part, region: Region) -> dict[str, tuple[int, ...]]:
    """The shapes of what a region reads on the samples, but for tables."""
    known = part.values.described
    return {str(e): known[e].shape for e in region.inputs if e in known}


def region_values(part: Part, region: Region) -> list[str]:
    """Digests of the values that a region reads on the samples, but for tables."""
    known = part.values.described
    return [known[e].digest for e in region.inputs if e in known]


def computes(node: Node) -> bool:
    """Whether a node is more than a constant, a handle or what inlining puts around a call."""
    return not constant(node) and node.op != "Identity" and set(node.dtypes) != {"resource"}
