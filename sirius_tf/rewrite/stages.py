# SPDX-License-Identifier: Apache-2.0
"""The stages between reading a model and writing it, a signature at a time."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from sirius_tf.bundle import cache, cuda, library
from sirius_tf.bundle import link as linker
from sirius_tf.codegen.c import Kernel
from sirius_tf.codegen.entry import plan_reads
from sirius_tf.compile import NOT_STRICT, compile_cuda, compile_graph
from sirius_tf.config import Options
from sirius_tf.errors import DifferenceError, SiriusError
from sirius_tf.frontend.graph import Edge, Node, show
from sirius_tf.frontend.savedmodel import Signature
from sirius_tf.lower.registry import lower
from sirius_tf.report import RegionReport
from sirius_tf.rewrite import checkpoint, regions
from sirius_tf.rewrite.canonical import array_digest
from sirius_tf.rewrite.hollow import hollow, hollow_region
from sirius_tf.rewrite.manifest import manifest
from sirius_tf.rewrite.regions import Region, constant, is_variable
from sirius_tf.rewrite.samples import Array
from sirius_tf.rewrite.session import Session
from sirius_tf.rewrite.substitute import Use


@dataclass(frozen=True, eq=False)
class Compiled:
    """A kernel, what it was made for, and a hash of its code, in which the weights are not.

    `cuda` is the region's kernel for GPUs, if it has one; `no_cuda` says why not, if it was to have
    one; `tilings` are the measured ones among its tile sizes, by the key of the cluster.
    """

    kernel: Kernel
    cuda: cuda.Compiled | None
    threads: int
    hints: Mapping[str, Sequence[int]]
    code: str
    strict_math: bool
    tilings: Mapping[str, Sequence[int]]
    no_cuda: str = ""

    @property
    def note(self) -> dict[str, object]:
        """What the manifest says of it."""
        hints = {name: list(shape) for name, shape in self.hints.items()}
        note = {"threads": self.threads, "hints": hints, "code": self.code}
        return {**note, "strict_math": self.strict_math, "tilings": self.tilings}


@dataclass(frozen=True, eq=False)
class Part:
    """A signature on its way: regions in use, nodes left with reasons, and regions timed.

    `values` are those of the edges that regions read, on the samples.
    """

    signature: Signature
    values: Mapping[Edge, Array]
    uses: tuple[Use, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)
    timed: tuple[RegionReport, ...] = ()

    def without(self, reasons: Mapping[str, str]) -> Part:
        """Regions, by name, go back to TensorFlow."""
        dropped = [use for use in self.uses if use.region.name in reasons]
        left = {n: reasons[use.region.name] for use in dropped for n in use.region.nodes}
        kept = tuple(use for use in self.uses if use not in dropped)
        return replace(self, uses=kept, left={**self.left, **left})

    def hollow(self) -> Part:
        """The part without the values of constants."""
        signature = replace(self.signature, graph=hollow(self.signature.graph))
        uses = tuple(Use(hollow_region(use.region), use.kernel) for use in self.uses)
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
        uses = tuple(Use(use.region, kernels[use.region.name]) for use in part.uses)
        return replace(part, uses=uses)


def cut(
    source: Path | None,
    content: str,
    meta_graph: Any,
    signature: Signature,
    stem: str,
    arrays: Mapping[str, Array],
    kept: Mapping[str, str] | None = None,
) -> Part:
    """The regions of a signature, called `<stem>_<k>`; nodes in `kept` stay on TensorFlow.

    The model runs on the samples; what regions read then is remembered by a hash of its content.
    """
    graph = signature.graph
    probes = {edge.node: "" for _, edge in graph.outputs}
    found = regions.cut(graph, stem, {**probes, **(kept or {})})
    uses = tuple(Use(region, region.name) for region in found.regions)
    left = {node: reason for node, reason in found.left.items() if node not in probes}
    if not uses:
        return Part(signature, {}, uses, left)
    edges = sorted({e for region in found.regions for e in _read(signature, region)}, key=str)

    def run() -> dict[Edge, Array]:
        feeds = {signature.inputs[key].name: array for key, array in arrays.items()}
        outputs = [edge for _, edge in graph.outputs]  # all of it must run on the samples
        with Session(source, meta_graph, signature.inlined, graph) as session:
            values = session.values(feeds, [*edges, *outputs])
        return {edge: values[edge] for edge in edges}

    samples = [(key, array_digest(array)) for key, array in arrays.items()]
    key = (content, signature.name, samples, edges, tf.__version__)
    values = cache.remembered("values", key, run)
    return Part(signature, values, uses, left)


def _read(signature: Signature, region: Region) -> list[Edge]:
    """The inputs of a region that are no tables."""
    nodes = signature.graph.by_name
    return [e for e in region.inputs if e.node not in nodes or not is_variable(nodes[e.node])]


def hints(part: Part, region: Region) -> dict[str, tuple[int, ...]]:
    """The shapes of what a region reads on the samples, but for tables."""
    return {str(e): part.values[e].shape for e in region.inputs if e in part.values}


def compile_parts(
    parts: Sequence[Part],
    threads: int,
    options: Options,
    tilings: Mapping[str, Sequence[int]],
) -> tuple[list[Part], dict[str, Compiled]]:
    """Kernels by name, one for regions that are the same; those that do not compile go back."""
    kernels: dict[str, Compiled] = {}
    names: dict[str, str] = {}
    made = []
    for part in parts:
        uses, failed = [], {}
        for use in part.uses:
            region = use.region
            key = region.digest
            if key not in names:
                shapes = hints(part, region)
                try:
                    compiled = compile_region(region, shapes, threads, options, tilings)
                    kernels[region.name] = compiled
                except SiriusError as error:
                    failed[region.name] = f"{type(error).__name__}: {error}"
                    continue
                names[key] = region.name
            uses.append(Use(region, names[key]))
        made.append(replace(part.without(failed), uses=tuple(uses)))
    return made, kernels


def compile_region(
    region: Region,
    hints: Mapping[str, Sequence[int]],
    threads: int,
    options: Options,
    tilings: Mapping[str, Sequence[int]],
) -> Compiled:
    """Compile one region; every stage is dumped, if the user wants that."""
    texts: dict[str, str] = {}
    used: dict[str, Sequence[int]] = {}
    strict = options.strict_math

    def dump(stage: str, text: str) -> None:
        if options.dump is not None:
            options.dump.mkdir(parents=True, exist_ok=True)
            name = f"{region.name}.{len(texts)}.{stage}.txt"
            (options.dump / name).write_text(text + "\n")
        texts[stage] = text

    def dump_cuda(stage: str, text: str) -> None:
        dump("cuda" if stage == "source" else f"cuda_{stage}", text)

    def measured(cluster: str) -> Sequence[int] | None:
        if cluster in tilings:
            used[cluster] = tilings[cluster]
        return used.get(cluster)

    def make() -> Compiled:
        dump("graph", show(region.graph))
        without = NOT_STRICT if strict else ()
        kernel = compile_graph(region.graph, hints, threads, dump, without, measured)
        compiled, problem = None, ""
        if options.target == "cuda":
            kinds = options.cuda_launch, options.precision, options.arch
            try:
                program = lower(region.graph, hints)
                code = compile_cuda(program, options.arch[-1], dump_cuda, without, *kinds)
                compiled = cuda.compile_kernel(code, options.arch)
            except SiriusError as error:  # there is still the CPU's
                problem = f"none: {error}"
        digest = hashlib.sha256((texts["c"] + texts.get("cuda", "")).encode()).hexdigest()
        return Compiled(kernel, compiled, threads, hints, digest, strict, used, problem)

    if options.dump is not None:  # what is remembered shows no stages
        return make()
    kinds = (options.arch, options.cuda_launch, options.precision)
    of = (region.name, region.digest, sorted(hints.items()))
    on_gpus = kinds if options.target == "cuda" else ()
    key = (*of, threads, strict, sorted(tilings.items()), on_gpus)
    return cache.remembered("kernels", key, make, lambda made: not made.no_cuda)


def link(
    work: Path | None,
    meta_graph: Any,
    parts: Sequence[Part],
    kernels: Mapping[str, Compiled],
    bundle: Path,
    old: Path | None = None,
) -> dict[str, Compiled]:
    """Write the bundle of the kernels in use, if any; with the code of `old`, if that is given.

    These kernels are returned, their constants left in that file.
    """
    used = list(dict.fromkeys(use.kernel for part in parts for use in part.uses))
    if not used:
        bundle.unlink(missing_ok=True)
        return {}
    bundle.parent.mkdir(parents=True, exist_ok=True)
    signatures = {part.signature.name: (part.signature, part.uses) for part in parts}
    content = manifest(work, meta_graph, signatures)
    content["kernels"] = {name: kernels[name].note for name in used}
    made = [kernels[name].kernel for name in used]
    for_gpus = [c for name in used if (c := kernels[name].cuda)]
    if for_gpus:
        content["cuda"] = {
            "state": "emulated, untimed",
            "arch": list(for_gpus[0].cubins),
            "precision": for_gpus[0].kernel.precision,
            "plan_reads": {c.kernel.program.name: plan_reads(c.kernel.program) for c in for_gpus},
            "launch": {c.kernel.program.name: c.kernel.launch for c in for_gpus},
        }
    variables = str(content["variables_hash"])
    if old is not None:
        linker.repack(old, bundle, made, content, variables, for_gpus)
    else:
        linker.link(made, bundle, content, variables, cuda=for_gpus)
    left, left_for_gpus = linker.left_in_file(made, bundle, for_gpus)
    on_gpus = {c.kernel.program.name: c for c in left_for_gpus}
    return {
        name: replace(kernels[name], kernel=kernel, cuda=on_gpus.get(name))
        for name, kernel in zip(used, left, strict=True)
    }


def compare_and_time(
    work: Path | None,
    meta_graph: Any,
    part: Part,
    kernels: Mapping[str, Compiled],
    bundle: Path,
    times: dict[str, tuple[float, float]],
    options: Options,
) -> Part:
    """Compare and time each region; those that differ or are slower go back to TensorFlow.

    DifferenceError if one differs that might not with `strict_math`. `times` are those of kernels,
    of TensorFlow and ours, in milliseconds.
    """
    if not part.uses:
        return part
    graph, name = part.signature.graph, part.signature.name
    reports, reasons = [], {}
    bytes_of = cache.content(bundle), checkpoint.variables_hash(work) if work else ""
    with ExitStack() as stack:

        @functools.cache
        def session() -> Session:
            made = Session(work, meta_graph, part.signature.inlined, graph, part.uses, bundle)
            return stack.enter_context(made)

        for use in part.uses:
            region = use.region.name
            shape, arrays = hints(part, use.region), _values(part, use.region)
            of = (region, use.region.digest, *bytes_of, arrays, options.tolerance)
            find = functools.partial(_difference, session, use, part.values, options.tolerance)
            problem = cache.remembered("differences", (*of, machine()), find)
            if problem and not options.strict_math:
                raise DifferenceError(f"region {region}: {problem}")
            if not problem and use.kernel not in times:
                measure = functools.partial(_best_times, session, use, part.values)
                key = (use.region.digest, kernels[use.kernel].code, shape, machine())
                times[use.kernel] = cache.remembered("times", key, measure, _is_faster)
            tf_ms, our_ms = (0.0, 0.0) if problem else times[use.kernel]
            if our_ms > tf_ms and not options.keep_slow:
                problem = f"slower than TensorFlow ({our_ms:.3g} ms against {tf_ms:.3g} ms)"
            if problem:
                reasons[region] = problem
            count = sum(computes(graph.by_name[node]) for node in use.region.nodes)
            for_gpus = kernels[use.kernel].cuda
            launch = for_gpus.kernel.launch if for_gpus else kernels[use.kernel].no_cuda
            reports.append(RegionReport(region, name, count, tf_ms, our_ms, not problem, launch))
    return replace(part.without(reasons), timed=tuple(reports))


def machine() -> tuple[str, int, str, str]:
    """What runs the code: the processor, the workers, TensorFlow, and the host of bundles."""
    return cache.processor(), len(os.sched_getaffinity(0)), tf.__version__, library.digest()


def _values(part: Part, region: Region) -> list[str]:
    """What a region reads on the samples, but for tables."""
    return [array_digest(part.values[e]) for e in region.inputs if e in part.values]


def _difference(
    session: Callable[[], Session], use: Use, values: Mapping[Edge, Array], tolerance: float
) -> str | None:
    return session().difference(use, values, tolerance)


def _is_faster(times: tuple[float, float]) -> bool:
    """Whether ours is no slower; what was, on a busy machine, may not be another time."""
    theirs, ours = times
    return ours <= theirs


def _best_times(
    session: Callable[[], Session], use: Use, values: Mapping[Edge, Array]
) -> tuple[float, float]:
    """Milliseconds of TensorFlow and ours; taken again before a region is given up."""
    theirs, ours = session().time(use, values)
    if ours > theirs:
        again = session().time(use, values)
        theirs, ours = min(theirs, again[0]), min(ours, again[1])
    return theirs, ours


def computes(node: Node) -> bool:
    """Whether a node is more than a constant, a handle or what inlining puts around a call."""
    return not constant(node) and node.op != "Identity" and set(node.dtypes) != {"resource"}
