# SPDX-License-Identifier: Apache-2.0
"""Inputs that are made up: a ladder of recipes, of which the first is taken that the model runs on.

The sizes of a recipe are chosen so that the programs' checks hold on entry, or by guessing; its
kind says what values are. So models of token ids that arrive as floats, of one-hot alphabets, of
encoded images, and of sizes that must be equal or large enough need no samples by hand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from sirius_tf.errors import SiriusError
from sirius_tf.frontend.graph import Graph
from sirius_tf.frontend.savedmodel import Tensor
from sirius_tf.ir import interp
from sirius_tf.ir.dtypes import numpy_dtype
from sirius_tf.ir.expr import Const, Index, walk
from sirius_tf.ir.program import MAX_RANK, Program

Array = np.ndarray[Any, Any]
Place = tuple[str, int]
"""An input and one of its axes, or NUMBER."""
NUMBER = -1
"""The axis of a scalar integer, whose value is chosen as sizes are."""
Sizes = Mapping[Place, int]

_UNKNOWN = (1, 64)  # the size of a first dimension, and of another
_COMMON = (8, 16, 32, 128, 224, 256, 299, 512, 1000, 1024, 4096, 16000, 16384, 44100, 65536)
_TRIED = 8  # of the constants of a graph, the largest
_MOST = 1 << 25  # elements
_WORDS = (b"a", b"the", b"b", b"of")
KINDS = ("normal", "whole", "one_hot", "flags", "ones")


@dataclass(frozen=True)
class Recipe:
    """A way to make inputs, of sizes and of a kind.

    Kinds are "normal" floats, with short words, integers 0 and 1, and flags that are false, and
    "whole" floats, 0 and 1, with numbers as text. There are "one_hot" rows, with images as text,
    "flags" that are true, and "ones", with empty text.
    """

    kind: str
    sizes: Sizes

    def arrays(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """The inputs."""
        rng = np.random.default_rng(0)
        return {key: self._array(key, tensor, rng) for key, tensor in inputs.items()}

    def _array(self, key: str, tensor: Tensor, rng: np.random.Generator) -> Array:
        shape = _shape(key, tensor, self.sizes)
        if tensor.dtype == "string":
            return rng.choice(np.array(self._texts(), object), shape)
        if tensor.dtype == "bool":
            return np.full(shape, bool(shape) or self.kind == "flags")
        try:
            dtype = numpy_dtype(tensor.dtype)
        except TypeError:
            raise SiriusError(
                f"no sample can be made up for input {tensor.name} of dtype {tensor.dtype}; "
                "give one"
            ) from None
        if (key, NUMBER) in self.sizes:
            return np.full(shape, self.sizes[key, NUMBER], dtype)
        if self.kind == "ones":
            return np.ones(shape, dtype)
        if self.kind == "one_hot" and shape and shape[-1]:
            return np.eye(shape[-1], dtype=dtype)[rng.integers(0, shape[-1], shape[:-1])]
        if dtype.kind in "iu" or self.kind == "whole":
            return rng.integers(0, 2, shape).astype(dtype)
        return rng.standard_normal(shape).astype(dtype)

    def _texts(self) -> Sequence[bytes]:
        if self.kind == "one_hot":
            return (tf.io.encode_png(np.zeros((64, 64, 3), np.uint8)).numpy(),)
        return {"whole": (b"0", b"1"), "ones": (b"",)}.get(self.kind, _WORDS)


def first(inputs: Mapping[str, Tensor]) -> Recipe:
    """The recipe that most models run on."""
    return Recipe(KINDS[0], _sizes(inputs, *_UNKNOWN))


def recipes(
    inputs: Mapping[str, Tensor],
    graph: Graph,
    programs: Callable[[], Sequence[tuple[Program, Sequence[str | None]]]],
) -> Iterator[Recipe]:
    """The ladder. `programs` are called for where the first recipe is none, each with the inputs of
    the signature that its own inputs are."""
    usual = first(inputs)
    yield usual
    fitted = usual.sizes
    with contextlib.suppress(Exception):  # a defect here must not cost a conversion
        fitted = _fitted(inputs, programs(), usual.sizes)
    numbers = [*_constants(graph), *_COMMON]
    guessed = [_sizes(inputs, 1, n) for n in numbers] + [_sizes(inputs, n, n) for n in numbers[:9]]
    seen = [usual]
    for sizes in [fitted, usual.sizes, *guessed]:
        for kind in KINDS:
            recipe = Recipe(kind, sizes)
            if recipe not in seen and all(_count(k, t, sizes) <= _MOST for k, t in inputs.items()):
                seen.append(recipe)
                yield recipe


def _shape(key: str, tensor: Tensor, sizes: Sizes) -> tuple[int, ...]:
    known = tensor.shape or ()  # of unknown rank are numbers such as TF1's keep_prob
    return tuple(sizes[key, k] if size is None else size for k, size in enumerate(known))


def _count(key: str, tensor: Tensor, sizes: Sizes) -> int:
    return int(np.prod(_shape(key, tensor, sizes), dtype=np.float64))


def _sizes(inputs: Mapping[str, Tensor], batch: int, others: int) -> Sizes:
    """A size for each unknown dimension, and 1 for each scalar integer."""
    found: dict[Place, int] = {}
    for key, tensor in inputs.items():
        shape = tensor.shape or ()
        found |= {(key, k): others if k else batch for k, n in enumerate(shape) if n is None}
        if shape == () and tensor.dtype.startswith(("int", "uint")):
            found[key, NUMBER] = 1
    return found


def _constants(graph: Graph) -> list[int]:
    """Products of small vectors among a graph's constants: what sizes may have to be a multiple of,
    as those that are reshaped."""
    found = set()
    for node in graph.nodes:
        value = node.attrs.get("value")
        if node.op != "Const" or not isinstance(value, np.ndarray):
            continue
        if value.dtype.kind == "i" and value.ndim == 1 and value.size <= MAX_RANK:
            found.add(abs(int(np.prod(value, dtype=np.float64))))
    return sorted(n for n in found if 1 < n <= _COMMON[-1])[-_TRIED:]


def _fitted(
    inputs: Mapping[str, Tensor],
    programs: Sequence[tuple[Program, Sequence[str | None]]],
    sizes: Sizes,
) -> Sizes:
    """Sizes with which fewer checks fail, best none: one of them changes at a time."""
    found = dict(sizes)
    constants = {c for program, _ in programs for c in _compared(program)}
    near = {n for c in constants for n in (c - 1, c, c + 1) if 0 <= n <= _COMMON[-1]}

    def unmet(sizes: Sizes) -> int:
        arrays = {key: _zeros(key, tensor, sizes) for key, tensor in inputs.items()}
        total = 0
        for program, keys in programs:
            pairs = zip(program.inputs, keys, strict=True)
            total += interp.unmet(program, {n: arrays[k] for n, k in pairs if k is not None})
        return total

    least = unmet(found) if found else 0
    while least:
        numbers = sorted(near | set(_COMMON) | set(found.values()))
        moves = [(unmet({**found, p: n}), p, n) for p in found for n in numbers]
        count, place, number = min(moves)
        if count >= least:
            break
        least, found[place] = count, number
    return found


def _compared(program: Program) -> Iterator[int]:
    """The integers that occur where a program is entered."""
    for expr in (*(c.condition for c in program.checks), *(p.value for p in program.params)):
        for node in walk(expr):
            if isinstance(node, Index):
                yield abs(node.value.const)
            elif isinstance(node, Const) and not isinstance(node.value, bool | float):
                yield int(node.value)


def _zeros(key: str, tensor: Tensor, sizes: Sizes) -> Array:
    """An array of the shape that takes no memory; a scalar has its number."""
    dtype = object if tensor.dtype == "string" else numpy_dtype(tensor.dtype)
    return np.broadcast_to(
        np.asarray(sizes.get((key, NUMBER), 0), dtype), _shape(key, tensor, sizes)
    )
