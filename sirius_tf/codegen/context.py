# SPDX-License-Identifier: Apache-2.0
"""The context that the blocks of a leaf share: its box, an instruction set, and its arguments
in C."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from sirius_tf.codegen import scalar
from sirius_tf.codegen.scalar import Language
from sirius_tf.ir.affine import Affine, FloorDiv, symbol
from sirius_tf.ir.expr import Expr, Load, loads
from sirius_tf.ir.program import Panels, Program, Statement
from sirius_tf.nest.nodes import Range
from sirius_tf.schedule.cpu_costs import MOST_UNROLLED, SMALL_BLOCK
from sirius_tf.schedule.plan import PANEL, Plan
from sirius_tf.schedule.storage import Storage

PARTIAL_SUMS = 32  # of a sum along lanes, on every CPU and in every block: they decide its rounding


@dataclass(frozen=True)
class Isa:
    """Registers of an instruction set: lanes of float32, and vectors beside each other by rows."""

    lanes: int
    rows: int
    vectors: Mapping[int, int]

    def beside(self, rows: int, panels: bool) -> int:
        """Vectors side by side for a number of rows; they share panels if there are some.

        One row reads a panel once, as fast as it comes: of two at a time, since more streams than
        that come slower.
        """
        most = self.vectors[max(r for r in self.vectors if r <= rows)]
        if panels and rows == 1:
            most = max(2 * self.per_panel, SMALL_BLOCK)
        return most // self.per_panel * self.per_panel if panels else most

    @property
    def per_panel(self) -> int:
        """Vectors that a panel holds."""
        return PANEL // self.lanes

    @property
    def chains(self) -> int:
        """Vectors of the partial sums of a sum along lanes."""
        return PARTIAL_SUMS // self.lanes

    @property
    def rows_across(self) -> int:
        """The most rows of a block of such sums, which have as many registers as others."""
        return min(self.rows, self.rows * self.vectors[self.rows] // self.chains)


def divides(index: Affine | Expr, lanes: str | None) -> bool:
    """Whether an index divides the lanes' iterator: vectors must not cross multiples then."""
    terms = index.terms if isinstance(index, Affine) else ()
    return any(lanes in set(k.numerator.names()) for k, _ in terms if isinstance(k, FloorDiv))


@dataclass
class Context:
    """Shared by the blocks of one function: the leaf, and the arguments that they have asked
    for."""

    program: Program
    s: Statement
    plan: Plan
    isa: Isa
    storage: Storage
    box: Mapping[str, Range]
    language: Language = scalar.C
    tensors: dict[str, str] = field(default_factory=dict)  # name of the parameter, by tensor
    integers: dict[str, str] = field(default_factory=dict)  # likewise, by parameter of the program
    panels_outside: bool = False  # whether all rows use one panel before the next
    written: int = 0  # variables so far

    @property
    def unrolled(self) -> bool:
        """Whether all loops of the reduction are."""
        extents = [i.extent for i in self.s.reduce.iters] if self.s.reduce else []
        return all(e.is_const for e in extents) and prod(e.const for e in extents) <= MOST_UNROLLED

    @property
    def has_panels(self) -> bool:
        """Whether the leaf reads a constant that is packed in panels of lanes."""
        return any(self.panels_of(load) for load in loads(self.s.value))

    def panels_of(self, load: Load) -> Panels | None:
        """The layout of what is loaded, if it is one of panels of lanes."""
        layout = self.program.tensor[load.tensor].layout
        if isinstance(layout, Panels) and divides(load.index[layout.axis], self.plan.lanes):
            return layout
        return None

    @property
    def divides_lanes(self) -> bool:
        """Whether the leaf loads at places that divide the lanes' iterator."""
        indices = (i for load in loads(self.s.value) for i in load.index)
        return any(divides(i, self.plan.lanes) for i in indices)

    def is_written(self, tensor: str) -> bool:
        """Whether the leaf stores to a tensor: its target, and the words of that."""
        words = self.storage.words.get(self.s.target)
        return tensor == self.s.target or (words is not None and tensor == words.name)

    def integer(self, value: Affine) -> str:
        """C of an affine expression; parameters become arguments with canonical names."""
        names = {p.name for p in self.program.params}
        renamed = {
            n: symbol(self.integers.setdefault(n, f"n{len(self.integers)}"))
            for n in sorted(set(value.names()))
            if n in names
        }
        return scalar.index(value.substitute(renamed))

    def new_name(self, letter: str) -> str:
        """A C variable that is not used yet."""
        self.written += 1
        return f"{letter}{self.written}"
