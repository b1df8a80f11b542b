# SPDX-License-Identifier: Apache-2.0
"""Names of parameters that are nobody else's in generated code."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from sirius_tf.ir.affine import Affine, symbol
from sirius_tf.ir.program import Param, Program
from sirius_tf.nest.nodes import Loop, LoopNest
from sirius_tf.nest.scheduled import Scheduled

PREFIX = "P_"


def with_own_parameters(kernel: Scheduled) -> Scheduled:
    """The same with a prefix before the name of every parameter, which the user may have given.

    A tensor's pointer has another one, and no variable of a kernel begins with either.
    """
    names = {p.name: f"{PREFIX}{p.name}" for p in kernel.program.params}
    program: Program = renamed(kernel.program, names)
    nest: LoopNest = renamed(kernel.nest, names)
    return dataclasses.replace(kernel, program=program, nest=nest)


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """A value of which the affine expressions, anywhere inside, are about parameters `names`."""
    match value:
        case Affine():
            return value.substitute({old: symbol(new) for old, new in names.items()})
        case tuple():
            return tuple(renamed(part, names) for part in value)
        case _ if not dataclasses.is_dataclass(value):
            return value
    fields = {f.name: renamed(getattr(value, f.name), names) for f in dataclasses.fields(value)}
    match value:
        case Param(name):
            fields["name"] = names[name]
        case Loop(trips=trips) if trips:
            fields["trips"] = names[trips]
    return type(value)(**fields)
