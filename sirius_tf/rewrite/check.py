# SPDX-License-Identifier: Apache-2.0
"""The rewritten model against the original, loaded as users load them: by session, as objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.saved_model import loader_impl

from sirius_tf.errors import SiriusError
from sirius_tf.rewrite.measure import interleaved, relative_error

Array = np.ndarray[Any, Any]
Call = Callable[[], dict[str, Array]]
_UNLOADABLE = (AttributeError, KeyError, NotImplementedError, TypeError, ValueError)


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
    """Call every signature of both models on the samples. Raises SiriusError if one differs.

    Servers load a model into a session, Python as objects; the bundle's path has a way of its own
    in each. Objects of some models need Python code that is not there: those have sessions only.
    """
    try:
        with ExitStack() as stack:
            theirs, ours = (_session(stack, path, tags, samples) for path in (original, rewritten))
            errors = {name: _error(name, theirs[name], ours[name], tolerance) for name in samples}
            times = {name: interleaved(theirs[name], ours[name]) for name in samples}
        objects = _objects(original, tags, samples)
        if objects is not None:
            again = _objects(rewritten, tags, samples)
            if again is None:
                raise SiriusError("the objects of the rewritten model cannot be loaded")
            for name in samples:
                _error(name, objects[name], again[name], tolerance)
    except tf.errors.OpError as error:
        raise SiriusError(f"the model or what became of it does not run: {error}") from error
    return {name: Measured(errors[name], *times[name]) for name in samples}


def _error(name: str, theirs: Call, ours: Call, tolerance: float) -> float:
    want, got = theirs(), ours()
    errors = {key: relative_error(got[key], want[key]) for key in want}
    worst = max(errors, key=lambda key: errors[key], default="")
    if worst and not errors[worst] <= tolerance:
        raise SiriusError(
            f"signature '{name}': output '{worst}' of the rewritten model has an error of "
            f"{errors[worst]:.1e}, more than {tolerance:.1e}; nothing is written"
        )
    return max(errors.values(), default=0.0)


def _session(
    stack: ExitStack,
    path: Path,
    tags: Sequence[str],
    samples: Mapping[str, Mapping[str, Array]],
) -> dict[str, Call]:
    """The signatures of a model loaded into a session, on the samples."""
    session = stack.enter_context(tf.compat.v1.Session(graph=tf.Graph()))
    with session.graph.as_default():
        loader = loader_impl.SavedModelLoader(str(path))
        definitions = loader.load(session, list(tags)).signature_def
    calls = {}
    for name, arrays in samples.items():
        inputs, outputs = definitions[name].inputs, definitions[name].outputs
        feeds = [inputs[key].name for key in arrays]
        run = session.make_callable({key: outputs[key].name for key in outputs}, feeds)
        calls[name] = _bound(run, list(arrays.values()))
    return calls


def _bound(run: Callable[..., Mapping[str, Any]], arrays: Sequence[Array]) -> Call:
    return lambda: {key: np.asarray(value) for key, value in run(*arrays).items()}


def _objects(
    path: Path, tags: Sequence[str], samples: Mapping[str, Mapping[str, Array]]
) -> dict[str, Call] | None:
    """The signatures of a model loaded as objects, on the samples; None if it cannot be."""
    try:
        model = tf.saved_model.load(str(path), tags=list(tags))
    except _UNLOADABLE:
        return None
    return {name: _object(model, name, arrays) for name, arrays in samples.items()}


def _object(model: Any, name: str, arrays: Mapping[str, Array]) -> Call:
    feeds = {key: tf.constant(array) for key, array in arrays.items()}

    def call() -> dict[str, Array]:
        results = model.signatures[name](**feeds)
        return {key: np.asarray(value) for key, value in results.items()}

    return call
