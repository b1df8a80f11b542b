# SPDX-License-Identifier: Apache-2.0
"""isl idioms by name. An isl object is a value of one call: never a dict key, never hashed."""

from __future__ import annotations

from collections.abc import Iterable

import islpy as isl


def maps(union: isl.UnionMap) -> list[isl.Map]:
    """The maps of a union, one per pair of spaces."""
    found: list[isl.Map] = []
    union.foreach_map(found.append)
    return found


def sets(union: isl.UnionSet) -> list[isl.Set]:
    """The sets of a union, one per space."""
    found: list[isl.Set] = []
    union.foreach_set(found.append)
    return found


def union_map(parts: Iterable[isl.Map]) -> isl.UnionMap:
    """Union as a balanced tree: adding one by one is quadratic."""
    unions = [isl.UnionMap.from_map(part) for part in parts]
    if not unions:
        return isl.UnionMap("{ }")
    while len(unions) > 1:
        pairs = [unions[i : i + 2] for i in range(0, len(unions), 2)]
        unions = [pair[0].union(pair[1]) if len(pair) == 2 else pair[0] for pair in pairs]
    return unions[0]


def union_set(parts: Iterable[isl.Set]) -> isl.UnionSet:
    """Union of sets of any spaces."""
    result = isl.UnionSet("{ }")
    for part in parts:
        result = result.union(isl.UnionSet.from_set(part))
    return result


def example(relation: isl.Map | isl.Set) -> str:
    """One point of a non-empty relation, sizes included, as text for an error."""
    return str(relation.sample())
