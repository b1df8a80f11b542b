# SPDX-License-Identifier: Apache-2.0
"""From a SavedModel to a SavedModel in which compiled regions replace TensorFlow's ops."""

from __future__ import annotations

import ctypes
import functools
import gc
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.saved_model import loader_impl

from sirius_tf.bundle import cache, tilings
from sirius_tf.bundle.cuda import check_archs
from sirius_tf.config import Options
from sirius_tf.errors import DifferenceError, SiriusError
from sirius_tf.frontend import savedmodel
from sirius_tf.ir.program import Program
from sirius_tf.lower.registry import lower
from sirius_tf.report import Result
from sirius_tf.rewrite import check, graphdef, metagraph, output, stages
from sirius_tf.rewrite import samples as sampling
from sirius_tf.rewrite.canonical import array_digest
from sirius_tf.rewrite.draft import Draft, draft
from sirius_tf.rewrite.metagraph import Edit
from sirius_tf.rewrite.regions import stems
from sirius_tf.rewrite.samples import Array
from sirius_tf.rewrite.stages import Compiled, Part
from sirius_tf.rewrite.substitute import OP
from sirius_tf.runtime import native
from sirius_tf.runtime.op import register_with_tensorflow

T = TypeVar("T")


@native.on_cpu()  # whose code is what a conversion compares and times
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
    source = Path(saved_model_dir)
    source = source if source.name else source.resolve()
    target = Path(output_dir or f"{source}.sirius")
    return _strictly_if_needed(lambda o: _optimize(source, target, signatures, samples, o), options)


def _strictly_if_needed(convert: Callable[[Options], T], options: Options) -> T:
    """A conversion; if results differ, once more with strict arithmetic."""
    try:
        return convert(options)
    except DifferenceError:
        if options.strict_math:
            raise
        return convert(replace(options, strict_math=True))


def _optimize(
    source: Path,
    target: Path,
    signatures: Sequence[str] | None,
    samples: Mapping[str, Any] | None,
    options: Options,
) -> Result:
    start = time.monotonic()
    output.check_paths(source, target, options.force)
    register_with_tensorflow()
    with ExitStack() as stack:
        made = _drafted(stack, source, target, signatures, samples, options)
        return _published(source, target, made, options, start)


def _drafted(
    stack: ExitStack,
    source: Path,
    target: Path,
    signatures: Sequence[str] | None,
    samples: Mapping[str, Any] | None,
    options: Options,
) -> Draft:
    """The rewritten model in a place on the stack."""
    _check_target(options)
    stage = _stages(options)
    stage("read")
    model = savedmodel.read(source, signatures)
    saved_model = loader_impl.parse_saved_model(str(source))
    meta_graph = metagraph.select(saved_model)
    if OP in {op.name for op in meta_graph.meta_info_def.stripped_op_list.op}:
        raise SiriusError(f"{source} is already optimized; take the model it was made from")
    given = sampling.of_signatures(model.signatures, samples)
    stage("regions")
    content = cache.content(source)
    parts = _cut(source, content, meta_graph, model, given)
    stage("compile")
    parts, kernels = stages.compile_parts(parts, _threads(options), options, tilings.read())
    parts = [part.hollow() for part in parts]
    del model
    work = stack.enter_context(output.workplace(source, target))
    bundle = work / "assets" / f"{source.name}.sirius.so"
    stage("link")
    kernels = stages.link(work, meta_graph, parts, kernels, bundle)
    stage("time")
    timed = _time(work, meta_graph, parts, kernels, bundle, options)
    if [part.uses for part in timed] != [part.uses for part in parts]:
        stages.link(work, meta_graph, timed, kernels, bundle)
    stage("rewrite")
    return draft(content, work, saved_model, timed, bundle, given, options)


def programs(
    saved_model_dir: str | os.PathLike[str],
    *,
    signatures: Sequence[str] | None = None,
    samples: Mapping[str, Any] | None = None,
) -> list[Program]:
    """The programs of a SavedModel's regions as `optimize` compiles them, one for equal regions."""
    source = Path(saved_model_dir)
    register_with_tensorflow()
    model = savedmodel.read(source, signatures)
    meta_graph = metagraph.select(loader_impl.parse_saved_model(str(source)))
    given = sampling.of_signatures(model.signatures, samples)
    found = {
        use.region.digest: (part, use.region)
        for part in _cut(source, cache.content(source), meta_graph, model, given)
        for use in part.uses
    }
    return [lower(region.graph, stages.hints(part, region)) for part, region in found.values()]


@native.on_cpu()
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
    source, target = Path(saved_model_dir), Path(optimized_dir)
    output.check_paths(source, target, force=True)
    register_with_tensorflow()
    with ExitStack() as stack:
        made = _refreshed(stack, source, target, samples, options)
        return _published(source, target, made, options, start)


def _refreshed(
    stack: ExitStack,
    source: Path,
    target: Path,
    samples: Mapping[str, Any] | None,
    options: Options,
) -> Draft:
    """The rewritten model in a place on the stack, with the code of the target's bundle."""
    stage = _stages(options)
    stage("read")
    old, notes = _old_bundle(target)
    if "cuda" in notes:
        made = notes["cuda"]
        options = replace(
            options,
            target="cuda",
            arch=tuple(made["arch"]),
            precision=made.get("precision", "strict"),
        )
    model = savedmodel.read(source, list(notes["signatures"]))
    saved_model = loader_impl.parse_saved_model(str(source))
    meta_graph = metagraph.select(saved_model)
    given = sampling.of_signatures(model.signatures, samples)
    stage("regions")
    content = cache.content(source)
    parts = [
        part.only(notes["signatures"][part.signature.name]["uses"])
        for part in _cut(source, content, meta_graph, model, given)
    ]
    stage("compile")
    launches = notes.get("cuda", {}).get("launch", {})
    kernels = {
        name: stages.compile_region(
            region,
            notes["kernels"][name]["hints"],
            notes["kernels"][name]["threads"],
            replace(
                options,
                strict_math=notes["kernels"][name]["strict_math"],
                cuda_launch=launches.get(name, options.cuda_launch),
            ),
            notes["kernels"][name].get("tilings", {}),
        )
        for name, region in {u.kernel: u.region for p in reversed(parts) for u in p.uses}.items()
    }
    same = all(kernel.code == notes["kernels"][name]["code"] for name, kernel in kernels.items())
    parts = [part.hollow() for part in parts]
    del model
    work = stack.enter_context(output.workplace(source, target))
    bundle = work / "assets" / old.name
    stage("link")
    kernels = stages.link(work, meta_graph, parts, kernels, bundle, old if same else None)
    stage("time")
    as_before = replace(options, keep_slow=True, strict_math=True)
    timed = _time(work, meta_graph, parts, kernels, bundle, as_before)
    for region in (region for part in timed for region in part.timed if not region.kept):
        raise SiriusError(f"region {region.name} has wrong results; convert the model anew")
    stage("rewrite")
    return draft(content, work, saved_model, timed, bundle, given, options)


@native.on_cpu()
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
    _check_target(options)
    register_with_tensorflow()
    signature = graphdef.as_signature(graph_def, inputs, outputs)
    return _strictly_if_needed(
        lambda o: _optimize_graph_def(graph_def, signature, bundle, samples, o), options
    )


def _optimize_graph_def(
    graph_def: Any,
    signature: savedmodel.Signature,
    bundle: Path,
    samples: Mapping[str, Any] | None,
    options: Options,
) -> Any:
    meta_graph = meta_graph_pb2.MetaGraphDef(graph_def=graph_def)
    arrays = sampling.of_signatures({signature.name: signature}, samples)[signature.name]
    kept = graphdef.named_parts(signature)
    content = hashlib.sha256(graph_def.SerializeToString(deterministic=True)).hexdigest()
    part = stages.cut(None, content, meta_graph, signature, signature.name, arrays, kept)
    parts, kernels = stages.compile_parts([part], _threads(options), options, tilings.read())
    with output.written(bundle) as work:
        stages.link(None, meta_graph, parts, kernels, work)
        timed = stages.compare_and_time(None, meta_graph, parts[0], kernels, work, {}, options)
        if timed.uses != parts[0].uses:
            stages.link(None, meta_graph, [timed], kernels, work)
    if not timed.uses:
        return graph_def
    return graphdef.rewrite(graph_def, Edit(signature, timed.uses), bundle)


def _cut(
    source: Path,
    content: str,
    meta_graph: Any,
    model: savedmodel.Model,
    samples: Mapping[str, Mapping[str, Array]],
) -> list[Part]:
    names = stems(model.signatures)
    return [
        stages.cut(source, content, meta_graph, signature, names[name], samples[name])
        for name, signature in model.signatures.items()
    ]


def _check_target(options: Options) -> None:
    """SiriusError if no region could be compiled: each would stay on TensorFlow for this reason."""
    if options.target == "cuda":
        check_archs(options.arch)


def _threads(options: Options) -> int:
    return options.threads or native.default_threads()


def _stages(options: Options) -> Callable[[str], None]:
    """What begins a stage. Memory that the one before freed goes back to the system.

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


def _published(source: Path, target: Path, made: Draft, options: Options, start: float) -> Result:
    """Compare a draft with the original, and move it to the target.

    If a comparison of the same bytes on the same samples is remembered, there is nothing to load.
    """
    stage = _stages(options)
    stage("check")
    samples, tolerances = made.samples, made.tolerances
    compare = functools.partial(check.compare, source, made.work, made.tags, samples, tolerances)
    arrays = [(n, key, array_digest(x)) for n in samples for key, x in samples[n].items()]
    key = (made.content, arrays, sorted(tolerances.items()), stages.machine())
    measured = cache.remembered("checks", key, compare)
    stage("write")
    output.publish(made.work, target)
    path = target / "assets" / made.bundle
    exists = path.exists()
    return Result(
        target,
        path if exists else None,
        tuple(check.completed(report, measured[report.name]) for report in made.reports),
        time.monotonic() - start,
        output.size(target),
        path.stat().st_size if exists else 0,
        native.Bundle(path).manifest.get("cuda", {}).get("state", "") if exists else "",
    )


def _old_bundle(optimized: Path) -> tuple[Path, Mapping[str, Any]]:
    """The bundle of an optimized model, and its manifest."""
    found = sorted((optimized / "assets").glob("*.sirius.so"))
    if len(found) != 1:
        raise SiriusError(f"{optimized} has no bundle to refresh; convert the model anew")
    return found[0], native.Bundle(found[0]).manifest


def _time(
    work: Path,
    meta_graph: Any,
    parts: Sequence[Part],
    kernels: Mapping[str, Compiled],
    bundle: Path,
    options: Options,
) -> list[Part]:
    times: dict[str, tuple[float, float]] = {}
    return [
        stages.compare_and_time(work, meta_graph, part, kernels, bundle, times, options)
        for part in parts
    ]
