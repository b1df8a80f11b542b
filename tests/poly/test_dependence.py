# SPDX-License-Identifier: Apache-2.0
"""Flow dependences, and what is read and never defined."""

import islpy as isl
import pytest

from sirius_tf.errors import VerifyError
from sirius_tf.ir.affine import affine
from sirius_tf.ir.program import Iter, Program
from sirius_tf.ir.scc import components
from sirius_tf.poly.dependence import check_defined, check_single_assignment, flow
from sirius_tf.poly.scop import extract
from tests.support.programs import B, b, j, recurrence, t


def test_loop_distribution_hoists_what_the_recurrence_does_not_feed() -> None:
    program = recurrence()
    edges = [(f.source, f.sink) for f in flow(extract(program))]
    found = components([s.name for s in program.statements], edges)
    assert found == (("init",), ("xw",), ("hu", "cell"), ("last",))


def test_flow_of_a_loop_carried_tensor() -> None:
    scop = extract(recurrence())
    carried = [f for f in flow(scop) if (f.source, f.sink) == ("cell", "hu")]
    assert len(carried) == 1
    distance_one = isl.Map(
        "[T, B, H] -> { cell[t, b, j] -> hu[t + 1, b, j'] : 0 <= t < T - 1 and 0 <= b < B and "
        "0 <= j < H and 0 <= j' < H }"
    )
    assert carried[0].relation == distance_one


def test_the_program_is_single_assignment_and_defined() -> None:
    scop = extract(recurrence())
    check_single_assignment(scop)
    check_defined(scop)


def replaced(name: str, **changes: object) -> Program:
    from dataclasses import replace

    program = recurrence()
    statements = tuple(
        replace(s, **changes) if s.name == name else s  # type: ignore[arg-type]
        for s in program.statements
    )
    return replace(program, statements=statements)


def test_two_definitions_of_an_element_are_found() -> None:
    scop = extract(replaced("cell", index=(t, b, j)))
    with pytest.raises(VerifyError, match=r"init and cell define the same element, e\.g\."):
        check_single_assignment(scop)
    scop = extract(replaced("cell", index=(affine(1), b, j)))
    with pytest.raises(VerifyError, match="cell defines an element twice"):
        check_single_assignment(scop)


def test_a_read_of_an_undefined_element_is_found() -> None:
    scop = extract(replaced("init", index=(affine(0), b, affine(0)), iters=(Iter("b", B),)))
    with pytest.raises(VerifyError, match=r"hu reads what nothing defines, e\.g\..*h\["):
        check_defined(scop)
