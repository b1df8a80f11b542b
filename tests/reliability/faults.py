# SPDX-License-Identifier: Apache-2.0
"""Conversions in which something fails: a pass, a rule, a run of clang, the cache, or TensorFlow.

usage: python -m tests.reliability.faults [--count=N] [--seed=N] [--only=KIND,...] [--show]

A row for each kind of fault: how many conversions there were, how many of them ended with a model
that is right, and how many with one clear sentence and nothing written. The last column is anything
else, which is printed: another exception, wrong results, or files that are left over.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf
from absl import app, flags, logging
from rich.console import Console
from rich.table import Table
from tensorflow.python.framework import function_def_to_graph
from tensorflow.python.grappler import tf_optimizer
from tensorflow.python.saved_model import loader_impl

import sirius_tf
from sirius_tf import compile as compiling
from sirius_tf import pipeline
from sirius_tf.bundle import cc, codec, store
from sirius_tf.errors import Unsupported, VerifyError
from sirius_tf.lower.graph import RULES
from sirius_tf.rewrite import measure

_COUNT = flags.DEFINE_integer("count", 200, "Conversions.")
_SEED = flags.DEFINE_integer("seed", 0, "What decides which of them fails where.")
_ONLY = flags.DEFINE_list("only", [], "Kinds of faults; all by default.")
_SHOW = flags.DEFINE_boolean("show", False, "Print the sentences, too.")

X = np.linspace(0.1, 2.0, 12, dtype=np.float32).reshape(3, 4)
OPTIONS = sirius_tf.Options(keep_slow=True, threads=1)
Owner = Any  # of a function that fails: a module, a class, a table of functions


@dataclass(frozen=True, eq=False)
class Place:
    """A function that can fail, and the errors that it can fail with."""

    owner: Owner
    name: str
    errors: Sequence[Callable[[], Any]]

    @property
    def function(self) -> Any:
        """What is in place now."""
        if isinstance(self.owner, dict):
            return self.owner[self.name]
        return getattr(self.owner, self.name)

    def put(self, function: Any) -> None:
        """Have a function in place."""
        if isinstance(self.owner, dict):
            self.owner[self.name] = function
        elif isinstance(self.owner, pipeline.Pass):
            object.__setattr__(self.owner, self.name, function)  # it is frozen
        else:
            setattr(self.owner, self.name, function)


def _raises(error: Callable[..., Exception], *arguments: object) -> Callable[[], Any]:
    def fails() -> Any:
        raise error(*arguments)

    return fails


_DEFECTS = (
    _raises(KeyError, "k"),
    _raises(IndexError, "list index out of range"),
    _raises(AssertionError),
    _raises(RecursionError, "maximum recursion depth exceeded"),
    _raises(ZeroDivisionError, "division by zero"),
    _raises(MemoryError),
    _raises(VerifyError, "S reads what nothing defines"),
    _raises(Unsupported, "node", "Op", "of no reason"),
)
_TENSORFLOW = (
    *(
        _raises(error, None, None, "injected")
        for error in (
            tf.errors.InternalError,
            tf.errors.InvalidArgumentError,
            tf.errors.ResourceExhaustedError,
            tf.errors.UnimplementedError,
            tf.errors.FailedPreconditionError,
        )
    ),
    _raises(ValueError, "injected"),
    _raises(TypeError, "injected"),
    _raises(RuntimeError, "injected"),
)
_FILES = tuple(_raises(OSError, number, "injected") for number in (5, 13, 28))


def _ended(status: int, text: str) -> Callable[[], Any]:
    return lambda: subprocess.CompletedProcess([], status, "", text)


_STAGES = ("fuse", "build_loops", "print_kernel", "windows", "check_order")
_CALLS: tuple[tuple[Owner, str], ...] = (
    (tf.compat.v1.Session, "run"),
    (tf.compat.v1.Session, "make_callable"),
    (tf, "import_graph_def"),
    (tf, "make_ndarray"),
    (tf.compat.v1.train, "import_meta_graph"),
    (tf.train, "load_checkpoint"),
    (tf.saved_model, "load"),
    (tf_optimizer, "OptimizeGraph"),
    (function_def_to_graph, "function_def_to_graph"),
    (loader_impl, "parse_saved_model"),
    (loader_impl.SavedModelLoader, "load"),
    (loader_impl.SavedModelLoader, "restore_variables"),
)
PLACES = MappingProxyType(
    {
        "pass": tuple(Place(p, "apply", _DEFECTS) for p in pipeline.PASSES),
        "rule": tuple(Place(RULES, name, _DEFECTS) for name in RULES),
        "stage": tuple(Place(compiling, name, _DEFECTS) for name in _STAGES),
        "clang": (
            Place(
                cc.subprocess,
                "run",
                (
                    _ended(-11, ""),
                    _ended(1, "error: injected"),
                    _raises(OSError, 12, "Cannot allocate memory"),
                ),
            ),
        ),
        "cache": tuple(
            Place(owner, name, _FILES)
            for owner, name in ((codec, "read"), (codec, "write"), (store, "_opened"))
        ),
        "TensorFlow": tuple(Place(owner, name, _TENSORFLOW) for owner, name in _CALLS),
    }
)


Fails = Callable[[Place, int], Callable[[], Any] | None]
"""What a place does instead in its n-th call, if that fails."""


@contextlib.contextmanager
def watched(fails: Fails = lambda *_: None) -> Iterator[Counter[Place]]:
    """Meanwhile the calls of all places are counted, and some of them fail."""
    counts = Counter[Place]()

    def counting(place: Place, real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            counts[place] += 1
            error = fails(place, counts[place] - 1)
            return error() if error else real(*arguments, **named)

        return call

    places = [place for kind in PLACES.values() for place in kind]
    former = [place.function for place in places]
    try:
        for place, real in zip(places, former, strict=True):
            place.put(counting(place, real))
        yield counts
    finally:
        for place, real in zip(places, former, strict=True):
            place.put(real)


def export(path: Path) -> None:
    """Write a model of two signatures, with a loop, and with an op that has no rule."""

    class Model(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(np.linspace(-1.0, 1.0, 16, dtype=np.float32).reshape(4, 4))

        @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])
        def serve(self, x: Any) -> Any:
            y = tf.math.igamma(1.5, tf.exp(x @ self.w) * 2.0 + x)
            return {"y": tf.nn.softmax(y * 3.0) + 1.0}

        @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])
        def steps(self, x: Any) -> Any:
            for _ in tf.range(3):
                x = tf.tanh(x @ self.w)
            return {"y": x}

    model = Model()
    signatures = {"serving_default": model.serve, "steps": model.steps}
    tf.saved_model.save(model, str(path), signatures=signatures)


def results(path: Path) -> dict[str, np.ndarray]:
    """The results of the signatures of a model."""
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(path)).signature_def
        keys = [key for key in loaded if not key.startswith("__")]
        tensors = {k: (loaded[k].outputs["y"].name, loaded[k].inputs["x"].name) for k in keys}
        return {key: session.run(y, {x: X}) for key, (y, x) in tensors.items()}


class Trials:
    """Conversions of one model, with a cache that is empty, or has all."""

    def __init__(self, folder: Path) -> None:
        self._model, self._target = folder / "model", folder / "out"
        self._cache = folder / "cache"
        self._cache.mkdir(mode=0o700)
        store.directory = lambda: self._cache
        export(self._model)
        self._want = results(self._model)
        self.counts = {cold: self._counted(cold) for cold in (True, False)}

    def run(self, place: Place, cold: bool, fails: Fails) -> str:
        """How a conversion ended: "right", "told: ..." or what is wrong."""
        if cold:
            self._clear()
        try:
            with watched(fails):
                self._convert()
        except sirius_tf.SiriusError as error:
            return self._after(str(error))
        except Exception as error:
            return "".join(traceback.format_exception(error))
        return self._compared()

    def _after(self, text: str) -> str:
        """What is wrong with the end of a conversion that told an error."""
        left = sorted(p.name for p in self._target.parent.iterdir())
        if left != ["cache", "model"]:
            return f"{left} are left after: {text}"
        if not text or "Traceback" in text or len(text.splitlines()) > 12:
            return f"no clear sentence: {text!r}"
        return f"told: {text}"

    def _compared(self) -> str:
        try:
            got = results(self._target)
            for key, want in self._want.items():
                np.testing.assert_allclose(got[key], want, rtol=1e-4, err_msg=key)
        except Exception as error:
            return f"the model is wrong: {error}"
        finally:
            shutil.rmtree(self._target)
        return self._after("right").removeprefix("told: ")

    def _convert(self) -> None:
        sirius_tf.optimize(self._model, self._target, samples={"x": X}, options=OPTIONS)

    def _counted(self, cold: bool) -> Counter[Place]:
        if cold:
            self._clear()
        with watched() as counts:
            self._convert()
        assert self._compared() == "right"
        return counts

    def _clear(self) -> None:
        for kind in self._cache.iterdir():
            if kind.name != "zig":  # a minute's work, and no entry of ours
                shutil.rmtree(kind)


def measured(
    folder: Path, count: int, seed: int, kinds: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """The kind of fault of each conversion, and how it ended."""
    trials = Trials(folder)
    for number in range(count):
        choose = random.Random(f"{seed} {number}")
        kind = choose.choice(kinds)
        cold = choose.random() < 0.5 or kind in ("pass", "stage", "clang")
        calls = trials.counts[cold]
        place = choose.choice([p for p in PLACES[kind] if calls[p]])
        first, lasting = choose.randrange(calls[place]), choose.random() < 0.3
        error = choose.choice(place.errors)

        def fails(
            here: Place,
            call: int,
            place: Place = place,
            first: int = first,
            lasting: bool = lasting,
            error: Callable[[], Any] = error,
        ) -> Callable[[], Any] | None:
            return (
                error if here is place and (call == first or (lasting and call > first)) else None
            )

        ended = trials.run(place, cold, fails)
        if not is_known(ended):
            where = f"{place.name}, call {first}{' and later ones' if lasting else ''}"
            ended = f"conversion {number}, {'cold' if cold else 'warm'}, {kind} {where}: {ended}"
        yield kind, ended


def is_known(ended: str) -> bool:
    """Whether a conversion ended as one should."""
    return ended == "right" or ended.startswith("told: ")


def main(_: list[str]) -> int:
    """See the module."""
    logging.set_verbosity(logging.ERROR)  # TensorFlow logs through absl, too
    measure._SECONDS = 0.0
    kinds, counts, wrong = _ONLY.value or list(PLACES), Counter[tuple[str, str]](), 0
    with tempfile.TemporaryDirectory() as folder:
        for kind, ended in measured(Path(folder), _COUNT.value, _SEED.value, kinds):
            known = is_known(ended)
            counts[kind, ended.partition(":")[0] if known else "else"] += 1
            wrong += not known
            if not known or (_SHOW.value and ended != "right"):
                print(ended, flush=True)
    table = Table("fault", "conversions", "right model", "a sentence", "else")
    for kind in kinds:
        row = [counts[kind, ended] for ended in ("right", "told", "else")]
        table.add_row(kind, *map(str, (sum(row), *row)))
    Console(width=100).print(table)
    return int(wrong > 0)


if __name__ == "__main__":
    app.run(main)
