# SPDX-License-Identifier: Apache-2.0
"""Values to bytes and back. Unlike pickle's, these bytes ask for nothing but values.

Values are those of JSON, bytes, tuples, dicts with any keys, numpy's arrays and scalars, and
dataclasses of this package. A line of JSON has a row for each that is no number or string, after
the rows of its parts, which [k] stands for: one object stays one. Behind it are the bytes of
arrays. (1, {2.5: 1}) is

    {"rows": [["dict", 2.5, 1], ["tuple", 1, [0]]], "value": [1]}
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
from collections.abc import Mapping
from typing import Any, BinaryIO, Protocol

import numpy as np

from sirius_tf.ir.dtypes import numpy_dtype

_PLAIN = (type(None), bool, int, float, str)


class _Sink(Protocol):
    def write(self, data: bytes | memoryview, /) -> object:
        """Write what comes next."""


def write(value: object, sink: _Sink) -> None:
    """Write a value; TypeError if it has parts of other types."""
    encoder = _Encoder()
    root = encoder.reference(value)
    sink.write(json.dumps({"rows": encoder.rows, "value": root}).encode() + b"\n")
    for data in encoder.data:
        sink.write(data)


def read(file: BinaryIO) -> Any:
    """Read a value. Of damaged bytes there is an exception of any class, or another value."""
    content = json.loads(file.readline())
    values = list[Any]()
    for kind, *parts in content["rows"]:
        values.append(_value(kind, [_referred(values, part) for part in parts], file))
    return _referred(values, content["value"])


class _Encoder:
    def __init__(self) -> None:
        self.rows, self.data = list[list[Any]](), list[memoryview]()
        self._known = dict[int, tuple[int, object]]()  # the objects stay, so that ids differ

    def reference(self, value: Any) -> Any:
        """The stand-in for a value in rows: the value itself if it is plain, else the number of its
        row."""
        if type(value) in _PLAIN:
            return value
        if id(value) not in self._known:
            row = self._row(value)
            self.rows.append(row)
            self._known[id(value)] = len(self.rows) - 1, value
        return [self._known[id(value)][0]]

    def _row(self, value: Any) -> list[Any]:
        if isinstance(value, bytes):
            self.data.append(memoryview(value))
            return ["bytes", len(value)]
        if isinstance(value, np.generic):
            return ["scalar", self.reference(np.asarray(value))]
        if isinstance(value, np.ndarray):
            flat = np.ascontiguousarray(value).reshape(-1)
            self.data.append(flat.view(np.uint8).data)
            return ["array", value.dtype.name, value.nbytes, *value.shape]
        if type(value) in (tuple, list):
            return [type(value).__name__, *map(self.reference, value)]
        if isinstance(value, Mapping):
            return ["dict", *(self.reference(part) for item in value.items() for part in item)]
        kind = f"{type(value).__module__}:{type(value).__name__}"
        parts = (getattr(value, name) for name in _fields(_class(kind)))
        return [kind, *map(self.reference, parts)]


def _referred(values: list[Any], part: Any) -> Any:
    """The value that a part of a row stands for."""
    return values[part[0]] if isinstance(part, list) else part


def _value(kind: str, parts: list[Any], file: BinaryIO) -> Any:
    """The value of a row."""
    match kind:
        case "bytes":
            return file.read(parts[0])
        case "array":
            dtype, size, *shape = parts
            data = np.empty(size, np.uint8)
            if file.readinto(data.data) != size:  # type: ignore[attr-defined]
                raise ValueError("an array is cut off")
            return data.view(numpy_dtype(dtype)).reshape(shape)
        case "scalar":
            return parts[0][()]
        case "tuple":
            return tuple(parts)
        case "list":
            return parts
        case "dict":
            return dict(zip(parts[::2], parts[1::2], strict=True))
    made = _class(kind)
    return made(**dict(zip(_fields(made), parts, strict=True)))


@functools.cache
def _class(name: str) -> type:
    """A dataclass of this package; TypeError if it is none."""
    module, _, kind = name.partition(":")
    if module.startswith("sirius_tf."):
        found = getattr(importlib.import_module(module), kind)
        if isinstance(found, type) and dataclasses.is_dataclass(found):
            return found
    raise TypeError(f"values of type {name} are not kept")


@functools.cache
def _fields(kind: type) -> tuple[str, ...]:
    """The names of the fields that a dataclass is made from."""
    return tuple(field.name for field in dataclasses.fields(kind) if field.init)
