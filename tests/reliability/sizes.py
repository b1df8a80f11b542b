# SPDX-License-Identifier: Apache-2.0
"""Whether a rewritten model accepts what the original accepts, whatever the sizes are.

usage: python -m tests.reliability.sizes [--most=N] [NAME ...]

Of each small model of the zoo every signature is called at sizes 0, 1, 2 and 5 in every combination
of unknown dimensions, or in N of them that are drawn. Prints how many requests TensorFlow accepted,
how many of these the rewritten model answered alike, and what became of the others.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import app, flags, logging

import sirius_tf
from sirius_tf.tools.models import zoo
from tests.support.small_zoo import SIZES

EXTENTS = (0, 1, 2, 5)
TOLERANCE = 1e-4  # of the largest element of a result
Results = Mapping[str, np.ndarray] | type[Exception]


@dataclass
class Report:
    """Requests by what TensorFlow said of them, and those that were answered otherwise."""

    accepted: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)


def requests(
    specs: Mapping[str, tf.TensorSpec], most: int, seed: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """Inputs at combinations of extents of unknown dimensions, `most` of them at most."""
    rng = np.random.default_rng(seed)
    unknown = [(k, axis) for k, s in specs.items() for axis, n in enumerate(s.shape) if n is None]
    combinations = list(itertools.product(EXTENTS, repeat=len(unknown)))
    if len(combinations) > most:
        combinations = [combinations[k] for k in rng.choice(len(combinations), most, replace=False)]
    for extents in combinations:
        sizes = dict(zip(unknown, extents, strict=True))
        yield {
            key: _values(rng, spec, [sizes.get((key, a), n) for a, n in enumerate(spec.shape)])
            for key, spec in specs.items()
        }


def _values(rng: np.random.Generator, spec: tf.TensorSpec, shape: list[int]) -> np.ndarray:
    dtype = spec.dtype.as_numpy_dtype
    if spec.dtype == tf.string:
        return np.full(shape, "word", object)
    small = spec.dtype.is_integer or spec.dtype.is_bool
    return (rng.integers(0, 2, shape) if small else rng.standard_normal(shape)).astype(dtype)


def answer(signature: Any, arrays: Mapping[str, np.ndarray]) -> Results:
    """The results of a call, or the class of its error."""
    try:
        found = signature(**{key: tf.constant(array) for key, array in arrays.items()})
    except tf.errors.OpError as error:
        return type(error)
    return {key: value.numpy() for key, value in found.items()}


def alike(got: Results, want: Results) -> bool:
    """Whether a call was answered as TensorFlow does: with the same error, or nearly the same."""
    if not isinstance(got, Mapping) or not isinstance(want, Mapping):
        return got is want
    return all(got[key].shape == x.shape and _near(got[key], x) for key, x in want.items())


def _near(x: np.ndarray, y: np.ndarray) -> bool:
    if y.dtype == object:
        return np.array_equal(x, y)
    return bool(np.allclose(x, y, 0, TOLERANCE * _largest(y), equal_nan=True))


def _largest(array: np.ndarray) -> float:
    finite = np.abs(array[np.isfinite(array)].astype(np.float64))
    return float(finite.max(initial=1e-6))


def compare(original: Path, rewritten: Path, most: int) -> Report:
    """Call two models that are to be the same."""
    report = Report()
    theirs, ours = (tf.saved_model.load(str(path)).signatures for path in (original, rewritten))
    for name, signature in theirs.items():
        for arrays in requests(signature.structured_input_signature[1], most):
            want, got = answer(signature, arrays), answer(ours[name], arrays)
            report.accepted += isinstance(want, Mapping)
            report.refused += not isinstance(want, Mapping)
            if not alike(got, want):
                shapes = {key: array.shape for key, array in arrays.items()}
                said = [x.__name__ if isinstance(x, type) else "results" for x in (want, got)]
                report.wrong.append(f"{name}{shapes}: {said[0]} became {said[1]}")
    return report


def of_model(name: str, most: int) -> Report:
    """Convert a small model of the zoo, and compare both."""
    with tempfile.TemporaryDirectory() as folder:
        path, target = Path(folder, "model"), Path(folder, "rewritten")
        samples = zoo.build(name, path, **SIZES[name])
        options = sirius_tf.Options(keep_slow=True)
        sirius_tf.optimize(path, target, samples=samples, options=options)
        return compare(path, target, most)


def main(argv: list[str]) -> None:
    """See the module."""
    logging.set_verbosity(logging.WARNING)
    for name in argv[1:] or SIZES:
        report = of_model(name, flags.FLAGS.most)
        alike_ = f"{report.accepted} accepted, {report.refused} refused, {len(report.wrong)} wrong"
        print(f"{name}: {alike_}", *report.wrong, sep="\n  ", flush=True)


if __name__ == "__main__":
    flags.DEFINE_integer("most", 256, "Requests of a signature.")
    app.run(main)
