# SPDX-License-Identifier: Apache-2.0
"""Observers of passes (see pipeline.py): texts, times, and whether programs are still sound."""

from __future__ import annotations

from collections.abc import Callable

from sirius_tf.errors import VerifyError
from sirius_tf.ir import printer
from sirius_tf.ir.program import Program
from sirius_tf.ir.verify import verify
from sirius_tf.pipeline import Observer, Step
from sirius_tf.poly.dependence import check_defined, check_single_assignment
from sirius_tf.poly.scop import extract

Dump = Callable[[str, str], None]  # name of a stage, and its text


def dump(show: Dump) -> Observer:
    """Show each program that a pass changed, below the statements that it removed and added."""

    def observe(step: Step) -> None:
        if step.changed:
            show(step.name, f"{changes(step)}\n{printer.show(step.after)}")

    return observe


def changes(step: Step) -> str:
    """The statements that a pass removed and added, as comments."""
    old, new = _statements(step.before), _statements(step.after)
    removed = [f"# - {text}" for text in old if text not in new]
    added = [f"# + {text}" for text in new if text not in old]
    title = f"# {step.name}: {len(old)} statements before, {len(new)} now"
    return "\n".join((title, *removed, *added))


def _statements(program: Program) -> dict[str, None]:
    return dict.fromkeys(map(printer.show_statement, program.statements))


def check(step: Step) -> None:
    """VerifyError if what a pass made is no sound program: one that verifies, and defines each
    element once, and all that are read."""
    if not step.changed:
        return
    try:
        verify(step.after)
        scop = extract(step.after)
        check_single_assignment(scop)
        check_defined(scop)
    except VerifyError as error:
        raise VerifyError(f"behind the pass {step.name}: {error}") from error


def times(rows: list[tuple[str, float, int]]) -> Observer:
    """Note the name of each pass, the seconds it took, and how many statements there are then."""
    return lambda step: rows.append((step.name, step.seconds, len(step.after.statements)))
