# SPDX-License-Identifier: Apache-2.0
"""An operand of a contraction in shared memory: its layout, and how wide copies of it may be.

What is contiguous in memory is copied by cp.async, 16 bytes at a time where all of these are
aligned, whatever the arguments are, and may be read. What must be computed, threads store.

    w[k, j] of [768, 768], along j from multiples of 16:    4 floats, as 768 is a multiple of 4
    w[k, j + 1], or a width of 770, or an input's slice:    1 float
"""

from __future__ import annotations

from dataclasses import dataclass

from sirius_tf.ir.affine import Affine, FloorDiv
from sirius_tf.ir.dtypes import HALF
from sirius_tf.ir.expr import Call, Expr, Load, loads
from sirius_tf.ir.polynomial import poly
from sirius_tf.ir.program import Iter, Statement
from sirius_tf.nest.nodes import Range
from sirius_tf.nest.scheduled import Scheduled
from sirius_tf.schedule.plan import stride

_WIDEST = 16  # bytes of a cp.async
_LEAST = 4


@dataclass(frozen=True)
class Operand:
    """A factor in shared memory: `count` values of `along` times `terms` of the iterator `depth`.

    `value`: what is stored, of float32 or 16 bits. A row is all terms for one value (`by_depth`),
    or all values for one term. `vector`: elements that one cp.async copies; 0 if threads store
    them. `pitch`: elements between rows. `first`: the word of shared memory where two such chunks
    begin.
    """

    value: Expr
    along: Range
    depth: Iter
    count: int
    terms: int
    by_depth: bool
    vector: int
    pitch: int
    first: int

    @property
    def name(self) -> str:
        """The array."""
        return f"of_{self.along.name}"

    @property
    def per_word(self) -> int:
        """Elements of 32 bits."""
        return 2 if self.value.dtype in HALF else 1

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and elements of a row."""
        return (self.count, self.terms) if self.by_depth else (self.terms, self.count)

    @property
    def matrices(self) -> bool:
        """Whether ldmatrix loads what mma.sync wants; it transposes elements of 16 bits only."""
        return self.by_depth or self.per_word == 2

    @property
    def size(self) -> int:
        """Elements of a chunk."""
        return self.shape[0] * self.pitch

    @property
    def words(self) -> int:
        """The words of shared memory that two chunks take."""
        return 2 * self.size // self.per_word


def place(
    kernel: Scheduled,
    s: Statement,
    value: Expr,
    along: Range,
    depth: Iter,
    count: int,
    terms: int,
    first: int,
    scalar: bool = False,
) -> Operand:
    """The operand with rows in the order of memory, copied as wide as possible.

    `scalar`: neighbouring threads read a term of neighbouring values, not matrices.
    """
    found = next(loads(value))
    shape = kernel.storage.shape(kernel.program.tensor[found.tensor])
    steps = [stride(found.index, shape, name) for name in (depth.name, along.name)]
    by_depth = steps[0] == poly(1) or steps[1] != poly(1)
    vector = _vector(kernel, s, value, along, depth, by_depth) if isinstance(value, Load) else 0
    bytes_ = 2 if value.dtype in HALF else 4
    if scalar and by_depth:  # rows lie in different banks, and so hardly aligned
        return Operand(value, along, depth, count, terms, True, min(vector, 1), terms + 1, first)
    pitch = pitch_of(terms if by_depth else count, bytes_, by_depth)
    return Operand(value, along, depth, count, terms, by_depth, vector, pitch, first)


def pitch_of(row: int, bytes_: int, by_depth: bool) -> int:
    """Elements between rows of which fragments are read, so that no two lanes want the same bank.

    ldmatrix reads 16 bytes of each of 8 rows, an odd number of these apart; where it does not
    transpose, lane 4 i + j reads float i of row j.
    """
    vector = _WIDEST // bytes_
    if by_depth or bytes_ == 2:
        return row + (vector if row // vector % 2 == 0 else 0)
    return row + (8 - row) % 32


# How wide a copy may be


def _vector(
    kernel: Scheduled, s: Statement, load: Load, along: Range, depth: Iter, by_depth: bool
) -> int:
    """Elements that one cp.async may copy; 0 if it takes more than there may be."""
    if not all(isinstance(i, Affine) for i in load.index):
        return 0
    bytes_ = 2 if load.dtype in HALF else 4
    for count in (_WIDEST // bytes_, _LEAST // bytes_):
        whole = (
            _whole_depth(depth, count) if by_depth else _whole_range(kernel, s, load, along, count)
        )
        name = depth.name if by_depth else along.name
        if count == 1 or (whole and _aligned(kernel, load, name, count)):
            return count
    return 0


def _whole_depth(depth: Iter, count: int) -> bool:
    """Whether `count` terms, from a multiple of it on, are all terms or none."""
    return depth.extent.is_const and depth.extent.const % count == 0


def _whole_range(kernel: Scheduled, s: Statement, load: Load, along: Range, count: int) -> bool:
    """Whether the box begins at a multiple of `count`, and as many values may be read from any on.

    What lies beyond the box may be another block's, which is writing there, but for constants.
    """
    extent = next(i.extent for i in s.iters if i.name == along.name)
    end = along.size
    if kernel.program.tensor[load.tensor].role == "constant" and extent.is_const:
        end = extent.const
    begins = along.aligned if along.low is None else along.low % count == 0
    return begins and end is not None and end % count == 0


def _aligned(kernel: Scheduled, load: Load, name: str, count: int) -> bool:
    """Whether steps of an iterator are elements, and of all else multiples of `count`.

    Inputs are the caller's. Of what a tile keeps, element 0 would lie a multiple of that before it.
    """
    t = kernel.program.tensor[load.tensor]
    if t.role not in ("constant", "temp"):
        return False
    size, contiguous, storage = 1, True, kernel.storage
    kept = zip(storage.window(t), storage.tile(t), strict=True)
    dims = list(zip(load.index, storage.shape(t), kept, strict=True))
    for i, extent, (window, tile) in reversed(dims):
        assert isinstance(i, Affine)
        if (window or tile or 0) * size % count:
            return False
        steps = [i.const]
        for key, step in i.terms:
            names = set(key.numerator.names()) if isinstance(key, FloorDiv) else {key}
            if name not in names:
                steps.append(step)
            elif key != name or step * size != 1 or not contiguous or window is not None:
                return False
        if any(step * size % count for step in steps):
            return False
        size *= extent.const if extent.is_const else 1
        contiguous = contiguous and extent.is_const
    return True


def stored(factor: Expr, dtype: str) -> Expr:
    """The expression that is stored in shared memory for a factor, in float32, if elements there
    are of `dtype`."""
    match factor:
        case Call("cast", (Load(_, _, stored_dtype) as load,), "float32") if stored_dtype == dtype:
            return load
    return factor if dtype == "float32" else Call("cast", (factor,), dtype)
