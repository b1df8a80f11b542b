# SPDX-License-Identifier: Apache-2.0
"""A graph that was drawn, as text, and arrays to feed it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework import graph_pb2

from tests.reliability.fuzz import lookups  # noqa: F401  it registers its ops
from tests.reliability.fuzz.control import some_ops
from tests.reliability.fuzz.drawing import CONSTANT, FLOATS, Drawing, M, N, Undrawable
from tests.reliability.fuzz.ops import OPS

OUTPUT = "output_"
_NUMBERS = (tf.int32.as_datatype_enum, tf.int64.as_datatype_enum)


@dataclass(frozen=True)
class Case:
    """A GraphDef whose inputs are its placeholders, and whose outputs are `output_<k>`.

    A placeholder has the sizes with which it was drawn as `_sizes`, and bounds of numbers.
    """

    name: str
    graph_def: graph_pb2.GraphDef

    @property
    def inputs(self) -> list[str]:
        return [n.name for n in self.graph_def.node if n.op == "Placeholder"]

    @property
    def outputs(self) -> list[str]:
        names = [n.name for n in self.graph_def.node if n.name.startswith(OUTPUT)]
        return sorted(names, key=lambda name: int(name.removeprefix(OUTPUT)))

    @property
    def nodes(self) -> list:
        """The nodes of the graph and of its bodies."""
        functions = self.graph_def.library.function
        return [*self.graph_def.node, *(n for f in functions for n in f.node_def)]

    @property
    def ops(self) -> list[str]:
        return [n.op for n in self.nodes]


def draw(name: str, seed: int, sequence: Sequence[str] = ()) -> Case:
    """A random graph; ops of `sequence` are drawn first."""
    while True:
        d = Drawing(np.random.default_rng((seed, *name.encode())))
        with d.graph.as_default(), contextlib.suppress(Undrawable):
            for op in sequence:
                with contextlib.suppress(Undrawable):
                    OPS[op](d, op)
            some_ops(d, 0 if sequence else 2, 6)
        with contextlib.suppress(Undrawable):
            return finished(name, d)
        seed += 1 << 32


def finished(name: str, d: Drawing) -> Case:
    """The graph of what nobody reads, and of some of the others."""
    read = {t.name for op in d.graph.get_operations() for t in op.inputs}
    kept = [t for t in d.tensors if t.graph is d.graph and t.op.type != "Placeholder"]
    sinks = [t for t in kept if t.name not in read or d.chance(0.1)]
    if not sinks:
        raise Undrawable("an empty graph")
    with d.graph.as_default(), tf.control_dependencies(None):
        for k, t in enumerate(sinks[-8:]):
            tf.identity(t, name=f"{OUTPUT}{k}")
    names = [op.name for op in d.graph.get_operations() if op.name.startswith(OUTPUT)]
    full = d.graph.as_graph_def()
    made = tf.compat.v1.graph_util.extract_sub_graph(full, names)
    made.library.CopyFrom(full.library)
    trim(made)
    for node in made.node:
        if node.op == "Placeholder":
            sizes = [dim.size for dim in node.attr["shape"].shape.dim]
            node.attr["_sizes"].list.i[:] = sizes
    forget(made)
    return Case(name, made)


def trim(graph_def: graph_pb2.GraphDef) -> None:
    """Leave out the functions that nobody calls."""
    bodies = {f.signature.name: f for f in graph_def.library.function}
    wanted, stack = set(), list(graph_def.node)
    while stack:
        for value in stack.pop().attr.values():
            for name in (value.func.name, *(f.name for f in value.list.func)):
                if name in bodies and name not in wanted:
                    wanted.add(name)
                    stack.extend(bodies[name].node_def)
    del graph_def.library.function[:]
    graph_def.library.function.extend(bodies[name] for name in sorted(wanted))


def forget(graph_def: graph_pb2.GraphDef) -> None:
    """Make the sizes unknown that stand for unknown ones."""
    for owner in (graph_def.node, *(f.node_def for f in graph_def.library.function)):
        for node in owner:
            node.attr.pop("_output_shapes", None)
            for value in node.attr.values():
                for shape in (value.shape, *value.list.shape):
                    for dim in shape.dim:
                        dim.size = -1 if dim.size > CONSTANT else dim.size
            if node.op == "Const" and node.attr["dtype"].type in _NUMBERS:  # a shape, say
                value = tf.make_ndarray(node.attr["value"].tensor)
                if (value > CONSTANT).any():
                    if not node.name.endswith("element_shape"):
                        raise Undrawable("a size that TensorFlow has made a constant")
                    value = np.where(value > CONSTANT, -1, value).astype(value.dtype)
                    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    for function in graph_def.library.function:
        function.arg_attr.clear()


# Arrays


def feeds(
    case: Case, sizes: Mapping[int, int], rng: np.random.Generator, wild: bool = False
) -> list[np.ndarray]:
    """An array for each input, where N and M are `sizes`; wild ones have the ends of their types,
    NaN and infinities."""
    return [
        _array(node.attr, sizes, rng, wild)
        for node in case.graph_def.node
        if node.op == "Placeholder"
    ]


def _array(attr, sizes, rng, wild):
    shape = [sizes.get(n, n) for n in attr["_sizes"].list.i]
    dtype = tf.dtypes.as_dtype(attr["dtype"].type)
    if dtype.name == "bool":
        return rng.random(shape) < 0.5
    if "_low" in attr or "_high" in attr:
        low, high = attr["_low"].i, attr["_high"].i
        high = max(sizes.get(high, high), low + 1)
        found = rng.integers(low, high, shape)
        return (found + (rng.random(shape) < 0.02)).astype(dtype.as_numpy_dtype)
    if dtype.name in FLOATS:
        coarse = rng.integers(-12, 13, shape) / 4
        values = np.where(rng.random() < 0.5, coarse, rng.standard_normal(shape) * 2)
        extremes = (np.nan, np.inf, -np.inf, 1e-40, -0.0)
    else:
        values = rng.integers(-5 if dtype.name != "uint8" else 0, 9, shape)
        limits = np.iinfo(dtype.as_numpy_dtype)
        extremes = (limits.min, limits.max, limits.max - 1, 0)
    if wild:
        with np.errstate(over="ignore"):
            ends = np.array([np.asarray(e).astype(dtype.as_numpy_dtype) for e in extremes])
        picked = ends[rng.integers(0, len(ends), shape)]
        return np.where(rng.random(shape) < 0.2, picked, values.astype(dtype.as_numpy_dtype))
    return np.asarray(values).astype(dtype.as_numpy_dtype)


def sizes_of(n: int, m: int) -> dict[int, int]:
    return {N: n, M: m}


# Text


def save(case: Case, folder: Path) -> Path:
    path = folder / f"{case.name}.pbtxt"
    path.write_text(text_format.MessageToString(case.graph_def))
    return path


def read(path: Path) -> Case:
    return Case(path.stem, text_format.Parse(path.read_text(), graph_pb2.GraphDef()))
