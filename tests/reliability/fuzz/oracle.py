# SPDX-License-Identifier: Apache-2.0
"""What TensorFlow answers, and how far another answer may be from that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from tests.reliability.fuzz.case import Case
from tests.reliability.fuzz.drawing import FLOATS, INTEGERS

REFUSED = (tf.errors.InvalidArgumentError,)
_TRIES = 8  # with inputs that are nearly the same


class Unanswered(Exception):  # noqa: N818
    """TensorFlow has no answer that could be compared."""


@dataclass(frozen=True)
class Refused:
    """An answer that says that the request is invalid."""

    message: str


class Oracle:
    """Some graphs in one session."""

    def __init__(self, cases: Sequence[Case]) -> None:
        graph = tf.Graph()
        with graph.as_default():
            for case in cases:
                tf.import_graph_def(case.graph_def, name=case.name)
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=1, inter_op_parallelism_threads=1
        )
        config.graph_options.optimizer_options.opt_level = -1
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        self._calls: dict[str, object] = {}

    def __call__(self, case: Case, feeds: Sequence[np.ndarray]) -> list[np.ndarray] | Refused:
        """The outputs of a graph, or an error."""
        casts = narrowed(case.graph_def.node)
        if case.name not in self._calls:
            graph = self._session.graph
            find = lambda name: graph.get_tensor_by_name(f"{case.name}/{name}")
            fetched = [find(f"{name}:0") for name in case.outputs] + [find(x) for x, _ in casts]
            fed = [find(f"{name}:0") for name in case.inputs]
            self._calls[case.name] = self._session.make_callable(fetched, fed)
        try:
            found = self._calls[case.name](*feeds)
        except REFUSED as error:
            if "No OpKernel" in error.message:
                raise Unanswered(error.message) from error
            return Refused(error.message)
        except tf.errors.OpError as error:
            raise Unanswered(error.message) from error
        for x, (_, dtype) in zip(found[len(case.outputs) :], casts, strict=True):
            if not fits(x, dtype):
                raise Unanswered(f"a number that is none of {dtype}")
        return [np.asarray(x) for x in found[: len(case.outputs)]]

    def close(self) -> None:
        self._session.close()


def narrowed(nodes: Iterable) -> list[tuple[str, str]]:
    """The tensors that are cast from floats to integers, and to which."""
    found = []
    for node in nodes:
        if node.op == "Cast":
            given, made = (tf.dtypes.as_dtype(node.attr[k].type).name for k in ("SrcT", "DstT"))
            if given in FLOATS and made in INTEGERS:
                found.append(
                    (node.input[0] if ":" in node.input[0] else f"{node.input[0]}:0", made)
                )
    return found


def fits(x: np.ndarray, dtype: str) -> bool:
    """Whether the numbers are of an integer type, when rounded toward zero: C says nothing of
    others."""
    limits = np.iinfo(dtype)
    x = np.asarray(x, np.float64)
    return bool(np.all((x > limits.min - 1.0) & (x < limits.max * (1 - 1e-6))))


def differences(answer, wanted, spread=None) -> str:
    """Where an answer is not what is wanted, as text; `spread` says for each output how far it
    moves when inputs do, NaN where that is without bounds."""
    for k, (x, y) in enumerate(zip(answer, wanted, strict=True)):
        if (x.dtype, x.shape) != (y.dtype, y.shape):
            return f"output {k} is {x.dtype}{list(x.shape)}, not {y.dtype}{list(y.shape)}"
        far = _far(x, y)
        if spread is not None:
            far &= ~(np.isnan(spread[k]) | _near(x, y, spread[k]))
        if far.any():
            at = tuple(int(p) for p in np.argwhere(far)[0]) if far.ndim else ()
            return f"output {k}{list(at)} is {x[at]}, not {y[at]} ({int(far.sum())} of {far.size})"
    return ""


def tolerance(dtype: np.dtype) -> float:
    return {"float64": 1e-9, "float16": 4e-3, "bfloat16": 3e-2}.get(dtype.name, 2e-5)


def _far(x, y):
    if x.dtype.name not in FLOATS:
        return np.asarray(x != y)
    a, b = x.astype(np.float64), y.astype(np.float64)
    unit = tolerance(x.dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        near = abs(a - b) <= unit * (1 + abs(b))
    return ~(near | (a == b) | (np.isnan(a) & np.isnan(b)))


def _near(x, y, spread):
    a, b = (v.astype(np.float64) for v in (x, y))
    with np.errstate(invalid="ignore", over="ignore"):
        return abs(a - b) <= 50 * spread


def spread_of(case: Case, feeds: Sequence[np.ndarray], wanted, seed: int = 0):
    """How far each element of TensorFlow's results moves when numbers do, inputs and constants, by
    about the error of an operation; NaN where it comes to be no number, or another integer."""
    rng = np.random.default_rng(seed)
    types = {n.attr[k].type for n in case.graph_def.node for k in ("T", "dtype") if k in n.attr}
    names = {tf.dtypes.as_dtype(t).name for t in types if t}
    unit = 1e-2 if "bfloat16" in names else 1e-3 if "float16" in names else 1e-6
    spread = [np.zeros(y.shape) for y in wanted]
    for _ in range(_TRIES):
        moved = Case(case.name, _moved(case.graph_def, rng, unit))
        oracle = Oracle([moved])
        try:
            found = oracle(moved, [_shaken(x, rng, unit) for x in feeds])
        except Unanswered:
            continue
        finally:
            oracle.close()
        if isinstance(found, Refused):
            return [np.full(y.shape, np.nan) for y in wanted]
        for k, (x, y) in enumerate(zip(found, wanted, strict=True)):
            if x.shape != y.shape:
                spread[k] = np.full(y.shape, np.nan)
                continue
            with np.errstate(invalid="ignore", over="ignore"):
                step = abs(x.astype(np.float64) - y.astype(np.float64))
            if x.dtype.name not in FLOATS:
                step = np.where(step > 0, np.nan, 0)
            same = np.isnan(x) & np.isnan(y) | (x == y) if x.dtype.name in FLOATS else x == y
            spread[k] = np.maximum(spread[k], np.where(same, 0, step))
    return spread


def _shaken(x, rng, unit):
    if x.dtype.name not in FLOATS:
        return x
    step = 1 + unit * rng.choice([-1.0, 0.0, 1.0], x.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray((x.astype(np.float64) * step).astype(x.dtype))


def _moved(graph_def, rng, unit):
    """The graph with constants that are nearly the same."""
    made = graph_pb2.GraphDef()
    made.CopyFrom(graph_def)
    for node in made.node:
        if node.op == "Const" and tf.dtypes.as_dtype(node.attr["dtype"].type).name in FLOATS:
            value = tf.make_ndarray(node.attr["value"].tensor)
            moved = tf.make_tensor_proto(_shaken(value, rng, unit))
            node.attr["value"].tensor.CopyFrom(moved)
    return made
