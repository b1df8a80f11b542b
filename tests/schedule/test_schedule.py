# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import islpy as isl
import pytest

from sirius_tf.errors import VerifyError
from sirius_tf.ir.affine import Affine
from sirius_tf.poly.dependence import flow
from sirius_tf.poly.scop import extract
from sirius_tf.schedule.fuse import fuse
from sirius_tf.schedule.machine import cpu
from sirius_tf.schedule.schedule import show_tree
from sirius_tf.schedule.tree import Band, Filter, Phase, Sequence, Tile, build
from sirius_tf.schedule.verify import check_order, check_phases, check_reflow
from tests.support.programs import b, j, lstm, recurrence, softmax, t

pytestmark = pytest.mark.ir


def loop(names: tuple[str, ...], *children: Filter) -> Filter:
    body = Sequence(children)
    return Filter(names, Band((dict.fromkeys(names, t),), body))


def points(name: str, *dims: Affine, parallel: bool = True) -> Filter:
    return Filter((name,), Band(tuple({name: d} for d in dims), coincident=(parallel,) * len(dims)))


def good_tree(order: tuple[str, str] = ("hu", "cell")) -> Sequence:
    return Sequence(
        (
            points("init", b, j),
            points("xw", t, b, j),
            loop(("hu", "cell"), *(points(n, b, j) for n in order)),
            points("last", b, j),
        )
    )


def test_a_legal_tree_passes() -> None:
    scop = extract(recurrence())
    check_order(scop, build(scop, good_tree()), flow(scop))


def test_swapped_statements_are_named() -> None:
    scop = extract(recurrence())
    schedule = build(scop, good_tree(("cell", "hu")))
    with pytest.raises(VerifyError, match=r"sequence runs the sink first.*hu\[.*-> cell\["):
        check_order(scop, schedule, flow(scop))


def test_a_loop_backward_in_time_is_named() -> None:
    scop = extract(recurrence())
    body = Sequence((points("hu", b, j), points("cell", b, j)))
    back = Filter(("hu", "cell"), Band(({"hu": -t, "cell": -t},), body))
    parts = good_tree().children
    schedule = build(scop, Sequence((parts[0], parts[1], back, parts[3])))
    with pytest.raises(VerifyError, match=r"band runs the sink first.*cell\[.*-> hu\["):
        check_order(scop, schedule, flow(scop))


def test_a_parallel_loop_over_time_is_named() -> None:
    scop = extract(recurrence())
    body = Sequence((points("hu", b, j), points("cell", b, j)))
    wrong = Filter(("hu", "cell"), Band(({"hu": t, "cell": t},), body, coincident=(True,)))
    parts = good_tree().children
    schedule = build(scop, Sequence((parts[0], parts[1], wrong, parts[3])))
    with pytest.raises(VerifyError, match=r"parallel member 0.*carries a dependence"):
        check_order(scop, schedule, flow(scop))


def test_a_forgotten_statement_is_found() -> None:
    scop = extract(recurrence())
    schedule = build(scop, Sequence(good_tree().children[:3]))
    with pytest.raises(VerifyError, match=r"never runs an instance, e.g. .*last\["):
        check_order(scop, schedule, flow(scop))


def test_an_instance_too_many_is_found() -> None:
    scop = extract(recurrence())
    fewer = {**scop.domains, "init": scop.domains["init"].subtract(isl.Set("{ init[0, 0] }"))}
    schedule = build(scop, good_tree())
    with pytest.raises(
        VerifyError, match=r"runs what the program lacks, e.g. .* init\[b, j\] .* j = 0"
    ):
        check_order(replace(scop, domains=fewer), schedule, flow(scop))


def folded(tensor: str, text: str) -> dict[str, isl.Map]:
    return {tensor: isl.Map(f"{{ {tensor}[t, b, j] -> {text} }}")}


def test_state_folds_to_two_slots_where_one_is_too_few() -> None:
    scop = extract(recurrence())
    schedule = build(scop, good_tree())
    check_reflow(scop, schedule, {})
    check_reflow(scop, schedule, folded("h", "h[t mod 2, b, j]") | folded("q", "q[b, j]"))
    # the product of a step is complete before the cell overwrites h: one slot is enough here
    check_reflow(scop, schedule, folded("h", "h[b, j]"))
    with pytest.raises(VerifyError, match=r"hu reads a cell of h .* e\.g\. .*-> hu\["):
        check_reflow(scop, schedule, folded("h", "h[t mod 2, b]"))
    with pytest.raises(VerifyError, match=r"cell reads a cell of p .* e\.g\. .*-> cell\["):
        check_reflow(scop, schedule, folded("p", "p[b, j]"))


def test_fused_rows_need_the_second_slot() -> None:
    """With hu and cell interleaved per element, h[t] is still read after h[t + 1] is written."""
    scop = extract(recurrence())
    inner = Sequence((Filter(("hu",)), Filter(("cell",))))
    names = ("hu", "cell")
    fused = Filter(names, Band(tuple(dict.fromkeys(names, d) for d in (t, b, j)), inner))
    parts = good_tree().children
    schedule = build(scop, Sequence((parts[0], parts[1], fused, parts[3])))
    check_order(scop, schedule, flow(scop))
    check_reflow(scop, schedule, folded("h", "h[t mod 2, b, j]"))
    with pytest.raises(VerifyError, match="reads a cell of h"):
        check_reflow(scop, schedule, folded("h", "h[b, j]"))


def test_tensors_sharing_memory_must_not_overlap_in_time() -> None:
    scop = extract(recurrence())
    schedule = build(scop, good_tree())
    shared = folded("p", "m[t, b, j]") | folded("q", "m[t, b, j]")
    with pytest.raises(VerifyError, match="reads a cell of p"):
        check_reflow(scop, schedule, shared)


def test_show_tree() -> None:
    tree = Sequence((points("init", b, j), loop(("hu", "cell"), Filter(("hu",), Phase(None)))))
    assert show_tree(tree) == (
        "in sequence\n"
        "  init\n"
        "    parallel init: b\n"
        "    parallel init: j\n"
        "  hu, cell\n"
        "    loop hu: t, cell: t\n"
        "      in sequence\n"
        "        hu\n"
        "          # phase\n"
    )


def test_clusters_of_a_phase_must_not_need_each_other() -> None:
    program = softmax()
    scop = extract(program)
    flows = flow(scop)
    tree = fuse(program, flows, cpu(2))
    check_phases(scop, tree, flows)
    names = [s.name for s in program.statements]
    whole = tuple(Filter((n,), Tile(Sequence((Filter((n,)),)))) for n in names)
    beside = Sequence((Filter(tuple(names), Phase(Sequence(whole))),))
    with pytest.raises(VerifyError, match=r"clusters of one phase depend .*S1\[.*S3\["):
        check_phases(scop, beside, flows)


def test_a_phase_of_a_loop_may_need_its_former_run() -> None:
    program = lstm()
    scop = extract(program)
    flows = flow(scop)
    check_phases(scop, fuse(program, flows, cpu(2)), flows)
