# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from itertools import pairwise

import islpy as isl
import pytest

from sirius_tf.errors import VerifyError
from sirius_tf.ir.affine import Affine, affine
from sirius_tf.ir.expr import Const, Load, call
from sirius_tf.ir.program import Iter, Output, Program, Statement, Tensor
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


def layers(count: int) -> Program:
    """Layers that are equal but for names: of each, Pk defines a temporary, and Yk reads it."""
    size, axes = (affine(4), affine(8)), (Iter("b", affine(4)), Iter("j", affine(8)))
    names = [name for k in range(count) for name in (f"p{k}", f"y{k}")]
    last = names[-1]
    tensors = [Tensor(n, size, "float32", "output" if n == last else "temp") for n in names]
    statements = tuple(
        Statement(name.upper(), axes, name, (b, j), call("neg", Load(read, (b, j), "float32")))
        for read, name in pairwise(["x", *names])
    )
    given = Tensor("x", size, "float32", "input")
    outputs = (Output(last, (Const(4, "int64"), Const(8, "int64"))),)
    return Program("layers", (), (), (), (given, *tensors), statements, ("x",), outputs)


def row_by_row(k: int) -> Filter:
    names = (f"P{k}", f"Y{k}")
    return Filter(
        names, Band((dict.fromkeys(names, b),), Sequence(tuple(points(n, j) for n in names)))
    )


def one_row(k: int) -> dict[str, isl.Map]:
    return {f"p{k}": isl.Map(f"{{ p{k}[b, j] -> p{k}[0, j] }}")}


def test_isl_answers_once_for_layers_that_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[isl.UnionMap] = []
    ask = isl.UnionAccessInfo.from_sink

    def counted(sink: isl.UnionMap) -> isl.UnionAccessInfo:
        asked.append(sink)
        return ask(sink)

    monkeypatch.setattr(isl.UnionAccessInfo, "from_sink", staticmethod(counted))
    scop = extract(layers(4))
    schedule = build(scop, Sequence(tuple(row_by_row(k) for k in range(4))))
    rows = {name: cell for k in range(4) for name, cell in one_row(k).items()}
    check_reflow(scop, schedule, rows)
    assert len(asked) == 1


@pytest.mark.parametrize("k", range(4))
def test_whichever_layer_is_wrong_among_equal_ones_is_named(k: int) -> None:
    """It has cells that are too few, or an order that needs more of them."""
    scop = extract(layers(4))
    rows = {name: cell for n in range(4) for name, cell in one_row(n).items()}
    parts = [row_by_row(n) for n in range(4)]
    fewer = rows | {f"p{k}": isl.Map(f"{{ p{k}[b, j] -> p{k}[b, 0] }}")}
    with pytest.raises(VerifyError, match=f"Y{k} reads a cell of p{k} "):
        check_reflow(scop, build(scop, Sequence(tuple(parts))), fewer)
    apart = [points(f"P{k}", b, j), points(f"Y{k}", b, j)]
    schedule = build(scop, Sequence((*parts[:k], *apart, *parts[k + 1 :])))
    with pytest.raises(VerifyError, match=f"Y{k} reads a cell of p{k} "):
        check_reflow(scop, schedule, rows)


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
