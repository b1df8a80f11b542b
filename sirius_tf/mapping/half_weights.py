# SPDX-License-Identifier: Apache-2.0
"""Weights that matrix units round to half precision are stored so: half of what is read of them.

Where every reader of a constant is such a product, its elements are rounded once, at conversion,
instead of by each block that copies them: results are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

import numpy as np

from sirius_tf.ir.expr import Call, Load
from sirius_tf.ir.program import Program, Statement
from sirius_tf.ir.rewrite import map_loads, map_statements
from sirius_tf.nest.scheduled import Scheduled


def rounded(program: Program, leaves: Iterable[tuple[Statement, bool]]) -> tuple[str, ...]:
    """The constants of float32 of which all readers are products on matrix units, of statements
    of which it is said whether they are such."""
    only_factors = dict[str, bool]()
    for s, product in leaves:
        found = set(_factors(s)) if product else set()
        for name in {load.tensor for load in s.loads}:
            only_factors[name] = only_factors.get(name, True) and name in found
    constants = (t for t in program.tensors if (t.role, t.dtype) == ("constant", "float32"))
    return tuple(t.name for t in constants if only_factors.get(t.name))


def _factors(s: Statement) -> Iterator[str]:
    """The tensors of which elements are factors of a product, and nothing else in it."""
    others = {load.tensor for load in s.finish_loads}
    match s.value:
        case Call("mul", pair, "float32"):
            yield from {f.tensor for f in pair if isinstance(f, Load)} - others
        case _:
            pass


def in_half(scheduled: Scheduled, names: Collection[str]) -> Scheduled:
    """With some constants of float32 stored as float16, and widened where they are read."""

    def wide(load: Load) -> Call:
        return Call("cast", (replace(load, dtype="float16"),), "float32")

    program, tensors = scheduled.program, []
    for t in program.tensors:
        if t.name in names:
            assert t.value is not None
            with np.errstate(over="ignore"):  # infinite, as in the products
                t = replace(t, dtype="float16", value=t.value.astype(np.float16))
        tensors.append(t)
    program = replace(program, tensors=tuple(tensors))
    program = map_statements(program, lambda s: map_loads(s, names, wide))
    return replace(scheduled, program=program)
