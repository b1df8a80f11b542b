# SPDX-License-Identifier: Apache-2.0
"""What the scheduler asks about programs on the way to its decisions, question by question."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from sirius_tf.ir.affine import affine, symbol
from sirius_tf.ir.defuse import Uses
from sirius_tf.ir.expr import Const
from sirius_tf.ir.printer import show_statement
from sirius_tf.ir.program import Param
from sirius_tf.schedule.cluster import Cluster, alone, key
from sirius_tf.schedule.fuse import _beside
from sirius_tf.schedule.machine import cpu
from sirius_tf.schedule.overlap import _can_widen
from sirius_tf.schedule.plan import Plan, possible
from sirius_tf.schedule.private import private
from sirius_tf.schedule.schedule import Schedule, parse, show
from sirius_tf.schedule.storage import Storage, phase_times
from sirius_tf.schedule.tile import tile_sizes
from sirius_tf.schedule.tree import Band, Filter, Phase, Sequence, Tile
from tests.support import programs, saved

pytestmark = pytest.mark.ir

i, t = symbol("i"), symbol("t")


def statement(program, name):
    return next(s for s in program.statements if s.name == name)


def test_registers_are_not_filled_along_loops_in_order() -> None:
    """Nor vectors: an iteration needs the one before."""
    program = programs.recurrence()
    plans = possible(statement(program, "hu"))
    assert Plan(None) in plans and len(plans) > 3
    assert "t" not in {name for p in plans for name in (p.lanes, p.rows)}
    assert any(p.rows for p in plans)


def test_recurrences_of_a_loop_are_counted() -> None:
    """Those of one statement, and those of several, but not what is beside them."""
    edges = [("a", "a"), ("a", "b"), ("c", "d"), ("d", "c"), ("d", "e")]
    flows = [SimpleNamespace(source=source, sink=sink) for source, sink in edges]
    assert _beside("abcde", flows) == 2


@pytest.mark.parametrize("around", [Phase, Tile, lambda node: Filter(("a",), node)])
def test_times_of_phases_are_places_and_steps(around) -> None:
    """Whatever stands around a loop; tiles of a phase have one time."""
    loop = Band(({"a": t},), around(Filter(("a",))))
    tree = Sequence((Filter(("z",)), Filter(("a",), loop)))
    assert phase_times(tree) == {"z": (affine(0),), "a": (affine(1), t)}
    tiled = Filter(("a",), Phase(Band(({"a": i // 8 * 8},), Tile(Filter(("a",))))))
    assert phase_times(tiled) == {"a": ()}


@pytest.mark.parametrize("value", [i // 8 * 8, i // 8 * 8 + 3, i // 8 * 4, 8 * i])
def test_only_multiples_of_tiles_are_printed_as_such(value) -> None:
    schedule = Schedule(Band(({"a": value},), None), {"a": Plan(None)}, Storage())
    text = show(schedule)
    assert (" by 8" in text) == (value == i // 8 * 8)
    assert parse(text) == schedule


def test_what_a_loop_makes_cannot_have_more_rows() -> None:
    program = programs.recurrence()
    assert not _can_widen(program, "h") and not _can_widen(program, "p")
    assert not _can_widen(program, "x")  # a caller's
    assert all(_can_widen(programs.softmax(), name) for name in ("m", "s"))


def test_a_parameter_that_occurs_nowhere_decides_nothing() -> None:
    program = saved.read("dense")
    cluster = Cluster(tuple(s.name for s in program.statements), ())
    more = replace(program, params=(*program.params, Param("other", Const(3, "int64"), hint=3)))
    assert key(Uses(program), cluster, (), 2) == key(Uses(more), cluster, (), 2)
    hint = replace(program, params=tuple(replace(p, hint=99) for p in program.params))
    assert key(Uses(program), cluster, (), 2) != key(Uses(hint), cluster, (), 2)


DEMAND = """program text(x)
params:
  B = dim(x, 0)   # >= 0, hint 8
tensors:
  input x[B]: float32
  output ok[B]: bool
statements:
  D: ok[b] = demand(x[b] > 0.0, 3)   for b < B
outputs:
  ok: [B]
"""


def test_a_cluster_by_itself_demands_nothing() -> None:
    given = saved.parsed(DEMAND)
    (made,) = alone(Uses(given), Cluster(("D",), ()), "alone").statements
    assert show_statement(made) == "D: ok[b] = x[b] > 0.0   for b < B"


def test_tiles_are_private_where_nobody_else_reads() -> None:
    """The temporary is as many rows as a tile; one that is read behind the tiles is not."""
    program = programs.softmax()
    names = tuple(s.name for s in program.statements)
    rows = {s.name: symbol(s.iters[0].name) // 4 * 4 for s in program.statements}
    inside = Sequence(tuple(Filter((name,)) for name in names))
    assert set(private(program, Band((rows,), Tile(inside)))) == {
        n.name for n in program.tensors if n.role == "temp"
    }
    few = {name: rows[name] for name in names[:-1]}
    tiles = Filter(names[:-1], Band((few,), Tile(Sequence(inside.children[:-1]))))
    apart = private(program, Sequence((tiles, Filter(names[-1:]))))
    read = {load.tensor for load in program.statements[-1].loads}
    assert read.isdisjoint(apart) and apart


def test_few_rows_of_a_sum_have_wider_tiles() -> None:
    """Where the rows of the registers are not along a loop of tiles, there are enough."""
    program, machine = programs.dense(64, 256), replace(cpu(2), worth_a_tile=1)
    (s,) = program.statements
    rows, lanes = (x.name for x in s.iters)

    def width(plan):
        return tile_sizes(program, {s.name: plan}, [s.name], [{s.name: symbol(lanes)}], machine)

    assert width(Plan(lanes)) == (64,)
    assert width(Plan(lanes, rows)) == (16,)
