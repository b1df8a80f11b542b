# SPDX-License-Identifier: Apache-2.0
"""Hostile requests, answered under AddressSanitizer and UBSan, beside TensorFlow.

usage: python -m tests.reliability.hostile [--distinct=N] [--cases=WORD,...]

Numbers that decide sizes, positions and repetitions are at the ends of their types, elements are
NaN, infinite, denormal or the greatest there are, tensors are empty. Each distinct request is
answered once by TensorFlow, and by 1 to 4 workers for AVX2 and AVX-512: with the same bits, and
with TensorFlow's numbers, or refused where TensorFlow refuses. Sizes that overflow 64 bits are
refused also where TensorFlow lets them wrap, and so are two unknown sizes that meet and are not
equal, where one of them is 1 and TensorFlow repeats it.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ml_dtypes
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


def flushed(x: np.ndarray) -> np.ndarray:
    """Denormals as zero, as which code reads them; TensorFlow does in some of its threads."""
    if x.dtype.kind in "iub":
        return x
    tiny = np.array(ml_dtypes.finfo(x.dtype).tiny, x.dtype)
    with np.errstate(invalid="ignore"):
        return np.where(abs(x) < tiny, np.copysign(np.zeros_like(x), x), x)


def difference(answers: Sequence[sanitized.Answer], wanted, arrays, other=None) -> str:
    """What is wrong with the answers to one request, or nothing; `other` are TensorFlow's numbers
    where denormals are zero."""
    first = answers[0]
    if isinstance(first, sanitized.Refusal):
        if any(getattr(a, "code", None) != first.code for a in answers):
            return "it is refused by some workers only"
        whole = [abs(x.astype(object)).max() for x in arrays if x.dtype.kind == "i" and x.size]
        wraps = max(whole, default=0) > HUGE
        repeats = first.message.endswith(" must be equal")
        return "" if wanted is None or wraps or repeats else f"we alone refuse: {first.message}"
    if any(isinstance(a, sanitized.Refusal) for a in answers):
        return "it is refused by some workers only"
    for other in answers[1:]:
        if any(x.tobytes() != y.tobytes() for x, y in zip(first, other, strict=True)):
            return "workers have other bits"
    if wanted is None:
        return "TensorFlow alone refuses"
    for k, (x, y, z) in enumerate(zip(first, wanted, other or wanted, strict=True)):
        if (x.dtype, x.shape) != (y.dtype, y.shape):
            return f"output {k} is {x.dtype}{x.shape}, not {y.dtype}{y.shape}"
        unit = {"float64": 1e-9, "float16": 2e-3, "bfloat16": 2e-2}.get(x.dtype.name, 1e-5)
        near = _near(x, y, unit) | _near(x, z, unit)
        if not np.all(near):
            at = tuple(np.argwhere(~np.asarray(near))[0])
            return f"output {k}{at} is {x[at]}, not {y[at]}"
    return ""


def _unless_same(function, arrays) -> list[np.ndarray] | None:
    """TensorFlow's results where denormals are zero, if there are any."""
    zeros = [flushed(x) for x in arrays]
    alike = all(x.tobytes() == y.tobytes() for x, y in zip(arrays, zeros, strict=True))
    return None if alike else expected(function, zeros)


def _near(x: np.ndarray, y: np.ndarray, unit: float) -> np.ndarray:
    if x.dtype.kind in "iub":
        return np.asarray(x == y)
    return np.isclose(x.astype(np.float64), y.astype(np.float64), unit, 1e-30, equal_nan=True)


def check(item: Compiled, builds, distinct: int, counts: Counter) -> None:
    """Answer the requests of one case; print what is wrong, and count."""
    made = requests(item.case, distinct)
    wanted = [expected(item.function, arrays) for arrays in made]
    others = [_unless_same(item.function, arrays) for arrays in made]
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
        for arrays, want, other, found in zip(made, wanted, others, answers, strict=True):
            counts["calls"] += len(found)
            what = difference(found, want, arrays, other)
            counts["other than TensorFlow"] += bool(what)
            if what and shown < 3:
                shown += 1
                listed = [x.tolist() for x in arrays if x.size < 12]
                print(f"{item.case.name}, {isa}: {what}; {listed}"[:600], flush=True)


def measure(cases: Sequence[Case], distinct: int) -> Counter[str]:
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
