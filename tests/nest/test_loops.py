# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from sirius_tf.ir.affine import symbol
from sirius_tf.ir.program import Program
from sirius_tf.nest.build import build_loops
from sirius_tf.nest.nodes import Block, Guard, Loop, LoopNest, Phase, Run, Tile, show
from sirius_tf.poly.dependence import flow
from sirius_tf.poly.scop import extract
from sirius_tf.schedule.fuse import fuse
from sirius_tf.schedule.machine import cpu
from sirius_tf.schedule.tree import Band, Filter, Sequence, build
from tests.support.programs import recurrence, softmax_of

pytestmark = pytest.mark.ir


def loops(program: Program) -> LoopNest:
    scop = extract(program)
    return build_loops(scop, build(scop, fuse(program, flow(scop), cpu(2))))


def instances(nest: LoopNest, values: dict[str, int]) -> list[tuple[str, tuple[int, ...]]]:
    """Every instance that the loops run, in their order."""
    match nest:
        case Loop(var, lower, upper, step, _, body):
            first = max(b.evaluate(values) for b in lower.terms)
            end = min(b.evaluate(values) for b in upper.terms)
            return [i for k in range(first, end, step) for i in instances(body, values | {var: k})]
        case Guard(conditions, body, otherwise):
            holds = all(c.evaluate(values) >= 0 for c in conditions)
            taken = body if holds else otherwise
            return instances(taken, values) if taken else []
        case Block(parts):
            return [i for part in parts for i in instances(part, values)]
        case Phase(body) | Tile(body):
            return instances(body, values)
        case Run(statement, iters):
            return [(statement, tuple(i.evaluate(values) for i in iters))]


def test_softmax_loops() -> None:
    assert show(loops(softmax_of())) == (
        "phase\n"
        "  parallel for c0 in 0 .. M by 8\n"
        "    tile\n"
        "      for c1 in c0 .. min(M, c0 + 8)\n"
        "        top[c1]\n"
        "      for c1 in c0 .. min(M, c0 + 8)\n"
        "        for c2 in 0 .. N\n"
        "          raised[c1, c2]\n"
        "      for c1 in c0 .. min(M, c0 + 8)\n"
        "        total[c1]\n"
        "      for c1 in c0 .. min(M, c0 + 8)\n"
        "        for c2 in 0 .. N\n"
        "          share[c1, c2]\n"
    )


@pytest.mark.parametrize("sizes", [{"T": 1, "B": 1, "H": 1}, {"T": 7, "B": 3, "H": 5}])
def test_the_loops_run_every_instance_once_and_sources_first(sizes: dict[str, int]) -> None:
    program = recurrence()
    ran = instances(loops(program), sizes)
    assert len(ran) == len(set(ran))
    for s in program.statements:
        box = tuple(i.extent.evaluate(sizes) for i in s.iters)
        assert {i for name, i in ran if name == s.name} == set(np.ndindex(*box))
    when = {instance: k for k, instance in enumerate(ran)}
    for t in range(1, sizes["T"]):
        for b in range(sizes["B"]):
            for j in range(sizes["H"]):
                assert when["cell", (t - 1, b, j)] < when["hu", (t, b, 0)]
                assert when["hu", (t, b, j)] < when["cell", (t, b, j)]


def test_tiles_and_shifts_become_bounds_and_guards() -> None:
    """Tiles of 32 rows, and a reader one row behind: bounds are minima, indices stay affine."""
    scop = extract(softmax_of())
    i = symbol("i")
    rows = {"top": i, "total": i, "raised": i, "share": i + 1}
    inner = Sequence(tuple(Filter((s,)) for s in ("top", "raised", "total", "share")))
    columns = Band((rows,), inner)
    tree = Band(({s: v // 32 for s, v in rows.items()},), columns)
    nest = build_loops(scop, build(scop, tree))
    sizes = {"M": 45, "N": 2}
    ran = instances(nest, sizes)
    assert len(ran) == len(set(ran)) == 45 * (1 + 2 + 1 + 2)
    assert "min(" in show(nest) and "if " in show(nest)
    assert ran.index(("total", (1,))) < ran.index(("share", (0, 0)))
