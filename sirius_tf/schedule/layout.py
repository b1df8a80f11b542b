# SPDX-License-Identifier: Apache-2.0
"""Data layout: temporaries are stored, and constants packed, in the order that their readers want.

    k[b, t, d], read by scores along t        ->  stored as k[b, d, t]
    w[k, n], read along n by a contraction    ->  packed as w'[n / PANEL, k, n % PANEL]

Both are Program -> Program: a stored order is the order of the dimensions of a Tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import Expr, Load, loads
from sirius_tf.ir.grids import elements
from sirius_tf.ir.polynomial import Poly, poly
from sirius_tf.ir.program import Iter, Panels, Program, Statement, Tensor, Tiles
from sirius_tf.ir.rewrite import fresh, map_statements, move, replace_loads
from sirius_tf.schedule import plan as plans
from sirius_tf.schedule.cpu_costs import MOST_COPIES, ROWS, SMALLEST_PACKED
from sirius_tf.schedule.machine import Machine
from sirius_tf.schedule.plan import PANEL, Chooser, Plan


def lay_out(program: Program, machine: Machine) -> Program:
    """The program with temporaries ordered, and constants packed, for their readers."""
    return pack(order_temporaries(program, machine), machine)


# Temporaries


def order_temporaries(program: Program, machine: Machine) -> Program:
    """Permute the dimensions of temporaries: those who touch them most often choose first."""
    last = dict[str, int | None]()
    choose = Chooser(machine, Wishes(program, last))
    choose_first = Chooser(machine, Wishes(program, {}))
    for s in sorted(program.statements, key=lambda s: -_touches(program, s, choose_first(s))):
        chosen = choose(s)
        for tensor, index in _accesses(s):
            fixed = last.get(tensor) is not None or tensor in program.conditions
            if program.tensor[tensor].role != "temp" or fixed:
                continue
            axis = _axis(index, chosen.lanes)
            if axis is not None and not (chosen.across and tensor == s.target):
                last[tensor] = axis
    for tensor, axis in last.items():
        rank = len(program.tensor[tensor].shape)
        if axis is not None and axis != rank - 1:
            order = (*(k for k in range(rank) if k != axis), axis)
            program = _permuted(program, tensor, order)
    return program


def _touches(program: Program, s: Statement, chosen: Plan) -> float:
    """Vector loads and stores of temporaries that a statement makes if they are stored as it wants,
    when it has its plan: its rank when orders are chosen. A product with constant weights only
    stores some."""
    inner = math.prod(i.extent.evaluate(program.hints) for i in s.reduce.iters) if s.reduce else 1
    points = plans.work(s, program.hints)
    loaded = {load.tensor for load in loads(s.value) if _axis(load.index, chosen.lanes) is not None}
    temps = [t for t in loaded if program.tensor[t].role == "temp"]
    return points * len(temps) / ROWS + points / max(inner, 1)


@dataclass(frozen=True)
class Wishes(plans.Strides):
    """Strides if every temporary without an order yet could have the one that suits."""

    last: dict[str, int | None]

    def __call__(self, tensor: str, index: Sequence[Affine | Expr], name: str) -> Poly | None:
        """The stride of an access along an iterator, if a tensor without an order yet gets the one
        that suits this access."""
        t = self.program.tensor[tensor]
        now = plans.stride(index, t.shape, name)
        if now is None or now == poly(0):
            return now
        axis = _axis(index, name)
        if t.role == "constant":
            return poly(1) if axis is not None else now
        if t.role != "temp" or axis is None:
            return now
        fixed = self.last.get(tensor)
        return poly(1) if fixed is None or fixed == axis else poly(PANEL)

    def facts(self, tensor: str) -> tuple[object, ...]:
        """The order that it has, too."""
        return *super().facts(tensor), self.last.get(tensor)

    def moved(self, tensor: str, index: Sequence[Affine | Expr], name: str) -> int:
        """Elements of a temporary that is stored in another order then."""
        t, axis = self.program.tensor[tensor], _axis(index, name)
        natural = axis is None or axis == len(t.shape) - 1
        if t.role != "temp" or natural or self.last.get(tensor) is not None:
            return 0
        return math.prod(e.evaluate(self.program.hints) for e in t.shape)


def _accesses(s: Statement) -> list[tuple[str, tuple[Affine | Expr, ...]]]:
    read = (*loads(s.value), *s.finish_loads)
    return [(s.target, s.index), *((load.tensor, load.index) for load in read)]


def _axis(index: Sequence[Affine | Expr], name: str | None) -> int | None:
    """The only dimension that moves with an iterator, if it does by one."""
    moved = [k for k, i in enumerate(index) if isinstance(i, Affine) and name in set(i.names())]
    if name is None or len(moved) != 1:
        return None
    only = index[moved[0]]
    assert isinstance(only, Affine)
    plain = only.coefficient(name) == 1 and list(only.names()).count(name) == 1
    return moved[0] if plain else None


def _permuted(program: Program, name: str, order: Sequence[int]) -> Program:
    def permuted(load: Load) -> Load:
        return replace(load, index=tuple(load.index[k] for k in order))

    old = program.tensor[name]
    layout = old.layout
    if isinstance(layout, Tiles):
        layout = replace(layout, axis=order.index(layout.axis))
    new = replace(old, shape=tuple(old.shape[k] for k in order), layout=layout)
    program = replace(program, tensors=tuple(new if t is old else t for t in program.tensors))
    return map_statements(program, lambda s: move(s, {name}, permuted))


# Constants


def pack(program: Program, machine: Machine) -> Program:
    """Copy constants into the order in which their readers run through them."""
    packer = _Packer(program, machine)
    statements = tuple(packer.statement(s) for s in program.statements)
    read = {load.tensor for s in statements for load in s.loads}
    kept = tuple(t for t in program.tensors if t.role != "constant" or t.name in read)
    return replace(program, tensors=(*kept, *packer.made.values()), statements=statements)


class _Packer:
    def __init__(self, program: Program, machine: Machine) -> None:
        self.program, self.machine = program, machine
        self.made: dict[tuple[object, ...], Tensor] = {}
        # temporaries have their order: only constants can still be had in any
        last = {t.name: len(t.shape) - 1 for t in program.tensors if t.role == "temp" and t.shape}
        self.wishes = Wishes(program, dict[str, int | None](last))
        self.choose = Chooser(machine, self.wishes)

    def statement(self, s: Statement) -> Statement:
        """The statement with the constants of its value packed. Those of its epilogue, which it
        reads once for a result, are no loop that a copy would make faster."""
        chosen = self.choose(s)
        if not chosen.lanes:
            return s
        constants = {n for n, t in self.program.tensor.items() if t.role == "constant"}
        value = replace_loads(s.value, constants, lambda x: self.load(s, chosen, x))
        return replace(s, value=value)

    def load(self, s: Statement, chosen: Plan, load: Load) -> Load:
        """The load of a constant from a packed copy, or as it is where that is fine."""
        t = self.program.tensor[load.tensor]
        iters = self.iters(s, chosen, load)
        if not iters or not all(i.extent.is_const for i in iters):
            return load
        assert chosen.lanes is not None and t.value is not None
        step = plans.stride(load.index, t.shape, chosen.lanes)
        size = math.prod(i.extent.const for i in iters)
        far = step not in (poly(0), poly(1))
        if size > MOST_COPIES * max(t.value.size, PANEL) or size == 0:
            return load
        if not far and (s.reduce is None or size < SMALLEST_PACKED):
            return load
        panels = iters[-1].name == chosen.lanes and s.reduce is not None and not chosen.across
        panels = panels and self.machine.panels
        inner = {i.name for i in s.reduce.iters} if s.reduce else set()
        outer = sum(1 for i in iters[:-1] if i.name not in inner | {chosen.rows})
        key = (load, iters, panels)
        if key not in self.made:
            name = fresh(f"{t.name}_packed{len(self.made)}", self.program.tensor)
            self.made[key] = _packed(name, t, load, iters, outer if panels else None)
        made = self.made[key]
        at = tuple(symbol(i.name) for i in iters)
        if panels:
            at = (*at[:outer], at[-1] // PANEL, *at[outer:-1], at[-1] % PANEL)
        return Load(made.name, at, load.dtype)

    def iters(self, s: Statement, chosen: Plan, load: Load) -> tuple[Iter, ...]:
        """The iterators of a load: outer ones, those of the reduction, rows, lanes."""
        names = {n for i in load.index if isinstance(i, Affine) for n in i.names()}
        used = [i for i in s.all_iters if i.name in names]
        if len(used) < len(names) or not all(isinstance(i, Affine) for i in load.index):
            return ()  # parameters, or data
        inner = {i.name for i in s.reduce.iters} if s.reduce else set()

        def rank(i: Iter) -> int:
            if i.name == chosen.lanes:
                return 3
            return 2 if i.name == chosen.rows else int(i.name in inner)

        return tuple(sorted(used, key=rank))


def _packed(
    name: str, t: Tensor, load: Load, iters: tuple[Iter, ...], panels: int | None
) -> Tensor:
    """The constant that holds `load` at every point of the box `iters`.

    Panels of the last iterator come after as many of the others: what is summed over runs inside.
    """
    assert t.value is not None
    value = elements(t.value, load, {i.name: i.extent.const for i in iters})
    if panels is not None:
        n = value.shape[-1]
        padded = -(-n // PANEL) * PANEL
        value = np.pad(value, [(0, 0)] * (value.ndim - 1) + [(0, padded - n)])
        value = np.moveaxis(value.reshape(*value.shape[:-1], padded // PANEL, PANEL), -2, panels)
    value = np.ascontiguousarray(value)
    layout = None if panels is None else Panels(panels)
    return replace(t, name=name, shape=tuple(map(affine, value.shape)), value=value, layout=layout)
