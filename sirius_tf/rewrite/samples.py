# SPDX-License-Identifier: Apache-2.0
"""Sample inputs: those the user gave, checked, or made up from a signature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sirius_tf.errors import SiriusError
from sirius_tf.frontend.graph import Shape
from sirius_tf.frontend.savedmodel import Signature, Tensor
from sirius_tf.ir.dtypes import numpy_dtype

Array = np.ndarray[Any, Any]
Samples = Mapping[str, Mapping[str, Any]]
"""Signature -> input -> array."""
_UNKNOWN = (1, 64)  # the size of a first dimension, and of another
_WORDS = (b"a", b"the", b"b", b"of")


def of_signatures(
    signatures: Mapping[str, Signature], given: Mapping[str, Any] | None
) -> dict[str, dict[str, Array]]:
    """Samples for every signature. `given` may be those of the only signature, by input."""
    given = dict(given or {})
    if given and not any(isinstance(value, Mapping) for value in given.values()):
        if len({tuple(sorted(s.inputs)) for s in signatures.values()}) != 1:
            raise SiriusError(
                "the samples do not say for which signature they are; give "
                f"{{signature: {{input: array}}}} for any of {_listed(signatures)}"
            )
        given = dict.fromkeys(signatures, given)
    unknown = [name for name in given if name not in signatures]
    if unknown:
        raise SiriusError(
            f"samples for signature '{unknown[0]}', which is not among {_listed(signatures)}"
        )
    return {
        name: _checked(signature, given[name]) if name in given else _made(signature)
        for name, signature in signatures.items()
    }


def _checked(signature: Signature, arrays: Mapping[str, Any]) -> dict[str, Array]:
    where = f"samples of signature '{signature.name}'"
    if set(arrays) != set(signature.inputs):
        raise SiriusError(
            f"{where} are for {_listed(arrays)}; it takes {_listed(signature.inputs)}"
        )
    found = {}
    for key, tensor in signature.inputs.items():
        array = np.asarray(arrays[key])
        dtype = "string" if array.dtype.kind in "OSU" else str(array.dtype)
        if dtype != tensor.dtype:
            raise SiriusError(f"{where}: '{key}' has dtype {dtype}, not {tensor.dtype}")
        if not _fits(array.shape, tensor.shape):
            raise SiriusError(f"{where}: '{key}' has shape {array.shape}, not {tensor.shape}")
        found[key] = array
    return found


def _fits(shape: tuple[int, ...], wanted: Shape | None) -> bool:
    if wanted is None:
        return True
    if len(shape) != len(wanted):
        return False
    return all(w is None or s == w for s, w in zip(shape, wanted, strict=True))


def _made(signature: Signature) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {key: _array(tensor, rng) for key, tensor in signature.inputs.items()}


def _array(tensor: Tensor, rng: np.random.Generator) -> Array:
    """Normal floats, integers that are 0 or 1, true, or short words."""
    sizes = tensor.shape if tensor.shape is not None else (None,)
    shape = [_UNKNOWN[bool(k)] if size is None else size for k, size in enumerate(sizes)]
    if tensor.dtype == "string":
        return rng.choice(np.array(_WORDS, object), shape)
    if tensor.dtype == "bool":
        return np.ones(shape, bool)
    try:
        dtype = numpy_dtype(tensor.dtype)
    except TypeError:
        raise SiriusError(
            f"no sample can be made up for input {tensor.name} of dtype {tensor.dtype}; give one"
        ) from None
    if dtype.kind in "iu":
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "nothing"
