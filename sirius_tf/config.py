# SPDX-License-Identifier: Apache-2.0
"""Choices of the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Launch = Literal["auto", "persistent", "graph"]
Precision = Literal["strict", "tf32", "tf32x3", "half"]
"""The format to which GPUs' matrix units round float32 factors; "strict" leaves the units idle."""


@dataclass(frozen=True)
class Options:
    """Options of a conversion.

    threads: how many threads the schedule is made for; 0 is as many as this process may use.
    tolerance: the greatest relative error (in the L2 norm) of a floating-point output, unless the
        original's own output changes by more when inputs change in their last bits. Where a model
        rounds to half precision, some steps of that are allowed.
    keep_slow: keep regions that are slower than the ops they replace, or make a signature slower.
    strict_math: sums are only taken in another order; without it, constant factors go into weights,
        small powers are products, and sums over three by three taps may be Winograd's, unless
        results then differ by more than the tolerance.
    keep_variables: the code reads variables where they are, and follows assignments after loading.
        Without it, their values are constants, and packed for it.
    force: replace an output that exists.
    dump: a folder for the text of every stage, `<region>.<n>.<stage>.txt`; a pass that
        changed something is a stage.
    progress: is called with the name of each stage as it begins.
    without: passes, and parts of the scheduler, that are left out, by name (pipeline.py), to see
        what each does.
    bundle: where that of a bare GraphDef is written. Without it, that is graph.sirius.0.so, or the
        next number that is free. A SavedModel has it in its assets.
    target: "cuda" adds kernels for GPUs to a bundle, which runs on CPUs in any case.
    arch: the architectures these are compiled for.
    cuda_launch: how phases follow each other on a GPU: all in one "persistent" kernel, or each as a
        kernel of a CUDA "graph", where there are no loops around them; "auto" takes what a model of
        their costs says.
    precision: of float32 factors of products that GPUs sum up, in float32, by mma.sync. "strict":
        float32, without these units. "tf32": 11 bits, a relative error of 2^-11 each. "tf32x3": a
        sum of two of these, 2^-22, for three times the work. "half": float16, 2^-11, and infinite
        from 65520 on. Two float16, or two bfloat16, have exact products, and always use mma.sync.
    """

    threads: int = 0
    tolerance: float = 1e-5
    keep_slow: bool = False
    strict_math: bool = False
    keep_variables: bool = False
    force: bool = False
    dump: Path | None = None
    without: tuple[str, ...] = ()
    progress: Callable[[str], None] | None = None
    bundle: Path | None = None
    target: Literal["cpu", "cuda"] = "cpu"
    arch: tuple[str, ...] = ("sm_80", "sm_90")
    cuda_launch: Launch = "auto"
    precision: Precision = "strict"
