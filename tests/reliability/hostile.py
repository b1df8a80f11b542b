# SPDX-License-Identifier: Apache-2.0
"""Hostile requests, answered under AddressSanitizer and UBSan, beside TensorFlow.

usage: python -m tests.reliability.hostile [--distinct=N] [--cases=WORD,...]

Numbers that decide sizes, positions and repetitions are at the ends of their types, elements are
NaN, infinite, denormal or the greatest there are, tensors are empty. Each distinct request is
answered once by TensorFlow, and by 1 to 4 workers for AVX2 and AVX-512: with the same bits, and
with TensorFlow's numbers, or refused where TensorFlow refuses. Sizes that overflow 64 bits are
refused also where TensorFlow lets them wrap.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import app, flags

from sirius_tf.compile import compile_program
from sirius_tf.errors import Unsupported
from tests.reliability.hostile_cases import CASES, Case, requests
from tests.support import sanitized
from tests.support.parity import lowered

REFUSED = (tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError)
WORKERS = (1, 2, 3, 4)
HUGE = 2**60  # from there on TensorFlow's sums and products of sizes may wrap
_DISTINCT = flags.DEFINE_integer("distinct", 4000, "Distinct requests of each case, at most.")
_CASES = flags.DEFINE_list("cases", [], "Words of which a case's name has one; all by default.")


@dataclass(frozen=True)
class Compiled:
    """A case as TensorFlow's function, and the number of its kernel."""

    case: Case
    function: object
    kernel: int


def compiled(cases: Sequence[Case]) -> tuple[list[Compiled], list[object]]:
    """The cases that can be compiled, and their kernels."""
    found, kernels = list[Compiled](), list[object]()
    for case in cases:
        try:
            function, program = lowered(case.fn, *case.specs)
            kernels.append(compile_program(replace(program, name=f"k{len(kernels)}"), 4))
        except Unsupported as error:
            print(f"{case.name}: {error}")
            continue
        found.append(Compiled(case, function, len(kernels) - 1))
    return found, kernels


def expected(function, arrays) -> list[np.ndarray] | None:
    """TensorFlow's results, or None where it refuses, or numpy has no such arrays."""
    try:
        found = function(*map(tf.constant, arrays))
        return [x.numpy() for x in (found if isinstance(found, list | tuple) else [found])]
    except REFUSED:
        return None


def difference(answers: Sequence[sanitized.Answer], wanted, arrays) -> str:
    """What is wrong with the answers to one request, or nothing."""
    first = answers[0]
    if isinstance(first, sanitized.Refusal):
        if any(getattr(a, "code", None) != first.code for a in answers):
            return "it is refused by some workers only"
        whole = [abs(x.astype(object)).max() for x in arrays if x.dtype.kind == "i" and x.size]
        wraps = max(whole, default=0) > HUGE
        return "" if wanted is None or wraps else f"we alone refuse: {first.message}"
    if any(isinstance(a, sanitized.Refusal) for a in answers):
        return "it is refused by some workers only"
    for other in answers[1:]:
        if any(x.tobytes() != y.tobytes() for x, y in zip(first, other, strict=True)):
            return "workers have other bits"
    if wanted is None:
        return "TensorFlow alone refuses"
    for k, (x, y) in enumerate(zip(first, wanted, strict=True)):
        if (x.dtype, x.shape) != (y.dtype, y.shape):
            return f"output {k} is {x.dtype}{x.shape}, not {y.dtype}{y.shape}"
        unit = {"float64": 1e-9, "float16": 2e-3, "bfloat16": 2e-2}.get(x.dtype.name, 1e-5)
        a, b = (v if v.dtype.kind in "iub" else v.astype(np.float64) for v in (x, y))
        near = np.isclose(a, b, unit, 1e-30, equal_nan=True) if a.dtype.kind == "f" else a == b
        if not np.all(near):
            at = tuple(np.argwhere(~np.asarray(near))[0])
            return f"output {k}{at} is {x[at]}, not {y[at]}"
    return ""


def check(item: Compiled, builds, distinct: int, counts: Counter) -> None:
    """Answer the requests of one case; print what is wrong, and count."""
    made = requests(item.case, distinct)
    wanted = [expected(item.function, arrays) for arrays in made]
    counts["distinct requests"] += len(made)
    counts["refused by TensorFlow"] += sum(w is None for w in wanted)
    shown = 0
    for isa, built in builds.items():
        try:
            answers = list(built.answers(made, WORKERS, True, item.kernel))
        except sanitized.SanitizerError as error:
            counts["ended by a signal, or with a leak"] += 1
            print(f"{item.case.name}, {isa}: {str(error)[-1500:]}", flush=True)
            continue
        for arrays, want, found in zip(made, wanted, answers, strict=True):
            counts["calls"] += len(found)
            what = difference(found, want, arrays)
            counts["other than TensorFlow"] += bool(what)
            if what and shown < 3:
                shown += 1
                listed = [x.tolist() for x in arrays if x.size < 12]
                print(f"{item.case.name}, {isa}: {what}; {listed}"[:600], flush=True)


def measure(cases: Sequence[Case], distinct: int) -> Counter:
    """The counts of some cases."""
    items, kernels = compiled(cases)
    counts = Counter({"cases": len(items)})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        host = sanitized.build_host(folder)
        builds = {
            isa: sanitized.build_all(kernels, host, folder / isa, isa) for isa in ("v3", "v4")
        }
        for item in items:
            check(item, builds, distinct, counts)
    return counts


def main(_: list[str]) -> None:
    logging.disable(logging.WARNING)
    words = _CASES.value
    cases = [c for c in CASES if not words or any(w in c.name for w in words)]
    for key, count in measure(cases, _DISTINCT.value).items():
        print(f"{key}: {count}")


if __name__ == "__main__":
    app.run(main)
