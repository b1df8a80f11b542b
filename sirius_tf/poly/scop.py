# SPDX-License-Identifier: Apache-2.0
"""Program -> Scop: iteration domains and access relations as isl objects.

A reduction is a macro statement: its instances are its output points, and an instance reads
everything its reduction box touches. A data-dependent index (Gather) reads its whole axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import islpy as isl

from sirius_tf.errors import VerifyError
from sirius_tf.ir.affine import Affine
from sirius_tf.ir.expr import Load
from sirius_tf.ir.program import Iter, Program, Statement


@dataclass(frozen=True)
class Scop:
    """Every set and map is intersected with `context`, the facts known about the parameters.

    `domains[S]`: { S[i] }; `writes[S]`: { S[i] -> T[...] }; `reads[S]`: one map per Load that
    differs, what decides that S runs included, of tensors that statements define (inputs and
    constants carry no dependence).
    """

    context: isl.Set
    domains: Mapping[str, isl.Set]
    writes: Mapping[str, isl.Map]
    reads: Mapping[str, tuple[isl.Map, ...]]
    shapes: Mapping[str, isl.Set]


def extract(program: Program) -> Scop:
    """The Scop of a Program; VerifyError if a name cannot be an isl identifier."""
    for name in (*program.tensor, *(s.name for s in program.statements)):
        if not name.isidentifier():
            raise VerifyError(f"a tensor or statement is called '{name}': isl wants an identifier")
    prefix = f"[{', '.join(p.name for p in program.params)}] -> "
    facts = [f"{p.name} >= {p.minimum}" for p in program.params]
    facts += [f"{fact} >= 0" for fact in program.context]
    context = isl.Set(prefix + "{ : " + " and ".join(facts or ["true"]) + " }")
    written = {s.target for s in program.statements}
    domains, writes, reads, shapes = {}, {}, {}, {}
    for name in sorted(written):
        shapes[name] = isl.Set(prefix + _shape_text(name, program.tensor[name].shape))
    for s in program.statements:
        tuple_text = f"{s.name}[{', '.join(i.name for i in s.iters)}]"
        box = _box(s.iters)
        domains[s.name] = isl.Set(f"{prefix}{{ {tuple_text} : {box} }}").intersect_params(context)
        target = f"{s.target}[{', '.join(map(str, s.index))}]"
        write = isl.Map(f"{prefix}{{ {tuple_text} -> {target} : {box} }}")
        writes[s.name] = write.intersect_params(context)
        accesses = [load for load in program.needs(s) if load.tensor in written]
        reads[s.name] = tuple(
            isl.Map(f"{prefix}{_read_text(s, tuple_text, load)}")
            .intersect_range(shapes[load.tensor])
            .intersect_params(context)
            .coalesce()
            for load in accesses
        )
    return Scop(context, domains, writes, reads, shapes)


def _box(iters: tuple[Iter, ...]) -> str:
    return " and ".join(f"0 <= {i.name} < {i.extent}" for i in iters) or "true"


def _shape_text(name: str, shape: tuple[Affine, ...]) -> str:
    axes = [f"o{k}" for k in range(len(shape))]
    bounds = [f"0 <= {o} < {extent}" for o, extent in zip(axes, shape, strict=True)]
    return f"{{ {name}[{', '.join(axes)}] : {' and '.join(bounds) or 'true'} }}"


def _read_text(s: Statement, tuple_text: str, load: Load) -> str:
    """{ S[i] -> T[o] : exists the reduction iterators k with o = index(i, k) }, if it has some."""
    outputs = [f"o{k}" for k in range(len(load.index))]
    equal = [f"{o} = {i}" for o, i in zip(outputs, load.index, strict=True) if type(i) is Affine]
    affines = [i for i in load.index if isinstance(i, Affine)]
    names = {name for i in affines for name in i.names()}
    inner = [i for i in s.all_iters[len(s.iters) :] if i.name in names]
    body = " and ".join([_box((*s.iters, *inner)), *equal])
    if inner:
        body = f"exists ({', '.join(i.name for i in inner)} : {body})"
    return f"{{ {tuple_text} -> {load.tensor}[{', '.join(outputs)}] : {body} }}"
