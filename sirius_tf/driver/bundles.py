# SPDX-License-Identifier: Apache-2.0
"""The bundle of a model: its kernels, and the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sirius_tf.bundle import link as linker
from sirius_tf.bundle import marks, seal
from sirius_tf.bundle.cc import CodeError, CompilerError, NoCompilerError
from sirius_tf.codegen.entry import plan_reads
from sirius_tf.config import Options
from sirius_tf.driver import failures
from sirius_tf.driver.kernels import Compiled
from sirius_tf.driver.parts import Part
from sirius_tf.errors import SiriusError
from sirius_tf.rewrite.manifest import manifest


def notes(options: Options) -> dict[str, object]:
    """The notes of a conversion for the manifest: what new weights must be compiled alike for."""
    return {"keep_variables": options.keep_variables}


def link_what_compiles(
    work: Path | None,
    meta_graph: Any,
    parts: Sequence[Part],
    kernels: Mapping[str, Compiled],
    bundle: Path,
    noted: Mapping[str, object] = MappingProxyType({}),
) -> tuple[list[Part], dict[str, Compiled]]:
    """Link the bundle as `link` does; regions whose code the C compiler, or the linker, does not
    accept go back to TensorFlow."""
    parts = list(parts)
    while True:
        try:
            return parts, link(work, meta_graph, parts, kernels, bundle, noted)
        except NoCompilerError:
            raise
        except CodeError as error:
            failed: Mapping[str, CompilerError] = {error.kernel: error}
        except CompilerError as error:
            failed = _not_linked(parts, kernels, bundle)
            if not failed:
                raise SiriusError(
                    "nothing is written, since the C compiler cannot link a bundle, not even one "
                    f"without code: look at its words, and at SIRIUS_CC: {error}"
                ) from error
        parts = [part.without(_reasons(part, failed)) for part in parts]


def _reasons(part: Part, failed: Mapping[str, CompilerError]) -> dict[str, str]:
    """Why regions go back to TensorFlow, by the errors of their kernels."""
    uses = (use for use in part.uses if use.kernel in failed)
    return {use.region.name: failures.noted(use.region, failed[use.kernel]) for use in uses}


def _not_linked(
    parts: Sequence[Part], kernels: Mapping[str, Compiled], bundle: Path
) -> dict[str, CompilerError]:
    """The kernels that cannot be linked even alone; none, if that is no fault of theirs, since
    not even a bundle without kernels can be linked."""
    used = dict.fromkeys(use.kernel for part in parts for use in part.uses)
    failed: dict[str, CompilerError] = {}
    for name in ("", *used):
        alone = [kernels[name].kernel] if name else []
        for_gpus = [c] if name and (c := kernels[name].cuda) else []
        try:
            linker.link(alone, bundle, {}, cuda=for_gpus)
        except CompilerError as error:
            if not name:
                return {}
            failed[name] = error
    return failed


def link(
    work: Path | None,
    meta_graph: Any,
    parts: Sequence[Part],
    kernels: Mapping[str, Compiled],
    bundle: Path,
    noted: Mapping[str, object] = MappingProxyType({}),
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
    content = manifest(work, meta_graph, signatures) | dict(noted)
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
    digests = {use.kernel: use.region.digest for part in parts for use in part.uses}
    if old is not None:
        linker.repack(old, bundle, made, content, variables, for_gpus, digests)
    else:
        linker.link(made, bundle, content, variables, cuda=for_gpus, digests=digests)
    left, left_for_gpus = linker.left_in_file(made, bundle, for_gpus)
    on_gpus = {c.kernel.program.name: c for c in left_for_gpus}
    return {
        name: replace(kernels[name], kernel=kernel, cuda=on_gpus.get(name))
        for name, kernel in zip(used, left, strict=True)
    }


def note_accuracy(parts: Sequence[Part], bundle: Path) -> None:
    """Write the errors of regions, which are known once the bundle has run, into its manifest."""
    reports = {region.name: region for part in parts for region in part.timed}
    found = {use.kernel: reports[use.region.name].accuracy for part in parts for use in part.uses}
    if not found:
        return

    def change(manifest: dict[str, Any]) -> None:
        for name, accuracy in found.items():
            manifest["kernels"][name]["accuracy"] = asdict(accuracy)

    data = bytearray(bundle.read_bytes())
    del data[seal.content_size(data, bundle) :]
    marks.edit_manifest(data, bundle, change)
    seal.write_sealed(bundle, [data])
