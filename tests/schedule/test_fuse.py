# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest

from sirius_tf.errors import VerifyError
from sirius_tf.ir.affine import symbol
from sirius_tf.ir.program import Program
from sirius_tf.poly.dependence import flow
from sirius_tf.poly.scop import extract
from sirius_tf.schedule.fuse import fuse
from sirius_tf.schedule.machine import cpu
from sirius_tf.schedule.schedule import show_tree
from sirius_tf.schedule.tree import build
from sirius_tf.schedule.verify import check_order, check_reflow
from tests.support.programs import load, recurrence, softmax_of

pytestmark = pytest.mark.ir

M, N = symbol("M"), symbol("N")
i, j, k = symbol("i"), symbol("j"), symbol("k")


def fused(program: Program, threads: int = 2) -> str:
    """The tree as text, after isl has agreed to it."""
    scop = extract(program)
    flows = flow(scop)
    tree = fuse(program, flows, cpu(threads))
    schedule = build(scop, tree)
    check_order(scop, schedule, flows)
    check_reflow(scop, schedule, {})
    return show_tree(tree)


def test_softmax_is_one_phase_over_rows() -> None:
    assert fused(softmax_of()) == (
        "in sequence\n"
        "  top, raised, total, share\n"
        "    # phase\n"
        "    parallel top: i, raised: i, total: i, share: i by 8\n"
        "      # tile\n"
        "      in sequence\n"
        "        top\n"
        "          parallel top: i\n"
        "        raised\n"
        "          parallel raised: i\n"
        "          parallel raised: j\n"
        "        total\n"
        "          parallel total: i\n"
        "        share\n"
        "          parallel share: i\n"
        "          parallel share: j\n"
    )


def test_fusion_does_not_take_work_from_the_workers() -> None:
    """One long row: `raised` has independent elements for all, under `top`'s loop it has one."""
    assert fused(softmax_of(rows=1, columns=10_000)).count("# phase") == 4
    assert fused(softmax_of(rows=1, columns=10_000), threads=1).count("# phase") == 1
    assert fused(softmax_of(rows=1)).count("# phase") == 1  # less work than a barrier


def test_work_counts_the_reduction() -> None:
    assert fused(softmax_of(rows=2, columns=10_000), threads=2).count("# phase") == 1
    assert fused(softmax_of(rows=2, columns=10_000), threads=4).count("# phase") == 4


def test_recurrence_is_a_loop_and_its_input_product_is_not_in_it() -> None:
    text = fused(recurrence())
    assert text.count("  loop hu: t, cell: t\n") == 1
    before, _, inside = text.partition("loop hu: t")
    assert "xw: t" in before and "xw:" not in inside.partition("last")[0]
    assert "hu after h of cell, an iteration before" in inside


def test_statements_that_need_each_other_must_share_a_loop() -> None:
    program = recurrence()
    plain = tuple(
        replace(s, iters=tuple(replace(it, loop=False) for it in s.iters))
        for s in program.statements
    )
    program = replace(program, statements=plain)
    with pytest.raises(VerifyError, match="hu, cell need each other and share no loop"):
        fuse(program, flow(extract(program)), cpu(2))


def test_a_transposed_reader_shares_no_wrong_loop() -> None:
    program = softmax_of()
    share = replace(program.statements[3], value=load("e", j, i))
    square = tuple(replace(t, shape=(M, M)) if t.name in "exy" else t for t in program.tensors)
    statements = tuple(
        replace(s, iters=tuple(replace(it, extent=M) for it in s.iters))
        for s in (program.statements[1], share)
    )
    raised = replace(statements[0], value=load("x", i, j))
    program = replace(program, tensors=square, statements=(raised, statements[1]))
    text = fused(program)
    assert "raised: i, share: j" in text and "raised: j, share: i" in text
