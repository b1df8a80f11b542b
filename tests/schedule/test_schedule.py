# SPDX-License-Identifier: Apache-2.0
import islpy as isl
import pytest

from sirius_tf.errors import VerifyError
from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.program import Iter, Program
from sirius_tf.ir.scc import components
from sirius_tf.poly.dependence import check_defined, check_single_assignment, flow
from sirius_tf.poly.scop import extract
from sirius_tf.schedule.fuse import fuse
from sirius_tf.schedule.machine import Machine
from sirius_tf.schedule.schedule import show_tree
from sirius_tf.schedule.tree import Band, Filter, Phase, Sequence, Tile, build
from sirius_tf.schedule.verify import check_order, check_phases, check_reflow
from tests.support.programs import lstm, recurrence, softmax

T, B, H = (symbol(n) for n in "TBH")
t, b, j, k = (symbol(n) for n in "tbjk")


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


def test_loop_distribution_hoists_what_the_recurrence_does_not_feed() -> None:
    program = recurrence()
    edges = [(f.source, f.sink) for f in flow(extract(program))]
    found = components([s.name for s in program.statements], edges)
    assert found == (("init",), ("xw",), ("hu", "cell"), ("last",))


def test_components_are_in_topological_order_whatever_the_order_of_nodes() -> None:
    edges = [("a", "b"), ("b", "c"), ("c", "b"), ("c", "d"), ("e", "d")]
    for nodes in ("abcde", "edcba", "dbeca"):
        found = components(list(nodes), edges)
        where = {n: k for k, members in enumerate(found) for n in members}
        assert where["b"] == where["c"] and len(found) == 4
        assert where["a"] < where["b"] < where["d"] > where["e"]


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
    with pytest.raises(VerifyError, match="does not run exactly the instances"):
        check_order(scop, schedule, flow(scop))


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
    tree = fuse(program, flows, Machine(2))
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
    check_phases(scop, fuse(program, flows, Machine(2)), flows)
