# SPDX-License-Identifier: Apache-2.0
"""The rewritten model against the original, loaded as users load them: by session, as objects."""

from __future__ import annotations

import functools
import gc
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.saved_model import loader_impl

from sirius_tf.errors import DifferenceError, SiriusError
from sirius_tf.report import SignatureReport
from sirius_tf.rewrite import difference
from sirius_tf.rewrite.measure import fairly

Array = np.ndarray[Any, Any]
Samples = Mapping[str, Mapping[str, Array]]
_ATTEMPTS = 6  # TensorFlow lifts references out of TF1's loops in an order of chance
_ALIKE, _ALIKE_MS = 1.05, 5e-3  # times, and milliseconds, by which measurements of one call differ
_UNLOADABLE = (AttributeError, KeyError, NotImplementedError, TypeError, ValueError)


@dataclass(frozen=True)
class Measured:
    """The greatest error of an output of a signature, and the milliseconds of a call: on the
    samples, and on twice the samples, where that is possible, of the original and of ours."""

    error: float
    tf_ms: float
    sirius_ms: float
    twice: tuple[float, float] = (0.0, 0.0)

    @property
    def slower(self) -> str:
        """The times on samples on which the rewritten signature is slower than the original, by
        more than measurements differ, as text; "" if there are none."""
        found = {"samples": (self.tf_ms, self.sirius_ms), "twice the samples": self.twice}
        for samples, (theirs, ours) in found.items():
            if ours > _ALIKE * theirs + _ALIKE_MS:
                return f"{ours:.3g} ms against {theirs:.3g} ms on {samples}"
        return ""


@dataclass(frozen=True)
class Call:
    """A signature on its samples."""

    run: Callable[..., Mapping[str, Any]]
    arrays: tuple[Array, ...]

    def __call__(self) -> dict[str, Array]:
        """The outputs."""
        return self._on(self.arrays)

    def rounding(self) -> list[float]:
        """The change of each output with the last bits of the samples."""
        return difference.rounding(lambda arrays: list(self._on(arrays).values()), self.arrays)

    def _on(self, arrays: Sequence[Array]) -> dict[str, Array]:
        return {key: _array(value) for key, value in self.run(*arrays).items()}


Calls = Mapping[str, Call]
Load = Callable[[ExitStack, Path, Sequence[str], Samples], Calls]


def compare(
    original: Path,
    rewritten: Path,
    tags: Sequence[str],
    samples: Samples,
    tolerances: Mapping[str, float],
    random: Mapping[str, Collection[str]],
    twice: Samples = MappingProxyType({}),
    twins: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Measured]:
    """Call every signature of both models on the samples. Raises SiriusError if one differs.

    Servers load a model into a session, Python as objects; the bundle's path has a way of its own
    in each. Objects of some models need Python code that is not there: those have sessions only.
    Variables of others are restored by objects only: those run in no session. Of outputs that are
    `random` the dtype and the rank are compared. On samples that are given `twice`, by signature,
    both are timed, too.
    A signature that has a twin, of which calls take as long, is not timed by itself.
    """
    try:
        with ExitStack() as stack:
            theirs, results, load = _original(stack, original, tags, samples)
            ours = load(stack, rewritten, tags, samples)
            errors = {
                name: _error(
                    name,
                    want,
                    _known(ours[name](), want, random.get(name, ())),
                    tolerances[name],
                    theirs[name].rounding,
                )
                for name, want in results.items()
            }
            timed = [name for name in samples if name not in twins]
            times = {name: fairly(theirs[name], ours[name]) for name in timed}
            larger = {n: _larger(theirs[n], ours[n], twice[n]) for n in timed if n in twice}
        del theirs, ours
        gc.collect()  # the sessions' graphs are circles
        if load is _session:
            _compare_objects(original, rewritten, tags, samples, results, tolerances, random)
    except tf.errors.OpError as error:
        raise SiriusError(f"the model or what became of it does not run: {error}") from error
    return {
        name: Measured(errors[name], *times[of], larger.get(of, (0.0, 0.0)))
        for name, of in ((name, twins.get(name, name)) for name in samples)
    }


def _larger(theirs: Call, ours: Call, samples: Mapping[str, Array]) -> tuple[float, float]:
    """The milliseconds of a call on other samples; zeros if the original does not run on these, and
    without end if ours does not."""
    theirs, ours = (replace(call, arrays=tuple(samples.values())) for call in (theirs, ours))
    for call, answer in ((theirs, (0.0, 0.0)), (ours, (0.0, math.inf))):
        try:
            call()
        except (tf.errors.OpError, ValueError):
            return answer
    return fairly(theirs, ours)


def _original(
    stack: ExitStack, path: Path, tags: Sequence[str], samples: Samples
) -> tuple[Calls, dict[str, dict[str, Array]], Load]:
    """The original in a session, or as objects if it does not run there; its results; and how it
    was loaded."""
    with ExitStack() as own:  # objects must not be called while a session is entered
        try:
            calls = _session(own, path, tags, samples)
            results = {name: call() for name, call in calls.items()}
            stack.enter_context(own.pop_all())
            return calls, results, _session
        except tf.errors.OpError as error:
            problem = error
    objects = _loaded(path, tags, samples)
    if isinstance(objects, Exception):
        raise problem from objects
    return objects, {name: call() for name, call in objects.items()}, _objects


def _compare_objects(
    original: Path,
    rewritten: Path,
    tags: Sequence[str],
    samples: Samples,
    results: Mapping[str, Mapping[str, Array]],
    tolerances: Mapping[str, float],
    random: Mapping[str, Collection[str]],
) -> None:
    """Compare what the rewritten model returns as objects with the results of the original."""
    objects = _loaded(rewritten, tags, samples)
    if isinstance(objects, Exception):
        if isinstance(_loaded(original, tags, samples), Exception):
            return
        raise _unloadable(objects) from objects
    for name, call in objects.items():
        again = functools.partial(_rounding, original, tags, samples, name)
        got = _known(call(), results[name], random.get(name, ()))
        _error(name, results[name], got, tolerances[name], again)


def _unloadable(error: Exception) -> SiriusError:
    return SiriusError(
        "the objects of the rewritten model cannot be loaded, as those of the original can: "
        f"{type(error).__name__}: {error}; nothing is written"
    )


def completed(report: SignatureReport, measured: Measured | None) -> SignatureReport:
    """A report with what a comparison measured; None if there are no samples to compare with."""
    if measured is None:
        return report
    ours = sum(region.sirius_ms for region in report.regions if region.kept)
    kept = any(region.kept for region in report.regions)
    return replace(
        report,
        tf_ms=measured.tf_ms,
        sirius_ms=measured.sirius_ms,
        tf_share_after=max(0.0, 1.0 - ours / measured.sirius_ms) if kept else 1.0,
        max_error=measured.error,
    )


def _array(value: Any) -> Array:
    """A result as an array; of strings, whatever their number, an array of objects."""
    return np.asarray(value, object) if isinstance(value, bytes) else np.asarray(value)


def _known(
    got: Mapping[str, Array], want: Mapping[str, Array], random: Collection[str]
) -> dict[str, Array]:
    """Results in which random ones, if they are of the right kind, are those that are wanted."""
    same = {k for k in random if k in got and got[k].dtype == want[k].dtype}
    return {k: want[k] if k in same and x.ndim == want[k].ndim else x for k, x in got.items()}


def _error(
    name: str,
    want: Mapping[str, Array],
    got: Mapping[str, Array],
    tolerance: float,
    rounding: Callable[[], list[float]],
) -> float:
    """The greatest error of an output; DifferenceError above tolerance and rounding."""
    compared = difference.compare(got, want, tolerance, rounding)
    for key in compared.wrong:
        raise DifferenceError(
            f"signature '{name}': output '{key}' of the rewritten model has an error of "
            f"{compared.errors[key]:.1e}, more than {tolerance:.1e}; nothing is written"
        )
    return compared.worst


def _session(stack: ExitStack, path: Path, tags: Sequence[str], samples: Samples) -> Calls:
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
        calls[name] = Call(run, tuple(arrays.values()))
    return calls


def _rounding(path: Path, tags: Sequence[str], samples: Samples, name: str) -> list[float]:
    """The change of each output of a signature with the last bits of the samples."""
    with ExitStack() as stack:
        return _session(stack, path, tags, samples)[name].rounding()


def _objects(stack: ExitStack, path: Path, tags: Sequence[str], samples: Samples) -> Calls:
    """The signatures of a model loaded as objects, on the samples."""
    found = _loaded(path, tags, samples)
    if isinstance(found, Exception):
        raise _unloadable(found) from found
    return found


def _loaded(path: Path, tags: Sequence[str], samples: Samples) -> Calls | Exception:
    """The signatures of a model loaded as objects, on the samples; or why it cannot be loaded."""
    problem: Exception = SiriusError("nothing was tried")
    for _ in range(_ATTEMPTS):
        try:
            model = tf.saved_model.load(str(path), tags=list(tags))
        except _UNLOADABLE as error:
            problem = error
            continue
        return {name: _object(model, name, arrays) for name, arrays in samples.items()}
    return problem


def _object(model: Any, name: str, arrays: Mapping[str, Array]) -> Call:
    def run(*values: Array) -> Mapping[str, Any]:
        pairs = zip(arrays, values, strict=True)
        results: Mapping[str, Any] = model.signatures[name](
            **{key: tf.constant(value) for key, value in pairs}
        )
        return results

    return Call(run, tuple(arrays.values()))
