# SPDX-License-Identifier: Apache-2.0
"""Program: a region of a TensorFlow graph as a system of affine recurrence equations.

A statement defines elements of one tensor, each from elements of others:

    row_max[b, i]  = max over j of  x[b, i, j]            0 <= b < B, 0 <= i < N, 0 <= j < N
    h[t + 1, b, j] = tanh(xw[t, b, j] + hu[t, b, j])      0 <= t < T, ...

Every element is defined once (single assignment), so the order of execution is not part of the
program: it follows from which element needs which. A loop of the graph is a dimension `t`; what it
carries is a tensor subscripted by t. Storage is not part of it either: folding h[t] to two slots
is the scheduler's business.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from sirius_tf.ir.affine import Affine
from sirius_tf.ir.expr import DType, Expr

ReduceOp = Literal["add", "mul", "max", "min", "and", "or"]
Role = Literal["input", "constant", "temp", "output"]


@dataclass(frozen=True)
class Param:
    """A symbolic size, known once the region is entered.

    `value` is computed from Dim, Load of a scalar input at a constant index, earlier Params (as
    Index) and integer Calls. `minimum` holds for every run (a check enforces it where TF does not).
    `hint` is its value on the sample inputs: for the cost model only, never for correctness.
    """

    name: str
    value: Expr
    minimum: int = 0
    hint: int = 1


@dataclass(frozen=True)
class Check:
    """What must hold on entry; `condition` is a bool Expr like those of Param. When it does not,
    the call fails with TF's InvalidArgumentError and `message` (which names node and op)."""

    condition: Expr
    message: str


@dataclass(frozen=True)
class Tensor:
    """An array of the program; `shape` holds only parameters and constants.

    Storage of inputs, outputs and constants is dense, row-major. A dimension of TF that is a
    product of sizes (B*S after Reshape) is several dimensions here, which is the same storage.
    """

    name: str
    shape: tuple[Affine, ...]
    dtype: DType
    role: Role = "temp"
    value: npt.NDArray[np.generic] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Iter:
    """0 <= name < extent; `extent` holds only parameters and constants.

    `loop` marks the iterator of a loop of the graph (While). All statements of one loop share its
    name and extent, it comes first (outer loops before inner ones), and it is run in order.
    """

    name: str
    extent: Affine
    loop: bool = False


@dataclass(frozen=True)
class Reduce:
    """Reduction over the box `iters`, from the identity of `op`; order of combination is free."""

    op: ReduceOp
    iters: tuple[Iter, ...]


@dataclass(frozen=True)
class Statement:
    """`target[index] = value`, or `= reduce over reduce.iters of value`, at every point of `iters`.

    `index` uses `iters` and parameters only and is injective. `origin` names the TF nodes.
    """

    name: str
    iters: tuple[Iter, ...]
    target: str
    index: tuple[Affine, ...]
    value: Expr
    reduce: Reduce | None = None
    origin: tuple[str, ...] = ()

    @property
    def all_iters(self) -> tuple[Iter, ...]:
        """Iterators of the domain, then those of the reduction."""
        return self.iters + (self.reduce.iters if self.reduce else ())


@dataclass(frozen=True)
class Output:
    """Output of the region: its tensor, and its TF shape, one int64 Expr of Params per axis."""

    tensor: str
    shape: tuple[Expr, ...]


@dataclass(frozen=True)
class Program:
    """`context` lists affine expressions of parameters that are >= 0 whenever the checks hold."""

    name: str
    params: tuple[Param, ...]
    checks: tuple[Check, ...]
    context: tuple[Affine, ...]
    tensors: tuple[Tensor, ...]
    statements: tuple[Statement, ...]
    inputs: tuple[str, ...]
    outputs: tuple[Output, ...]

    @cached_property
    def tensor(self) -> dict[str, Tensor]:
        """Tensors by name."""
        return {t.name: t for t in self.tensors}

    @cached_property
    def hints(self) -> dict[str, int]:
        """Parameter values on the sample inputs."""
        return {p.name: p.hint for p in self.params}
