# SPDX-License-Identifier: Apache-2.0
"""Flow dependences of a Scop.

Each element is defined once, so flow is `write . read^-1` and there is no anti or output
dependence until storage is folded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import islpy as isl

from sirius_tf.errors import VerifyError
from sirius_tf.poly.isl import example
from sirius_tf.poly.scop import Scop


@dataclass(frozen=True)
class Flow:
    """`relation`: { source[i] -> sink[j] }, instance j reads what instance i defines."""

    source: str
    sink: str
    tensor: str
    relation: isl.Map


def flow(scop: Scop) -> tuple[Flow, ...]:
    """One Flow per writer, reader and read access; empty ones are left out."""
    writers: dict[str, list[str]] = {}
    for statement, write in scop.writes.items():
        writers.setdefault(write.get_tuple_name(isl.dim_type.out), []).append(statement)
    found = []
    for sink, reads in scop.reads.items():
        for read in reads:
            tensor = read.get_tuple_name(isl.dim_type.out)
            for source in writers[tensor]:
                relation = scop.writes[source].apply_range(read.reverse())
                if not relation.is_empty():
                    found.append(Flow(source, sink, tensor, relation.coalesce()))
    return tuple(found)


def least_distance(f: Flow, source: int, sink: int) -> int | None:
    """By how much at least number `sink` of the reader's iterators exceeds number `source` of the
    writer's, for all sizes; None if nothing bounds it from below."""
    pairs = f.relation
    for kind, kept in ((isl.dim_type.in_, source), (isl.dim_type.out, sink)):
        pairs = pairs.project_out(kind, kept + 1, pairs.dim(kind) - kept - 1)
        pairs = pairs.project_out(kind, 0, kept)
    least = pairs.deltas().dim_min_val(0)
    return least.to_python() if least.is_int() else None


def at_distance(f: Flow, source: int, sink: int, distance: int) -> Flow:
    """The pairs of a dependence for which one iterator exceeds the other by `distance`."""
    pairs = f.relation
    equal = isl.Constraint.equality_alloc(isl.LocalSpace.from_space(pairs.get_space()))
    equal = equal.set_coefficient_val(isl.dim_type.in_, source, isl.Val(1))
    equal = equal.set_coefficient_val(isl.dim_type.out, sink, isl.Val(-1))
    equal = equal.set_constant_val(isl.Val(distance))
    return replace(f, relation=pairs.add_constraint(equal))


def check_single_assignment(scop: Scop) -> None:
    """VerifyError, naming two instances, if some element is defined twice."""
    for name, write in scop.writes.items():
        if not write.is_injective():
            twice = write.apply_range(write.reverse())
            same = isl.Map.identity(twice.get_space())
            raise VerifyError(
                f"{name} defines an element twice, e.g. in both instances of "
                f"{example(twice.subtract(same))}"
            )
    for (a, wa), (b, wb) in combinations(scop.writes.items(), 2):
        if wa.get_tuple_name(isl.dim_type.out) == wb.get_tuple_name(isl.dim_type.out):
            both = wa.apply_range(wb.reverse())
            if not both.is_empty():
                raise VerifyError(f"{a} and {b} define the same element, e.g. {example(both)}")


def check_defined(scop: Scop) -> None:
    """VerifyError, naming reader and element, if an element is read that nothing defines."""
    defined: dict[str, isl.Set] = {}
    for write in scop.writes.values():
        elements = write.range()
        tensor = elements.get_tuple_name()
        defined[tensor] = defined[tensor].union(elements) if tensor in defined else elements
    for sink, reads in scop.reads.items():
        for read in reads:
            tensor = read.get_tuple_name(isl.dim_type.out)
            missing = read.subtract_range(defined[tensor])
            if not missing.is_empty():
                raise VerifyError(f"{sink} reads what nothing defines, e.g. {example(missing)}")
