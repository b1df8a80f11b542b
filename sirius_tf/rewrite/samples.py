# SPDX-License-Identifier: Apache-2.0
"""Sample inputs that the user gave, checked, and for which signatures they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sirius_tf.errors import SiriusError
from sirius_tf.frontend.graph import Shape
from sirius_tf.frontend.savedmodel import Signature

Array = np.ndarray[Any, Any]
Samples = Mapping[str, Mapping[str, Any]]
"""Signature -> input -> array."""


@dataclass(frozen=True, eq=False)
class Choice:
    """The samples of a signature: those that were given, or else the first it runs on of those that
    were given for others, and what can be made up."""

    given: Mapping[str, Array] | None = None
    others: tuple[Mapping[str, Array], ...] = ()


def of_signatures(
    signatures: Mapping[str, Signature], given: Mapping[str, Any] | None
) -> dict[str, Choice]:
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
    checked = {name: _checked(signatures[name], arrays) for name, arrays in given.items()}
    return {
        name: Choice(checked.get(name), _fitting(signature, checked.values()))
        for name, signature in signatures.items()
    }


def twice(signature: Signature, arrays: Mapping[str, Array]) -> dict[str, Array] | None:
    """The samples and these again, along the first axis of each input that has no known size;
    None if none has one. Values are as before, since some may be subscripts."""
    found = dict(arrays)
    for key, array in arrays.items():
        shape = signature.inputs[key].shape
        unknown = [axis for axis, size in enumerate(shape or ()) if size is None]
        if unknown:
            found[key] = np.concatenate([array, array], axis=unknown[0])
    return found if any(found[key] is not array for key, array in arrays.items()) else None


def _fitting(
    signature: Signature, samples: Iterable[Mapping[str, Array]]
) -> tuple[Mapping[str, Array], ...]:
    """The samples, of those of other signatures, that this one may be called with."""
    found = []
    for arrays in samples:
        with contextlib.suppress(SiriusError):
            found.append(_checked(signature, arrays))
    return tuple(found)


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


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "nothing"
