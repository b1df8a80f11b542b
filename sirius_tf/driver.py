# SPDX-License-Identifier: Apache-2.0
"""From a SavedModel to a SavedModel in which compiled regions replace TensorFlow's ops."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.saved_model import loader_impl

from sirius_tf.bundle.link import link
from sirius_tf.codegen.c import Kernel
from sirius_tf.compile import compile_graph
from sirius_tf.config import Options
from sirius_tf.errors import SiriusError
from sirius_tf.frontend import savedmodel
from sirius_tf.frontend.graph import Edge, Node, show
from sirius_tf.frontend.savedmodel import Signature
from sirius_tf.report import LeftNode, RegionReport, Result, SignatureReport
from sirius_tf.rewrite import check, graphdef, metagraph, output
from sirius_tf.rewrite import samples as sampling
from sirius_tf.rewrite.canonical import digest
from sirius_tf.rewrite.manifest import manifest
from sirius_tf.rewrite.metagraph import Edit
from sirius_tf.rewrite.regions import Region, constant, cut, is_variable
from sirius_tf.rewrite.samples import Array
from sirius_tf.rewrite.session import Session
from sirius_tf.rewrite.substitute import OP, Use
from sirius_tf.runtime import native
from sirius_tf.runtime.op import register_with_tensorflow


@dataclass(frozen=True, eq=False)
class Part:
    """A signature on its way: regions in use, nodes left with reasons, and regions timed.

    `values` are those of the edges that regions read, on the samples.
    """

    signature: Signature
    inlined: Any
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
    start = time.monotonic()
    stage = options.progress or (lambda name: None)
    source = Path(saved_model_dir)
    target = Path(output_dir or f"{source}.sirius")
    output.check_paths(source, target, options.force)
    register_with_tensorflow()
    stage("read")
    model = savedmodel.read(source, signatures)
    saved_model = loader_impl.parse_saved_model(str(source))
    meta_graph = metagraph.select(saved_model)
    if OP in {op.name for op in meta_graph.meta_info_def.stripped_op_list.op}:
        raise SiriusError(f"{source} is already optimized; take the model it was made from")
    given = sampling.of_signatures(model.signatures, samples)
    stage("regions")
    parts = [
        _cut(source, meta_graph, signature, given[name])
        for name, signature in model.signatures.items()
    ]
    stage("compile")
    parts, kernels = _compile(parts, options)
    with output.workplace(source, target) as work:
        bundle = work / "assets" / f"{source.name}.sirius.so"
        stage("link")
        _link(work, meta_graph, parts, kernels, bundle)
        stage("time")
        times: dict[str, tuple[float, float]] = {}
        timed = [_time(work, meta_graph, part, bundle, times, options) for part in parts]
        if [part.uses for part in timed] != [part.uses for part in parts]:
            _link(work, meta_graph, timed, kernels, bundle)
        stage("rewrite")
        edits = [Edit(part.signature, part.inlined, part.uses) for part in timed]
        meta_graph.CopyFrom(metagraph.rewrite(meta_graph, edits, bundle))
        output.write_saved_model(work, saved_model)
        stage("check")
        tags = list(meta_graph.meta_info_def.tags)
        measured = check.compare(source, work, tags, given, options.tolerance)
        stage("write")
        output.publish(work, target)
    bundle = target / "assets" / bundle.name
    exists = bundle.exists()
    return Result(
        target,
        bundle if exists else None,
        tuple(_report(part, measured[part.signature.name]) for part in timed),
        time.monotonic() - start,
        output.size(target),
        bundle.stat().st_size if exists else 0,
    )


def optimize_graph_def(
    graph_def: Any,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    samples: Mapping[str, Any] | None = None,
    options: Options = Options(),  # noqa: B008  it is frozen
) -> Any:
    """A GraphDef that computes the same outputs, with regions compiled to `options.bundle`.

    Inputs and outputs are tensors of a frozen GraphDef ("x" or "x:0") and keep their names.
    """
    bundle = options.bundle
    if bundle is None:
        raise SiriusError("say where the bundle goes: Options(bundle=Path(...))")
    if bundle.exists() and not options.force:
        raise SiriusError(f"{bundle} exists; name another bundle, or force it to be replaced")
    register_with_tensorflow()
    signature = graphdef.as_signature(graph_def, inputs, outputs)
    meta_graph = meta_graph_pb2.MetaGraphDef(graph_def=graph_def)
    arrays = sampling.of_signatures({signature.name: signature}, samples)[signature.name]
    part = _cut(None, meta_graph, signature, arrays, graphdef.named_parts(signature))
    parts, kernels = _compile([part], options)
    with output.written(bundle) as work:
        _link(None, meta_graph, parts, kernels, work)
        timed = _time(None, meta_graph, parts[0], work, {}, options)
        if timed.uses != parts[0].uses:
            _link(None, meta_graph, [timed], kernels, work)
    if not timed.uses:
        return graph_def
    return graphdef.rewrite(graph_def, Edit(signature, timed.inlined, timed.uses), bundle)


def _cut(
    source: Path | None,
    meta_graph: Any,
    signature: Signature,
    arrays: Mapping[str, Array],
    kept: Mapping[str, str] | None = None,
) -> Part:
    """The regions of a signature; nodes in `kept` stay on TensorFlow."""
    graph = signature.graph
    probes = {edge.node: "" for _, edge in graph.outputs}
    found = cut(graph, signature.name, {**probes, **(kept or {})})
    inlined = metagraph.inlined(meta_graph, signature)
    uses = tuple(Use(region, region.name) for region in found.regions)
    left = {node: reason for node, reason in found.left.items() if node not in probes}
    if not uses:
        return Part(signature, inlined, {}, uses, left)
    edges = {edge for region in found.regions for edge in _read(signature, region)}
    feeds = {signature.inputs[key].name: array for key, array in arrays.items()}
    with Session(source, meta_graph, inlined, graph) as session:
        outputs = [edge for _, edge in graph.outputs]  # all of it must run on the samples
        found_values = session.values(feeds, [*sorted(edges, key=str), *outputs])
    values = {edge: found_values[edge] for edge in edges}
    return Part(signature, inlined, values, uses, left)


def _read(signature: Signature, region: Region) -> list[Edge]:
    """The inputs of a region that are no tables."""
    nodes = signature.graph.by_name
    return [e for e in region.inputs if e.node not in nodes or not is_variable(nodes[e.node])]


def _compile(parts: Sequence[Part], options: Options) -> tuple[list[Part], dict[str, Kernel]]:
    """Kernels by name, one for regions that are the same; those that do not compile go back."""
    kernels: dict[str, Kernel] = {}
    names: dict[str, str] = {}
    made = []
    for part in parts:
        uses, failed = [], {}
        for use in part.uses:
            region = use.region
            key = digest(region.graph)
            if key not in names:
                try:
                    kernels[region.name] = _compile_region(region, part.values, options)
                except SiriusError as error:
                    failed[region.name] = f"{type(error).__name__}: {error}"
                    continue
                names[key] = region.name
            uses.append(Use(region, names[key]))
        made.append(replace(part.without(failed), uses=tuple(uses)))
    return made, kernels


def _compile_region(region: Region, values: Mapping[Edge, Array], options: Options) -> Kernel:
    count = 0
    hints = {str(edge): values[edge].shape for edge in region.inputs if edge in values}

    def dump(stage: str, text: str) -> None:
        nonlocal count
        if options.dump is not None:
            options.dump.mkdir(parents=True, exist_ok=True)
            (options.dump / f"{region.name}.{count}.{stage}.txt").write_text(text + "\n")
            count += 1

    dump("graph", show(region.graph))
    threads = options.threads or native.default_threads()
    return compile_graph(region.graph, hints, threads, dump)


def _link(
    work: Path | None,
    meta_graph: Any,
    parts: Sequence[Part],
    kernels: Mapping[str, Kernel],
    bundle: Path,
) -> None:
    """Write the bundle of the kernels in use, if any."""
    used = {use.kernel: None for part in parts for use in part.uses}
    if not used:
        bundle.unlink(missing_ok=True)
        return
    bundle.parent.mkdir(parents=True, exist_ok=True)
    signatures = {part.signature.name: (part.signature, part.uses) for part in parts}
    content = manifest(work, meta_graph, signatures)
    link([kernels[name] for name in used], bundle, content, str(content["variables_hash"]))


def _time(
    work: Path | None,
    meta_graph: Any,
    part: Part,
    bundle: Path,
    times: dict[str, tuple[float, float]],
    options: Options,
) -> Part:
    """Compare and time each region; those that differ or are slower go back to TensorFlow.

    `times` are those of kernels, of TensorFlow and ours, in milliseconds.
    """
    if not part.uses:
        return part
    graph, name = part.signature.graph, part.signature.name
    reports, reasons = [], {}
    with Session(work, meta_graph, part.inlined, graph, part.uses, bundle) as session:
        for use in part.uses:
            region = use.region.name
            problem = session.difference(use, part.values, options.tolerance)
            if not problem and use.kernel not in times:
                times[use.kernel] = session.time(use, part.values)
            tf_ms, our_ms = (0.0, 0.0) if problem else times[use.kernel]
            if our_ms > tf_ms and not options.keep_slow:
                problem = f"slower than TensorFlow ({our_ms:.3g} ms against {tf_ms:.3g} ms)"
            if problem:
                reasons[region] = problem
            count = sum(_computes(graph.by_name[node]) for node in use.region.nodes)
            reports.append(RegionReport(region, name, count, tf_ms, our_ms, not problem))
    return replace(part.without(reasons), timed=tuple(reports))


def _report(part: Part, measured: check.Measured) -> SignatureReport:
    graph, name = part.signature.graph, part.signature.name
    results = {edge.node for _, edge in graph.outputs}
    ops = [n for n in graph.nodes if n.name not in results and _computes(n)]
    left = [LeftNode(name, n.name, n.op, part.left[n.name]) for n in ops if n.name in part.left]
    ours = sum(region.sirius_ms for region in part.timed if region.kept)
    share = max(0.0, 1.0 - ours / measured.sirius_ms)
    return SignatureReport(
        name,
        len(ops),
        len(ops) - len(left),
        tuple(left),
        part.timed,
        measured.tf_ms,
        measured.sirius_ms,
        1.0,
        share if part.uses else 1.0,
        measured.error,
    )


def _computes(node: Node) -> bool:
    """Whether a node is more than a constant, a handle or what inlining puts around a call."""
    return not constant(node) and node.op != "Identity" and set(node.dtypes) != {"resource"}
