# SPDX-License-Identifier: Apache-2.0
"""Loops whose blocks exchange words: the tensors, statements and loops that a kernel gets."""

import pytest

from sirius_tf.ir.affine import affine, symbol
from sirius_tf.mapping.exchange import Exchange, Exchanged, Near
from sirius_tf.mapping.targets import machine_of
from sirius_tf.mapping.words import with_words
from sirius_tf.nest.nodes import Block, Bound, Loop, Run, Tile, show
from sirius_tf.nest.scheduled import Scheduled
from sirius_tf.schedule.plan import Plan
from sirius_tf.schedule.storage import Storage, Words
from tests.support.saved import parsed

pytestmark = pytest.mark.ir

t = symbol("c0")
PROGRAM = parsed("""program text(x)
params:
  T = dim(x, 0)   # >= 0, hint 9
tensors:
  input x[T, 4, 20]: float32
  temp h[T + 1, 4, 20]: float32
  temp p[T, 4, 20]: float32
  output o[4, 20]: float32
statements:
  Z: h[0, r, i] = 0.0   for r < 4, i < 20
  S: h[t + 1, r, i] = h[t, r, 19 - i] + h[t, r, i] + x[t, r, i]   for t < T in order, r < 4, i < 20
  P: p[t, r, i] = h[t, r, 19 - i] * 2.0   for t < T in order, r < 4, i < 20
  O: o[r, i] = h[T, r, i]   for r < 4, i < 20
outputs:
  o: [4, 20]
""")
STEP = next(s for s in PROGRAM.statements if s.name == "S")
REMOTE, OWN, _ = STEP.loads


def kernel(rows):
    """Tiles of `rows` rows, step by step; a cluster may be in pieces."""
    run = Run("S", (t, symbol("c1"), symbol("c2")))
    tile = Loop("c1", Bound((affine(0),)), Bound((affine(4),)), rows, True, Tile(run, "S"))
    nest = Loop("c0", Bound((affine(0),)), Bound((symbol("T"),)), 1, False, Block((tile, tile)))
    plans = {s.name: Plan(None) for s in PROGRAM.statements}
    storage = Storage({"h": (2, None, None)}, {}, {"h": 0})
    return Scheduled(PROGRAM, nest, plans, storage, machine_of("sm_90"))


def exchanging(rows):
    """Blocks await `rows` rows of h[t], by the first of its loads alone."""
    near = Near("S", "h", t, (None, rows and ("c1", rows), None), (("S", REMOTE),))
    return with_words(
        kernel(rows or 4), [Exchange("c0", frozenset("S"), {"h": Exchanged(0, 17, ())}, (near,), 1)]
    )


def test_a_tile_reads_its_copy_of_what_others_make() -> None:
    made, names = exchanging(2)
    assert names == {"h_near0"}
    statements = {s.name: s for s in made.program.statements}
    reads = [(load.tensor, load.index) for load in statements["S"].loads]
    assert statements["P"].loads == (REMOTE,)  # of another cluster
    assert reads[0] == ("h_near0", REMOTE.index) and reads[1] == ("h", OWN.index)
    (word,) = statements["h_near0"].loads
    assert (word.tensor, word.dtype, word.index) == (
        "h_words",
        "int64",
        statements["h_near0"].index,
    )
    assert made.program.tensor["h_words"].dtype == "int64"
    assert made.program.tensor["h_near0"].dtype == "float32"
    assert made.plans.keys() == statements.keys()


def test_words_are_kept_for_some_times_and_copies_for_one() -> None:
    storage = exchanging(2)[0].storage
    assert storage.windows == {
        "h": (2, None, None),
        "h_words": (17, None, None),
        "h_near0": (1, None, None),
    }
    assert storage.private == {"h_near0": (None, 2, None)}
    assert storage.words == {"h": Words("h_words", 0)}
    assert len(set(storage.slots.values())) == len(storage.slots) == 3


@pytest.mark.parametrize(
    ("rows", "loops", "copy"),
    [
        (1, ["for w2 in 0 .. 20"], "h_near0[c0, c1, w2]"),
        (2, ["for w1 in c1 .. c1 + 2", "for w2 in 0 .. 20"], "h_near0[c0, w1, w2]"),
        (3, ["for w1 in c1 .. min(4, c1 + 3)", "for w2 in 0 .. 20"], "h_near0[c0, w1, w2]"),
        (None, ["for w1 in 0 .. 4", "for w2 in 0 .. 20"], "h_near0[c0, w1, w2]"),
    ],
)
def test_the_first_tile_of_a_cluster_copies_all_that_it_awaits(rows, loops, copy) -> None:
    """Within the tensor; a piece that follows has it already."""
    lines = [line.strip() for line in show(exchanging(rows)[0].nest).splitlines()]
    first = lines.index("tile")
    assert lines[first + 1 : first + 3 + len(loops)] == [*loops, copy, "S[c0, c1, c2]"]
    assert lines.count(copy) == 1 and lines.count("S[c0, c1, c2]") == 2
