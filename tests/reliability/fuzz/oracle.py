# SPDX-License-Identifier: Apache-2.0
"""What TensorFlow answers, and how far another answer may be from that."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from tests.reliability.fuzz.case import Case
from tests.reliability.fuzz.drawing import FLOATS, INTEGERS

REFUSED = (tf.errors.InvalidArgumentError,)
_TRIES = 8  # with inputs that are nearly the same
_SPREADS = 50  # as far as results are moved by these, numbers may be apart
_HALVES = {1e-2: 3e-2, 1e-3: 4e-3}  # of bfloat16 and float16: how inputs are moved -> `tolerance`


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


def tolerance(dtype: np.dtype) -> float:
    """The unit in which TensorFlow's numbers and ours may differ."""
    return {"float64": 1e-9, "float16": 4e-3, "bfloat16": 3e-2}.get(dtype.name, 2e-5)


def denormal(dtype: np.dtype) -> float:
    """The unit in which numbers of two instruction sets may differ: a denormal is zero or itself
    where it is only the greatest of some numbers, since it is read as zero."""
    return float(np.finfo("float64" if dtype == "float64" else "float32").tiny)


def differences(answer, wanted, spread=None, unit: Callable = tolerance) -> str:
    """Where an answer is not what is wanted, as text; `spread` says for each output how far it
    moves when inputs do, NaN where that is without bounds. Numbers may differ by the `unit` of
    their type."""
    for k, (x, y) in enumerate(zip(answer, wanted, strict=True)):
        if (x.dtype, x.shape) != (y.dtype, y.shape):
            return f"output {k} is {x.dtype}{list(x.shape)}, not {y.dtype}{list(y.shape)}"
        far = _far(x, y, unit(x.dtype))
        if spread is not None:
            far &= ~(np.isnan(spread[k]) | _near(x, y, spread[k]))
        if far.any():
            at = tuple(int(p) for p in np.argwhere(far)[0]) if far.ndim else ()
            return f"output {k}{list(at)} is {x[at]}, not {y[at]} ({int(far.sum())} of {far.size})"
    return ""


def _far(x, y, unit: float):
    if x.dtype.name not in FLOATS:
        return np.asarray(x != y)
    a, b = x.astype(np.float64), y.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        near = abs(a - b) <= unit * (1 + abs(b))
    return ~(near | (a == b) | (np.isnan(a) & np.isnan(b)))


def _near(x, y, spread):
    a, b = (v.astype(np.float64) for v in (x, y))
    with np.errstate(invalid="ignore", over="ignore"):
        return abs(a - b) <= _SPREADS * spread


class Shaken:
    """A graph whose fractions, inputs, constants and results of ops, are nearly the same."""

    def __init__(self, case: Case) -> None:
        self._case = Case(case.name, graph_pb2.GraphDef())
        self._case.graph_def.CopyFrom(case.graph_def)
        self._inputs, self._values = case.inputs, dict[str, np.ndarray]()
        types = {n.attr[k].type for n in case.nodes for k in ("T", "DstT", "dtype") if k in n.attr}
        names = {tf.dtypes.as_dtype(t).name for t in types if t}
        self._unit = 1e-2 if "bfloat16" in names else 1e-3 if "float16" in names else 1e-6
        for node in self._case.graph_def.node:
            if node.op == "Const" and tf.dtypes.as_dtype(node.attr["dtype"].type).name in FLOATS:
                self._values[node.name] = tf.make_ndarray(node.attr["value"].tensor)
                node.op = "Placeholder"
                node.attr["shape"].shape.CopyFrom(node.attr.pop("value").tensor.tensor_shape)
        if not any(node.op == "Enter" for node in case.graph_def.node):
            self._add_errors(case)

    def _add_errors(self, case: Case) -> None:
        """Multiply the results of ops by inputs that are nearly 1: inputs may be where nothing
        moves a result, as erf does not move from -1, but the error of an op does."""
        graph, made, renamed = tf.Graph(), self._case.graph_def, dict[str, str]()
        readers = [*made.node]
        with graph.as_default():
            tf.import_graph_def(case.graph_def, name="")
        for op in graph.get_operations():
            if op.type in ("Placeholder", "Const") or op.name in case.outputs:
                continue
            for k, x in enumerate(op.outputs):
                if x.dtype.name not in FLOATS:
                    continue
                error, moved = f"{op.name}_error{k}", f"{op.name}_moved{k}"
                kind = x.dtype.as_datatype_enum
                self._values[error] = np.array(1.0, x.dtype.as_numpy_dtype)
                made.node.add(name=error, op="Placeholder").attr["dtype"].type = kind
                node = made.node.add(name=moved, op="Mul", input=[x.name, error])
                node.attr["T"].type = kind
                renamed |= {x.name: moved, **({op.name: moved} if k == 0 else {})}
        for node in readers:
            node.input[:] = [renamed.get(name, name) for name in node.input]

    @functools.cached_property
    def _oracle(self) -> Oracle:
        return Oracle([self._case])

    def close(self) -> None:
        """Close the session, if there is one."""
        if "_oracle" in self.__dict__:
            self._oracle.close()

    def spread(self, feeds: Sequence[np.ndarray], wanted, seed: int = 0) -> list[np.ndarray]:
        """How far each element of TensorFlow's results moves when numbers do, by about the error of
        an operation; NaN where it comes to be no number, or another integer."""
        rng = np.random.default_rng(seed)
        values = {**self._values, **dict(zip(self._inputs, feeds, strict=True))}
        spread = [self._beyond(y) for y in wanted]
        for _ in range(_TRIES):
            moved = [_shaken(values[name], rng, self._unit) for name in self._case.inputs]
            try:
                found = self._oracle(self._case, moved)
            except Unanswered:
                continue
            if isinstance(found, Refused):
                return [np.full(y.shape, np.nan) for y in wanted]
            spread = list(map(_further, spread, found, wanted))
        return spread

    def _beyond(self, y: np.ndarray) -> np.ndarray:
        """NaN for large results of graphs with products, whose factors may leave the type on the
        way, or not, by their order; else what is lost where a half is rounded, wherever in the
        graph that is, as in a sum that comes to be 1."""
        if y.dtype.name not in FLOATS:
            return np.zeros(y.shape)
        size = abs(y.astype(np.float64))
        products = any(node.op == "Prod" for node in self._case.nodes)
        lost = _HALVES.get(self._unit, 0) / _SPREADS
        return np.where(products & (size > 1e15), np.nan, lost * (1 + size))


def _further(spread, x, y):
    """A spread, and that of one more result."""
    if x.shape != y.shape:
        return np.full(y.shape, np.nan)
    with np.errstate(invalid="ignore", over="ignore"):
        step = abs(x.astype(np.float64) - y.astype(np.float64))
    if x.dtype.name not in FLOATS:
        step = np.where(step > 0, np.nan, 0)
    same = np.isnan(x) & np.isnan(y) | (x == y) if x.dtype.name in FLOATS else x == y
    return np.maximum(spread, np.where(same, 0, step))


def _shaken(x, rng, unit):
    if x.dtype.name not in FLOATS:
        return x
    step = 1 + unit * rng.choice([-1.0, 0.0, 1.0], x.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray((x.astype(np.float64) * step).astype(x.dtype))
