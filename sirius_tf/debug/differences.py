# SPDX-License-Identifier: Apache-2.0
"""The first place where the values of two runs differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sirius_tf.ir.functions import Array
from sirius_tf.ir.interp import Trace
from sirius_tf.ir.printer import show_statement
from sirius_tf.ir.program import Statement


@dataclass(frozen=True)
class Finding:
    """The place where a program goes wrong: behind the pass, or in the code, that `stage` names.

    `statement` is the text of the first statement that is wrong, `tensor` is what it defines; both
    are "" if that is not known.
    """

    stage: str
    problem: str
    tensor: str = ""
    statement: str = ""

    def __str__(self) -> str:
        text = f"{self.stage}: {self.problem}"
        return f"{text}\n  {self.statement}" if self.statement else text


@dataclass(frozen=True)
class Element:
    """An element with a wrong value, and what defined it."""

    tensor: str
    index: tuple[int, ...]
    got: object
    want: object
    statement: Statement

    def found(self, stage: str) -> Finding:
        """The finding that this element is the first wrong one of a stage."""
        place = ", ".join(map(str, self.index))
        problem = f"{self.tensor}[{place}] is {unlike(self.got, self.want)}"
        return Finding(stage, problem, self.tensor, show_statement(self.statement))


def unlike(got: object, want: object) -> str:
    """Two values as text, numbers with six digits if these tell them apart."""
    if isinstance(got, np.floating):
        short = f"{got:.6g}", f"{want:.6g}"
        if short[0] != short[1]:
            return f"{short[0]}, not {short[1]}"
    return f"{got}, not {want}"


def wrong(got: Array, want: Array, tolerance: float) -> Array:
    """A mask of the elements in which two arrays differ: integers and bools at all, numbers by more
    than the tolerance times the largest number wanted."""
    if want.dtype.kind not in "fcV":
        return np.asarray(got != want)
    got, want = (np.asarray(x, np.float64) for x in (got, want))
    finite = np.isfinite(want)
    scale = np.abs(want[finite]).max(initial=0.0)
    with np.errstate(invalid="ignore"):
        apart = ~(np.abs(got - want) <= tolerance * scale)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    return np.asarray(np.where(finite, apart, ~same))


def first_wrong(
    run: Trace, got: Mapping[str, Array], want: Mapping[str, Array], tolerance: float
) -> Element | None:
    """The element that differs and was defined first in a run, among those in both mappings.

    A tensor that has the same values in another order is stored in another order, and not wrong.
    """
    first: tuple[int, str, tuple[int, ...]] | None = None
    for name, made in run.made.items():
        if name not in got or name not in want or not _comparable(got[name], want[name]):
            continue
        differ = wrong(got[name], want[name], tolerance) & (made >= 0)
        if not differ.any() or _reordered(got[name], want[name]):
            continue
        time = int(made[differ].min())
        if first is None or time < first[0]:
            index = np.argwhere(differ & (made == time))[0]
            first = time, name, tuple(int(i) for i in index)
    if first is None:
        return None
    time, name, index = first
    return Element(name, index, got[name][index], want[name][index], run.log[time])


def _comparable(got: Array, want: Array) -> bool:
    return got.shape == want.shape and got.dtype == want.dtype


def _reordered(got: Array, want: Array) -> bool:
    """Whether an array has the values of another one, but not all in their places."""
    if got.ndim < 2:
        return False
    return np.array_equal(np.sort(got, None), np.sort(want, None), equal_nan=True)
