# SPDX-License-Identifier: Apache-2.0
"""The kernels of regions, one for regions that are the same."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sirius_tf.bundle import cache, cuda
from sirius_tf.codegen.cpu.kernel import Kernel
from sirius_tf.compile import compile_cuda, compile_program
from sirius_tf.config import Options
from sirius_tf.driver import failures
from sirius_tf.driver.parts import Part, hints
from sirius_tf.errors import SiriusError
from sirius_tf.frontend.graph import show
from sirius_tf.lower.graph import lower
from sirius_tf.observers import Dump
from sirius_tf.pipeline import PIPELINE, Pipeline
from sirius_tf.rewrite.nodedef import tensor_name
from sirius_tf.rewrite.regions import Region
from sirius_tf.rewrite.substitute import Use


@dataclass(frozen=True, eq=False)
class Compiled:
    """A kernel, what it was made for, and a hash of its code, in which the weights are not.

    `cuda` is the region's kernel for GPUs, if it has one. `no_cuda` says why not, if it was to have
    one. `tilings` are the measured ones among its tile sizes, by the key of the cluster. Some
    checks of a kernel that is `narrow` refuse what TensorFlow may accept.
    """

    kernel: Kernel
    cuda: cuda.Compiled | None
    threads: int
    hints: Mapping[str, Sequence[int]]
    code: str
    strict_math: bool
    without: tuple[str, ...]
    tilings: Mapping[str, Sequence[int]]
    no_cuda: str = ""
    narrow: bool = False

    @property
    def launch(self) -> str:
        """The way its phases follow each other on a GPU, or why there is no code for one."""
        return self.cuda.kernel.launch if self.cuda else self.no_cuda

    @property
    def note(self) -> dict[str, object]:
        """The notes on the kernel for the manifest."""
        hints = {name: list(shape) for name, shape in self.hints.items()}
        note = {"threads": self.threads, "hints": hints, "code": self.code}
        note |= {"without": list(self.without)} if self.without else {}
        return {**note, "strict_math": self.strict_math, "tilings": self.tilings}


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
                except Exception as error:  # may be a defect, which costs this region and no more
                    failed[region.name] = failures.reason(region, error)
                    continue
                names[key] = region.name
            uses.append(Use(region, names[key]))
        part = replace(part.without(failed), uses=tuple(uses))
        made.append(with_originals(part, kernels))
    return made, kernels


def with_originals(part: Part, kernels: Mapping[str, Compiled]) -> Part:
    """The part in which regions that may refuse what TensorFlow accepts have the original ops
    beside them: by a narrow check, or as the rank of an input is that of the sample."""
    graph = part.signature.graph
    ranked = {tensor.name for tensor in part.signature.inputs.values() if tensor.shape is None}
    uses = tuple(
        replace(
            use,
            may_refuse=kernels[use.kernel].narrow
            or any(tensor_name(edge, graph) in ranked for edge in use.region.inputs),
        )
        for use in part.uses
    )
    return replace(part, uses=uses)


def compile_region(
    region: Region,
    hints: Mapping[str, Sequence[int]],
    threads: int,
    options: Options,
    tilings: Mapping[str, Sequence[int]],
) -> Compiled:
    """Compile one region; every stage is dumped, if the user wants that."""
    used: dict[str, Sequence[int]] = {}
    passes = pipeline_of(options)
    dump = _writer(options.dump, region.name) if options.dump else None

    def measured(cluster: str) -> Sequence[int] | None:
        if cluster in tilings:
            used[cluster] = tilings[cluster]
        return used.get(cluster)

    def make() -> Compiled:
        if dump:
            dump("graph", show(region.graph))
        program = lower(region.graph, hints)
        kernel = compile_program(program, threads, dump, passes, measured)
        compiled, source, problem = None, "", ""
        if options.target == "cuda":
            kinds = options.cuda_launch, options.precision, options.arch
            try:
                code = compile_cuda(program, options.arch[-1], dump, passes, *kinds)
                source = code.source
                compiled = cuda.compile_kernel(code, options.arch)
            except SiriusError as error:  # there is still the CPU's
                problem = f"none: {error}"
        text = kernel.plan + kernel.runs["v3"] + source
        digest = hashlib.sha256(text.encode()).hexdigest()
        how = options.strict_math, options.without
        narrow = any(check.narrow for check in program.checks)
        return Compiled(kernel, compiled, threads, hints, digest, *how, used, problem, narrow)

    if options.dump is not None:  # what is remembered shows no stages
        return make()
    kinds = (options.arch, options.cuda_launch, options.precision)
    of = (region.name, region.digest, sorted(hints.items()))
    on_gpus = kinds if options.target == "cuda" else ()
    how = options.strict_math, sorted(options.without)
    key = (*of, threads, *how, sorted(tilings.items()), on_gpus)
    return cache.remembered("kernels", key, make, lambda made: not made.no_cuda)


def pipeline_of(options: Options) -> Pipeline:
    """The passes of a conversion."""
    passes = PIPELINE.without(options.without)
    return passes.strict() if options.strict_math else passes


def _writer(folder: Path, region: str) -> Dump:
    """A function that writes a numbered file for each stage of a region."""
    numbers = itertools.count()

    def write(stage: str, text: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{region}.{next(numbers):02}.{stage}.txt").write_text(text + "\n")

    return write
