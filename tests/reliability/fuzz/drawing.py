# SPDX-License-Identifier: Apache-2.0
"""A random graph while it grows.

It is built with sizes that stand for unknown ones, N and M. TensorFlow infers all shapes from
these, and a size above CONSTANT is then known to depend on them. At the end they are taken out.
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import kernels, op_def_library, op_def_registry

N, M = 101, 211
CONSTANT = 40  # the greatest size that is one
MOST = N * M * 16  # elements of a tensor
FLOATS = ("float32", "float64", "float16", "bfloat16")
INTEGERS = ("int32", "int64", "int8", "int16", "uint8")
DTYPES = (*FLOATS, *INTEGERS, "bool")
_WEIGHTS = dict(zip(DTYPES, (10, 2, 2, 2, 6, 3, 1, 1, 1, 3), strict=True))


class Undrawable(Exception):  # noqa: N818
    """What was drawn is no op of TensorFlow's: another one is to be drawn."""


@functools.cache
def _kernels(op: str) -> list:
    """TensorFlow's kernels of an op on the CPU."""
    found = kernels.get_registered_kernels_for_op(op).kernel
    return [k for k in found if k.device_type in ("CPU", "DEFAULT")]


@functools.cache
def dtypes_of(op: str, attr: str) -> tuple[str, ...]:
    """The types among DTYPES for which TensorFlow has a kernel on the CPU."""
    allowed = {a.name: a.allowed_values.list.type for a in op_def_registry.get(op).attr}[attr]
    limits = {tf.dtypes.as_dtype(t).name for t in allowed} or set(DTYPES)
    found = set()
    for kernel in _kernels(op):
        rows = [c.allowed_values.list.type for c in kernel.constraint if c.name == attr]
        names = {tf.dtypes.as_dtype(t).name for row in rows for t in row}
        found |= names if rows else set(DTYPES)
    return tuple(d for d in DTYPES if d in found & limits)


def compatible(a: tf.Tensor, b: tf.Tensor) -> bool:
    """Whether two shapes broadcast."""
    pairs = zip(reversed(a.shape.as_list()), reversed(b.shape.as_list()), strict=False)
    return all(x == y or 1 in (x, y) for x, y in pairs)


class Drawing:
    """A graph, and the tensors in it that ops may take. A body of it has a drawing of its own."""

    def __init__(self, rng: np.random.Generator, parent: Drawing | None = None) -> None:
        self.rng = rng
        self.root = parent.root if parent else self
        self.depth = parent.depth + 1 if parent else 0
        self.graph = tf.Graph() if parent is None else parent.graph
        self.tensors: list[tf.Tensor] = list(parent.tensors) if parent else []

    # Choices

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def one(self, options):
        return options[int(self.rng.integers(len(options)))]

    def number(self, low: int, high: int) -> int:
        """low <= number <= high"""
        return int(self.rng.integers(low, high + 1))

    def dtype(self, options=DTYPES) -> str:
        if not options:
            raise Undrawable("no dtype")
        weights = np.array([_WEIGHTS[d] for d in options], float)
        return str(self.rng.choice(options, p=weights / weights.sum()))

    def dtype_for(self, op: str, attr: str = "T") -> str:
        return self.dtype(dtypes_of(op, attr))

    def size(self) -> int:
        return self.one((N, N, N, M, 1, 2, 3, 4, 5, 2, 3, 4, N, 0 if self.chance(0.1) else 6))

    def shape(self, least: int = 0, most: int = 3) -> list[int]:
        return [self.size() for _ in range(self.number(least, most))]

    # Tensors

    def input(self, shape, dtype: str, low: int | None = None, high: int | None = None):
        """A new input of the graph; its numbers are low or more, below high, maybe a size."""
        if any(s > CONSTANT and s not in (N, M) for s in shape):
            raise Undrawable(f"an input of {shape}")
        with self.root.graph.as_default(), tf.control_dependencies(None):
            made = tf.raw_ops.Placeholder(dtype=dtype, shape=shape)
        for key, value in (("_low", low), ("_high", high)):
            if value is not None:
                made.op._set_attr(key, tf.compat.v1.AttrValue(i=value))
        self.root.tensors.append(made)
        return made

    def const(self, value, dtype: str | None = None):
        return tf.constant(np.asarray(value), dtype)

    def numbers(self, shape, dtype: str):
        """A constant of random numbers."""
        if any(s > CONSTANT for s in shape):
            raise Undrawable("a constant of unknown size")
        if dtype == "bool":
            return self.const(self.rng.random(shape) < 0.5)
        values = self.rng.integers(-6, 7, shape)
        if dtype == "uint8":
            values = abs(values)
        return self.const(values / 4 if dtype in FLOATS else values, dtype)

    def new(self, shape, dtype: str):
        """A constant, or an input."""
        if all(s <= CONSTANT for s in shape) and self.chance(0.35):
            return self.numbers(shape, dtype)
        return self.input(shape, dtype)

    def pick(self, dtype: str | None = None, least: int = 0, most: int = 4, where=None, new=None):
        """A tensor of the graph, most likely a late one, or a new one: `new` is then its shape."""
        found = [
            t
            for t in self.tensors
            if least <= t.shape.rank <= most and (where is None or where(t.shape.as_list()))
        ]
        own = [t for t in found if dtype is None or t.dtype.name == dtype]
        if own and self.chance(0.85):
            return own[-1 - int(len(own) * self.rng.random() ** 2)]
        if found and dtype and self.chance(0.5):
            return self.cast(self.one(found), dtype)
        shape = new if new is not None else self.shape(least, max(least, min(most, 3)))
        if where is not None and not where(list(shape)):
            raise Undrawable("no such shape")
        return self.new(shape, dtype or self.dtype())

    def cast(self, x, dtype: str):
        """x as another type. Casts that may be undefined are in no body: see `oracle.narrowed`."""
        if self.depth and x.dtype.name in FLOATS and dtype in INTEGERS:
            raise Undrawable("a cast in a body")
        return x if x.dtype.name == dtype else self.op("Cast", x, DstT=dtype)

    def beside(self, x, dtype: str | None = None):
        """A tensor that broadcasts with another one."""
        dtype, shape = dtype or x.dtype.name, x.shape.as_list()
        found = [t for t in self.tensors if t.dtype.name == dtype and compatible(t, x)]
        if found and self.chance(0.5):
            return self.one(found)
        kind = self.rng.random()
        if kind < 0.2:
            return self.new([], dtype)
        if kind < 0.4:
            shape = shape[self.number(0, len(shape)) :]
        if kind < 0.6:
            shape = [1 if self.chance(0.4) else s for s in shape]
        return self.same(x, dtype, shape)

    def same(self, x, dtype: str | None = None, shape=None):
        """Another tensor of a shape, by default that of x."""
        dtype, shape = dtype or x.dtype.name, x.shape.as_list() if shape is None else list(shape)
        found = [t for t in self.tensors if t.dtype.name == dtype and t.shape.as_list() == shape]
        if found and self.chance(0.5):
            return self.one(found)
        if any(s > CONSTANT and s not in (N, M) for s in shape):
            if shape != x.shape.as_list():
                raise Undrawable(f"another tensor of {shape}")
            return self.cast(x, dtype)
        return self.new(shape, dtype)

    def extent(self, size: int, dtype: str = "int32"):
        """A scalar that is a size."""
        if size <= CONSTANT:
            return self.const(size, dtype)
        found = [t for t in self.tensors if size in t.shape.as_list()]
        x = self.one(found) if found else self.input([size], "float32")
        axis = x.shape.as_list().index(size)
        shape = self.op("Shape", x, out_type=dtype)
        at = [self.const([k], "int32") for k in (axis, axis + 1, 1)]
        return self.op("StridedSlice", shape, *at, shrink_axis_mask=1)

    def extents(self, sizes, dtype: str = "int32"):
        """A vector of sizes."""
        if all(s <= CONSTANT for s in sizes):
            return self.const(np.array(sizes, dtype), dtype)
        return self.op("Pack", [self.extent(s, dtype) for s in sizes], axis=0)

    def positions(self, shape, limit: int, dtype: str = "int32"):
        """Numbers below a size: an input, a constant, or what was computed."""
        if 0 < limit <= CONSTANT and all(s <= CONSTANT for s in shape) and self.chance(0.4):
            return self.const(self.rng.integers(0, limit, shape), dtype)
        return self.input(shape, dtype, 0, limit)

    # Ops

    def op(self, name: str, *inputs, **attrs):
        """A new op of the graph; its result, or a list of them."""
        definition = op_def_registry.get(name)
        named = {a.name: x for a, x in zip(definition.input_arg, inputs, strict=True)}
        try:
            made = op_def_library.apply_op(name, **named, **{**_defaults(name), **attrs})
        except (ValueError, TypeError, tf.errors.OpError) as error:
            raise Undrawable(str(error)) from error
        return self.made(made)

    def made(self, results):
        """Add results to the tensors; they are handed back."""
        for x in tf.nest.flatten(results):
            if not isinstance(x, tf.Tensor):
                continue
            if not runs(x.op):
                raise Undrawable(f"no kernel for {x.op.type}")
            small = x.shape.rank is not None and x.shape.is_fully_defined() and x.shape.rank <= 6
            if small and x.dtype.name in DTYPES and np.prod(x.shape.as_list()) <= MOST:
                self.tensors.append(x)
        return results


@functools.cache
def _defaults(op: str) -> dict[str, object]:
    """The values of attributes that have one without being given; types are inferred."""
    found: dict[str, object] = {}
    for attr in op_def_registry.get(op).attr:
        kind = attr.default_value.WhichOneof("value")
        if kind == "list":
            found[attr.name] = next((list(v) for _, v in attr.default_value.list.ListFields()), [])
        elif kind in ("s", "i", "f", "b"):
            found[attr.name] = getattr(attr.default_value, kind)
    return found


def runs(op) -> bool:
    """Whether TensorFlow has a kernel on the CPU for the types of an op."""
    found = _kernels(op.type)
    given = op.node_def.attr
    return not found or any(
        all(
            {given[c.name].type, *given[c.name].list.type} - {0} <= {*c.allowed_values.list.type}
            for c in k.constraint
            if c.allowed_values.list.type
        )
        for k in found
    )
