# SPDX-License-Identifier: Apache-2.0
"""Signatures that compute the same, as exports have one function under two names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sirius_tf.driver.parts import Part
from sirius_tf.frontend.upstream import node_of
from sirius_tf.rewrite.canonical import array_digest, digest


def with_twins(parts: Sequence[Part]) -> list[Part]:
    """The parts, whose constants are there still, with the digests of their graphs, where regions,
    samples and variables are those of another part."""
    keys = [_cheap(part) for part in parts]
    return [
        replace(part, digest=digest(part.signature.graph) if keys.count(key) > 1 else "")
        for part, key in zip(parts, keys, strict=True)
    ]


def twins(parts: Sequence[Part]) -> Mapping[str, str]:
    """By signature, an earlier one of the same graph up to names, constants included, on the same
    samples, with the same code: a call of one takes as long as a call of the other."""
    first: dict[object, str] = {}
    found = {}
    for part in parts:
        if part.digest and part.samples is not None:
            key = part.digest, *_cheap(part)
            earlier = first.setdefault(key, part.signature.name)
            if earlier != part.signature.name:
                found[part.signature.name] = earlier
    return found


def _cheap(part: Part) -> tuple[str, str, str]:
    """As much of a signature as can be told without a walk over its constants."""
    signature = part.signature
    given = {node_of(tensor.name) for tensor in signature.inputs.values()}
    variables = [a.name for a in signature.graph.inputs if a.name not in given]
    samples = [(key, array_digest(a)) for key, a in (part.samples or {}).items()]
    uses = [(use.kernel, use.region.digest, use.may_refuse) for use in part.uses]
    return str(uses), str(variables), str(samples)
