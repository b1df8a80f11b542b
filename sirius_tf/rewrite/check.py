# SPDX-License-Identifier: Apache-2.0
"""The rewritten model against the original, loaded as a user loads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from sirius_tf.errors import SiriusError
from sirius_tf.rewrite.measure import interleaved, relative_error

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Measured:
    """The greatest error of an output of a signature, and the milliseconds of a call."""

    error: float
    tf_ms: float
    sirius_ms: float


def compare(
    original: Path,
    rewritten: Path,
    tags: Sequence[str],
    samples: Mapping[str, Mapping[str, Array]],
    tolerance: float,
) -> dict[str, Measured]:
    """Call every signature of both models on the samples. Raises SiriusError if one differs."""
    try:
        models = [tf.saved_model.load(str(path), tags=list(tags)) for path in (original, rewritten)]
        return {
            name: _compare(name, [m.signatures[name] for m in models], arrays, tolerance)
            for name, arrays in samples.items()
        }
    except tf.errors.OpError as error:
        raise SiriusError(f"the rewritten model does not run: {error}") from error


def _compare(
    name: str, functions: Sequence[Any], arrays: Mapping[str, Array], tolerance: float
) -> Measured:
    feeds = {key: tf.constant(array) for key, array in arrays.items()}
    want, got = (
        {key: value.numpy() for key, value in function(**feeds).items()} for function in functions
    )
    if want.keys() != got.keys():
        raise SiriusError(f"signature '{name}' has outputs {sorted(got)}, not {sorted(want)}")
    errors = {key: relative_error(np.asarray(got[key]), np.asarray(want[key])) for key in want}
    worst = max(errors, key=lambda key: errors[key], default=None)
    if worst is not None and not errors[worst] <= tolerance:
        raise SiriusError(
            f"signature '{name}': output '{worst}' of the rewritten model has an error of "
            f"{errors[worst]:.1e}, more than {tolerance:.1e}; nothing is written"
        )
    error = errors[worst] if worst is not None else 0.0
    return Measured(error, *interleaved(*(_caller(function, feeds) for function in functions)))


def _caller(function: Any, feeds: Mapping[str, Any]) -> Any:
    return lambda: [value.numpy() for value in function(**feeds).values()]
