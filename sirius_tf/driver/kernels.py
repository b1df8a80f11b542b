# SPDX-License-Identifier: Apache-2.0
"""The kernels of regions, one for regions that are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sirius_tf.bundle import cache, cuda
from sirius_tf.codegen.cpu.kernel import Kernel
from sirius_tf.compile import NOT_STRICT, compile_cuda, compile_graph
from sirius_tf.config import Options
from sirius_tf.driver import failures
from sirius_tf.driver.parts import Part, hints
from sirius_tf.errors import SiriusError
from sirius_tf.frontend.graph import show
from sirius_tf.lower.graph import lower
from sirius_tf.rewrite.regions import Region
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
        """The notes on the kernel for the manifest."""
        hints = {name: list(shape) for name, shape in self.hints.items()}
        note = {"threads": self.threads, "hints": hints, "code": self.code}
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
                except SiriusError as error:
                    failed[region.name] = f"{type(error).__name__}: {error}"
                    continue
                except Exception as error:  # a defect, which costs this region and no more
                    failed[region.name] = failures.noted(region, error)
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
