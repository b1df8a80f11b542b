# SPDX-License-Identifier: Apache-2.0
"""Program: a region of a TensorFlow graph as a system of affine recurrence equations.

A statement defines elements of one tensor, each from elements of others:

    row_max[b, i]  = max over j of  x[b, i, j]            0 <= b < B, 0 <= i < N, 0 <= j < N
    h[t + 1, b, j] = tanh(xw[t, b, j] + hu[t, b, j])      0 <= t < T, ...

Every element is defined once (single assignment), so the order of execution is not part of the
program: it follows from which element needs which. A loop of the graph is a dimension `t`; what it
carries is a tensor subscripted by t. Storage is not part of it either: folding h[t] to two slots
is the scheduler's business.

Control that depends on data is made of data. A branch is guards: its statements run only where a
bool element holds. An exit is a tensor of bools, `go`, and a parameter X: iteration t of the loop
runs if go[t], and X is the first t for which it does not.

    if p[t]:  y[t, i] = exp(x[t, i])       z[t, i] = select(p[t], y[t, i], x[t, i])
    go[t + 1] = error[t + 1] > 0.1         0 <= t < X        after the loop: h[X]
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from sirius_tf.ir.affine import Affine, symbol
from sirius_tf.ir.expr import Call, Const, DType, Expr, Load, loads, walk
from sirius_tf.ir.expr import Index as IndexExpr

MAX_RANK = 8
"""The greatest rank of an input or output: the interface of generated code has room for no more
(sirius_abi.h)."""

UNLIMITED = 1 << 31
"""The bound of a loop that runs until data ends it."""
UNBOUNDED = -(2**63)  # the minimum of a parameter of which nothing is known

ReduceOp = Literal["add", "mul", "max", "min", "and", "or"]
Role = Literal["input", "constant", "temp", "output"]


@dataclass(frozen=True)
class Param:
    """A symbolic size, known once the region is entered.

    `value` is computed from Dim, Load of a scalar input at a constant index, earlier Params (as
    Index) and integer Calls. `minimum` holds for every run (a check enforces it where TF does not).
    `hint` is its value on the sample inputs: for the cost model only, never for correctness.

    With `exit`, go[t], it is the trip count of loop t, which data decides: the first t for which
    go[t] is false. It is known when the loop is over; `value` is an upper bound.
    """

    name: str
    value: Expr
    minimum: int = 0
    hint: int = 1
    exit: Load | None = None

    @property
    def unlimited(self) -> bool:
        """Whether it is the bound, or the trip count, of a loop that nothing but data ends."""
        return self.value == Const(UNLIMITED, "int64")


@dataclass(frozen=True)
class Check:
    """A condition on entry: a bool Expr like those of Param. Where it is false, the call fails with
    TF's InvalidArgumentError and `message` (which names node and op).

    One that is `narrow` was made true of the sample: TF may accept what does not fulfil it.
    """

    condition: Expr
    message: str
    narrow: bool = False


@dataclass(frozen=True)
class Panels:
    """The layout of a packed constant: along `axis` are its panels, and along the last dimension
    what one of them holds. The last panel is filled up with zeros.

        w'[floor(n / 16), k, n mod 16]       panels along 0
    """

    axis: int


@dataclass(frozen=True)
class Tiles:
    """The layout of a temporary in tiles that overlap: along `axis` are the tiles, of which each
    has all that `size` neighbouring places of its reader need.

        e[floor(h / 4), h mod 4 + r]         tiles of 4 along 0
    """

    axis: int
    size: int


@dataclass(frozen=True)
class Tensor:
    """An array of the program; `shape` holds only parameters and constants.

    `layout` says what dimensions are for that a pass has made; subscripts do not tell panels and
    tiles apart, nor from quotients of the graph.

    Storage of inputs, outputs and constants is dense, row-major. A dimension of TF that is a
    product of sizes (B*S after Reshape) is several dimensions here, which is the same storage.
    """

    name: str
    shape: tuple[Affine, ...]
    dtype: DType
    role: Role = "temp"
    value: npt.NDArray[np.generic] | None = field(default=None, compare=False, repr=False)
    layout: Panels | Tiles | None = None


@dataclass(frozen=True)
class Iter:
    """0 <= name < extent; `extent` holds only parameters and constants.

    `loop` marks the iterator of a loop of the graph (While). All statements of one loop share its
    name and extent, it comes first (outer loops before inner ones), and it is run in order.

    With `shift`, which the scheduler sets, several loops have become one under that name: iteration
    `name` runs in its step name + shift (schedule/wavefront.py).
    """

    name: str
    extent: Affine
    loop: bool = False
    shift: int | None = None


@dataclass(frozen=True)
class Reduce:
    """Reduction over the box `iters`, from the identity of `op`; order of combination is free."""

    op: ReduceOp
    iters: tuple[Iter, ...]


@dataclass(frozen=True)
class Guard:
    """Whether `condition`, a bool element, has the value `holds`."""

    condition: Load
    holds: bool = True


@dataclass(frozen=True)
class Statement:
    """`target[index] = value`, or `= reduce over reduce.iters of value`, at every point of `iters`.

    `index` uses `iters` and parameters only and is injective. `origin` names the TF nodes. Where
    one of `guards` (outer ones first) does not hold, the element has no value that may matter.

    With `finish`, that is the element, and what was reduced is a value on the way: there, a Load
    of the element itself stands for it.

        y[b, n] = max(y[b, n] + bias[n], 0), y[b, n] = sum over k of x[b, k] * w[k, n]
    """

    name: str
    iters: tuple[Iter, ...]
    target: str
    index: tuple[Affine, ...]
    value: Expr
    reduce: Reduce | None = None
    origin: tuple[str, ...] = ()
    guards: tuple[Guard, ...] = ()
    finish: Expr | None = None

    @property
    def result(self) -> Load:
        """The Load that stands for the result of the reduction in `finish`."""
        return Load(self.target, self.index, self.value.dtype)

    @property
    def finish_loads(self) -> tuple[Load, ...]:
        """Every Load that differs of `finish`, but for the reduction's result."""
        found = loads(self.finish) if self.finish else ()
        return tuple(load for load in dict.fromkeys(found) if load != self.result)

    @cached_property
    def demands(self) -> bool:
        """Whether it makes the call fail where its condition does not hold."""
        return any(isinstance(e, Call) and e.fn == "demand" for e in walk(self.value))

    @property
    def all_iters(self) -> tuple[Iter, ...]:
        """Iterators of the domain, then those of the reduction."""
        return self.iters + (self.reduce.iters if self.reduce else ())

    @property
    def loads(self) -> tuple[Load, ...]:
        """Every Load that differs: of the value, of `finish`, and of the guards."""
        conditions = (g.condition for g in self.guards)
        return tuple(dict.fromkeys((*loads(self.value), *self.finish_loads, *conditions)))

    @property
    def accesses(self) -> tuple[tuple[str, tuple[Affine | Expr, ...]], ...]:
        """Tensor and subscripts of what is defined, and of every Load."""
        return ((self.target, self.index), *((load.tensor, load.index) for load in self.loads))


@dataclass(frozen=True)
class Output:
    """Output of the region: its tensor, and its TF shape, one int64 Expr of Params per axis."""

    tensor: str
    shape: tuple[Expr, ...]


@dataclass(frozen=True)
class Program:
    """`context` lists affine expressions of parameters that are >= 0 whenever the checks hold.

    What must hold of data is said by Call("demand", (condition, number)), the value of a statement
    that is run for its own sake. Where the condition is false, the call fails with
    `messages[number]`. The statement's element is the condition, for whom it may concern.
    """

    name: str
    params: tuple[Param, ...]
    checks: tuple[Check, ...]
    context: tuple[Affine, ...]
    tensors: tuple[Tensor, ...]
    statements: tuple[Statement, ...]
    inputs: tuple[str, ...]
    outputs: tuple[Output, ...]
    messages: tuple[str, ...] = ()

    @cached_property
    def tensor(self) -> dict[str, Tensor]:
        """Tensors by name."""
        return {t.name: t for t in self.tensors}

    @cached_property
    def hints(self) -> dict[str, int]:
        """Parameter values on the sample inputs."""
        return {p.name: p.hint for p in self.params}

    @cached_property
    def exits(self) -> dict[str, Load]:
        """For each trip count that data decides, by name, go[t]."""
        return {p.name: p.exit for p in self.params if p.exit}

    @cached_property
    def conditions(self) -> frozenset[str]:
        """The tensors that decide what runs."""
        guards = {g.condition.tensor for s in self.statements for g in s.guards}
        return frozenset(guards | {go.tensor for go in self.exits.values()})

    @cached_property
    def guarded(self) -> frozenset[str]:
        """The tensors that are defined under guards alone: their extents may be negative where
        these do not hold."""
        targets = {s.target for s in self.statements if s.guards}
        return frozenset(targets - {s.target for s in self.statements if not s.guards})

    def needs(self, s: Statement) -> tuple[Load, ...]:
        """All that an instance waits for: what it loads, and what decides that it runs.

        In iteration t of a loop with an exit that is go[t]; elsewhere, where the trip count X
        occurs, it is go[X], the last one.
        """
        control = list[Load]()
        for trips, go in self.exits.items():
            t = str(go.index[0])
            if any(i.name == t for i in s.iters):
                control.append(go)
            if trips in _names(s, t):
                control.append(replace(go, index=(symbol(trips),)))
        return tuple(dict.fromkeys((*s.loads, *control)))


def _names(s: Statement, own: str) -> set[str]:
    """The iterators and parameters that occur, but for the extent of iterator `own`."""
    places = [*s.index, *(i.extent for i in s.all_iters if i.name != own)]
    for node in (node for root in (s.value, *s.loads) for node in walk(root)):
        match node:
            case IndexExpr(value, _):
                places.append(value)
            case Load(_, index, _):
                places += [i for i in index if isinstance(i, Affine)]
            case _:
                pass
    return {name for place in places for name in place.names()}
