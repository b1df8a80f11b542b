# SPDX-License-Identifier: Apache-2.0
"""Vectorization: the iterator along the lanes of a vector and the one that fills registers, for
each statement. A cost per point decides, of loads, stores and functions on the sizes of the
samples.

    c[i, j] = sum over k of a[i, k] * b[k, j]     lanes along j: b is read, c written contiguously,
                                                  a is a scalar; rows along i: b is read once for
                                                  several of them
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sirius_tf.ir.affine import Affine, FloorDiv
from sirius_tf.ir.expr import Call, Expr, Load, loads, names_in, walk
from sirius_tf.ir.functions import FUNCTIONS
from sirius_tf.ir.polynomial import Poly, poly
from sirius_tf.ir.program import Iter, Program, Statement
from sirius_tf.schedule.cpu_costs import IN_FLIGHT, LANES, ROWS, SCATTERED, STREAMS
from sirius_tf.schedule.machine import Machine

ZERO, ONE = poly(0), poly(1)
PANEL = 16  # lanes-iterator values that packed constants keep together: a multiple of any ISA's


@dataclass(frozen=True)
class Plan:
    """`lanes`: iterator of the vector, None for scalar code; `rows`: that of the register block.

    `across`: the lanes are those of a reduction iterator, combined at the end.
    """

    lanes: str | None
    rows: str | None = None
    across: bool = False


@functools.lru_cache(maxsize=1 << 14)  # what layers access is alike
def stride(index: tuple[Affine | Expr, ...], shape: tuple[Affine, ...], name: str) -> Poly | None:
    """Distance in elements between neighbours along iterator `name`; None if it is not constant.

    A floor(name / PANEL), or of a multiple of it, does not change within a vector: one begins at a
    multiple of its lanes.
    """
    total, size = ZERO, ONE
    for i, extent in zip(reversed(index), reversed(shape), strict=True):
        if isinstance(i, Affine):
            for key, coefficient in i.terms:
                if key == name:
                    total = total + size * coefficient
                elif isinstance(key, FloorDiv) and not _steady(key, name):
                    return None
        elif name in names_in(i):
            return None
        size = size * extent
    return total


def _steady(floor: FloorDiv, name: str) -> bool:
    """Whether a floor does not change with `name` within a vector."""
    if name not in floor.numerator.names():
        return True
    return floor.divisor % PANEL == 0 and str(floor.numerator) == name


def work(s: Statement, hints: Mapping[str, int]) -> int:
    """Points that a statement evaluates on the sample inputs."""
    return math.prod(max(i.extent.evaluate(hints), 0) for i in s.all_iters)


@dataclass(frozen=True)
class Strides:
    """Strides of accesses in the program as it is stored now."""

    program: Program

    def __call__(self, tensor: str, index: Sequence[Affine | Expr], name: str) -> Poly | None:
        """The stride of an access to a tensor along an iterator."""
        return stride(index, self.program.tensor[tensor].shape, name)

    def facts(self, tensor: str) -> tuple[object, ...]:
        """The facts of a tensor on which its strides, and costs, depend."""
        t = self.program.tensor[tensor]
        return t.role, t.shape

    def moved(self, tensor: str, index: Sequence[Affine | Expr], name: str) -> int:
        """Elements that are stored in another order for this access to have its stride."""
        return 0


@dataclass(frozen=True)
class Chooser:
    """Plans of least cost. Statements that are equal but for the names of tensors, as those of
    layers, have the same one, which is found once."""

    machine: Machine
    strides: Strides
    found: dict[object, Plan] = field(default_factory=dict)

    def __call__(self, s: Statement) -> Plan:
        """The plan of a statement of the program whose strides are known."""
        coster = _Coster(self.strides.program, s, self.machine, self.strides)
        facts = coster.facts()
        if facts not in self.found:
            plans = [Plan(None), *(coster.with_rows(p) for p in reversed(_vectors(s)))]
            self.found[facts] = min(plans, key=coster.cost)
        return self.found[facts]


def choose(
    program: Program, s: Statement, machine: Machine, strides: Strides | None = None
) -> Plan:
    """The plan of least cost of one statement."""
    return Chooser(machine, strides or Strides(program))(s)


def _vectors(s: Statement) -> list[Plan]:
    """The plans with one iterator along lanes, and none in a register block."""
    lanes = [Plan(i.name) for i in s.iters if not i.loop]
    return lanes + [Plan(i.name, across=True) for i in (s.reduce.iters if s.reduce else ())]


def possible(s: Statement) -> list[Plan]:
    """All plans that a statement may have."""
    found = [Plan(None), *_vectors(s)]
    if s.reduce is None:
        return found
    rows = [i.name for i in s.iters if not i.loop]
    return found + [replace(p, rows=r) for p in _vectors(s) for r in rows if r != p.lanes]


def choose_all(program: Program, machine: Machine) -> dict[str, Plan]:
    """The plan of every statement, by name."""
    choose = Chooser(machine, Strides(program))
    return {s.name: choose(s) for s in program.statements}


class _Coster:
    def __init__(self, program: Program, s: Statement, machine: Machine, strides: Strides) -> None:
        self.s, self.machine, self.strides = s, machine, strides
        self.extents = {i.name: max(i.extent.evaluate(program.hints), 1) for i in s.all_iters}
        self.symbolic = {i.name for i in s.iters if not i.extent.is_const}
        self.loads = tuple(dict.fromkeys(loads(s.value)))
        self.finish_loads = s.finish_loads
        calls = [e for e in dict.fromkeys(walk(s.value)) if isinstance(e, Call)]
        self.functions = sum(FUNCTIONS[c.fn].cost for c in calls)
        self.reduced = math.prod(self.extents[i.name] for i in _reduced(s))
        self.points = math.prod(self.extents[i.name] for i in s.iters if not i.loop)
        self.known = dict[tuple[Load, str], Poly | None]()
        self.costs = dict[Plan, float]()

    def facts(self) -> object:
        """All that costs depend on, of one machine and program: tensors have numbers for names."""
        read = [(load.tensor, load.index) for load in (*self.loads, *self.finish_loads)]
        accesses = [(self.s.target, self.s.index), *read]
        numbers = {t: k for k, t in enumerate(dict.fromkeys(t for t, _ in accesses))}
        return (
            (self.s.iters, self.s.reduce, self.functions, len(self.loads)),
            tuple((numbers[t], index) for t, index in accesses),
            tuple(map(self.strides.facts, numbers)),
        )

    def along(self, load: Load, name: str) -> Poly | None:
        if (load, name) not in self.known:
            self.known[load, name] = self.strides(load.tensor, load.index, name)
        return self.known[load, name]

    def with_rows(self, plan: Plan) -> Plan:
        """The plan with the iterator along which most vectors need not be loaded again."""
        if self.s.reduce is None or plan.lanes is None:
            return plan
        choices = [
            Plan(plan.lanes, i.name, plan.across)
            for i in reversed(self.s.iters)  # of equal ones, the innermost
            if i.name != plan.lanes and not i.loop
        ]
        return min([plan, *choices], key=self.cost)

    def cost(self, plan: Plan) -> float:
        """Cost of a point, more by as much as threads have none."""
        if plan not in self.costs:
            busy = self.points
            if plan.across:
                busy *= min(self.machine.warp, self.extents[str(plan.lanes)])
            idle = max(self.machine.busy_threads / busy, 1.0)
            self.costs[plan] = self.of_point(plan) * idle
        return self.costs[plan]

    def of_point(self, plan: Plan) -> float:
        """Cost of a point, in vector operations of one element."""
        if plan.lanes is None:
            return self.functions + len(self.loads) + 1.5
        n = self.extents[plan.lanes]
        filled = LANES * n / (math.ceil(n / LANES) * LANES) if n >= LANES else n / 2
        total = self.functions
        for load in self.loads:
            step = self.along(load, plan.lanes)
            one = 1.0 if step == ONE else 0.5 if step == ZERO else SCATTERED
            if plan.across and self.read_once(plan, load):
                one *= STREAMS
            total += one / self.reuse(plan, load)
        if self.s.reduce:  # a sum needs the last one before the next: several run at a time
            rows = min(self.extents.get(str(plan.rows), 1), ROWS)
            beside = min(math.ceil(n / LANES), max(IN_FLIGHT // rows, 2))  # vectors
            total *= max(1.0, IN_FLIGHT / (rows * beside))
        total = total / filled + self.reordered(plan.lanes)
        if plan.across:
            return total + (12.0 + len(self.finish_loads)) / self.reduced
        stored = self.strides(self.s.target, self.s.index, plan.lanes)
        steps = [stored, *(self.along(load, plan.lanes) for load in self.finish_loads)]
        at_end = sum(1.0 if step in (ZERO, ONE) else SCATTERED for step in steps)
        return total + at_end / filled / self.reduced

    def read_once(self, plan: Plan, load: Load) -> bool:
        """Whether rows are parts of a constant that lie apart, where a panel would be one."""
        constant = self.strides.program.tensor[load.tensor].role == "constant"
        return (
            self.machine.panels
            and constant
            and plan.rows is not None
            and self.along(load, plan.rows) != ZERO
        )

    def reordered(self, lanes: str) -> float:
        """Cost of the statements that must then store, or read, with a stride instead."""
        accesses = [(load.tensor, load.index) for load in self.loads]
        moved = [self.strides.moved(t, i, lanes) for t, i in accesses]
        return SCATTERED * sum(moved) / math.prod(self.extents.values())

    def reuse(self, plan: Plan, load: Load) -> float:
        """The number of rows that share one load of an operand."""
        if plan.rows is None or self.along(load, plan.rows) != ZERO:
            return 1.0
        rows, names = 1, [i.name for i in self.s.iters if not i.loop]
        for name in reversed(names[: names.index(plan.rows) + 1]):
            if name == plan.lanes or self.along(load, name) != ZERO:
                continue
            least = 2 if name in self.symbolic else 1  # a batch of 1 is a sample, not a promise
            rows *= max(self.extents[name], least)
            if name in self.symbolic:  # blocks only go on after whole rows of a known size
                break
        return float(min(rows, ROWS))


def _reduced(s: Statement) -> Iterable[Iter]:
    return s.reduce.iters if s.reduce else ()
