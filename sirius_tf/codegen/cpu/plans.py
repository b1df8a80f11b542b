# SPDX-License-Identifier: Apache-2.0
"""Plans that C has: what a vector cannot hold, or load, or compute, is computed by scalars.

z[i] = x[7 * i // 2]      no stride along i
z[i] = x[i] // y[i]       a function that may fail does so for one element
"""

from __future__ import annotations

from sirius_tf.codegen import vector
from sirius_tf.codegen.context import divides
from sirius_tf.ir.affine import Affine
from sirius_tf.ir.expr import Call, Expr, Index, Load, loads, names_in
from sirius_tf.ir.polynomial import poly
from sirius_tf.ir.program import Program, Statement
from sirius_tf.nest.coalesce import Leaf
from sirius_tf.schedule.inplace import accumulates, in_place, pins
from sirius_tf.schedule.plan import Plan, stride
from sirius_tf.schedule.storage import Storage

ACROSS = {"float32": ("add", "max", "min"), "bool": ("and", "or")}  # lanes that become one


def is_computable(program: Program, storage: Storage, s: Statement, plan: Plan) -> bool:
    """Whether a statement can be computed by its plan, where its lanes run."""
    return plan.lanes is None or _Vectors(program, storage, s, plan).are_possible()


def plan_of(program: Program, storage: Storage, leaf: Leaf, plan: Plan) -> Plan:
    """The plan of a leaf: scalar where lanes do not run, may cross a multiple of what divides
    them, or are one element that is updated in place."""
    s, lanes = leaf.statement, {r.name: r for r in leaf.box}.get(str(plan.lanes))
    if plan.lanes is None or plan.across:
        return plan
    divided = any(divides(i, plan.lanes) for load in loads(s.value) for i in load.index)
    if lanes is None or (divided and not lanes.aligned):
        return Plan(None)
    old = in_place(program, s, storage)
    found = (pins(s, old, [r.name for r in leaf.box], None) if old else None) or ()
    return Plan(None) if any(plan.lanes in entry for entry in found) else plan


class _Vectors:
    """A statement whose plan has lanes."""

    def __init__(self, program: Program, storage: Storage, s: Statement, plan: Plan) -> None:
        self.program, self.storage, self.s, self.plan = program, storage, s, plan
        self.dtype = program.tensor[s.target].dtype

    def are_possible(self) -> bool:
        """Whether values, sums and stores of vectors are."""
        s, old = self.s, in_place(self.program, self.s, self.storage)
        if self.dtype not in vector.TYPES or (old and accumulates(s, old)):
            return False  # the end of a vector would be added to twice
        if s.reduce and not vector.has(s.reduce.op, [self.dtype] * 2, self.dtype):
            return False
        if self.plan.across:
            assert s.reduce is not None
            return s.reduce.op in ACROSS.get(self.dtype, ()) and self.has(s.value)
        results = [s.value, s.finish] if s.finish else [s.value]
        return all(map(self.has, results)) and self.is_vector(s.target, s.index)

    def has(self, expr: Expr) -> bool:
        """Whether an expression has a value for each lane, or one for all."""
        if self.plan.lanes not in names_in(expr) or expr == self.s.result:
            return True
        match expr:
            case Load(tensor, index, _):
                return self.is_vector(tensor, index)
            case Index(value, dtype):
                return dtype in vector.TYPES and not divides(value, self.plan.lanes)
            case Call(fn, args, dtype):
                return all(map(self.has, args)) and vector.has(fn, [a.dtype for a in args], dtype)
        return False

    def is_vector(self, tensor: str, index: tuple[Affine | Expr, ...]) -> bool:
        """Whether neighbouring lanes are elements one stride apart, of a dtype that is loaded."""
        t, lanes = self.program.tensor[tensor], str(self.plan.lanes)
        step = stride(index, self.storage.shape(t), lanes)
        folded = any(
            w is not None and isinstance(i, Affine) and lanes in i.names()
            for w, i in zip(self.storage.window(t), index, strict=True)
        )
        return t.dtype in vector.MEMORY and step not in (None, poly(0)) and not folded
