# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest

from sirius_tf.errors import VerifyError
from sirius_tf.ir.affine import symbol
from sirius_tf.ir.program import Program
from sirius_tf.poly.dependence import flow
from sirius_tf.poly.scop import extract
from sirius_tf.schedule.fuse import fuse
from sirius_tf.schedule.machine import Machine
from sirius_tf.schedule.storage import Window, storage_maps, windows
from sirius_tf.schedule.tree import build
from sirius_tf.schedule.verify import check_order, check_reflow
from tests.test_fuse import load, softmax
from tests.test_schedule import recurrence


def folded(program: Program) -> dict[str, Window]:
    """Windows of the fused program, after isl has agreed to order and storage."""
    scop = extract(program)
    flows = flow(scop)
    tree = fuse(program, flows, Machine(2))
    schedule = build(scop, tree)
    check_order(scop, schedule, flows)
    found = windows(program, scop, tree)
    check_reflow(scop, schedule, storage_maps(scop, found))
    for name, window in found.items():
        for axis, slots in enumerate(window):
            if slots and slots > 1:
                less = tuple(slots - 1 if k == axis else w for k, w in enumerate(window))
                with pytest.raises(VerifyError, match=f"a cell of {name}"):
                    check_reflow(scop, schedule, storage_maps(scop, {name: less}))
    return found


def test_the_state_of_a_recurrence_folds_to_two_slots() -> None:
    """Other workers may still read h[t] while h[t + 1] is written; q is used where it is made."""
    program = recurrence()
    big = replace(program, params=tuple(replace(p, hint=100) for p in program.params))
    assert folded(big) == {"h": (2, None, None), "q": (1, None, None)}


def test_a_state_kept_for_the_caller_is_not_folded() -> None:
    """Every h[t] is read after the loop: all slots are alive then."""
    program = recurrence()
    last = program.statements[-1]
    cell = program.statements[-2]
    t = symbol("t")
    every = replace(last, iters=cell.iters, index=(t, *last.index), value=load("h", t, *last.index))
    shape = program.tensor["h"].shape
    tensors = tuple(replace(x, shape=shape) if x.name == "y" else x for x in program.tensors)
    program = replace(program, tensors=tensors, statements=(*program.statements[:-1], every))
    assert "h" not in folded(program)


def test_what_lives_inside_one_phase_is_not_folded_across_workers() -> None:
    assert folded(softmax()) == {}
