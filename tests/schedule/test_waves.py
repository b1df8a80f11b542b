# SPDX-License-Identifier: Apache-2.0
"""Recurrences behind each other are one loop, the later ones by some steps behind."""

from dataclasses import replace

import pytest

from sirius_tf.mapping.targets import machine_of
from sirius_tf.poly.dependence import flow
from sirius_tf.poly.scop import extract
from sirius_tf.schedule.hoist import release
from sirius_tf.schedule.machine import cpu
from sirius_tf.schedule.wavefront import members, wavefronts
from tests.support.saved import parsed

pytestmark = pytest.mark.ir

GPU = machine_of("sm_90")
TEXT = """program text(x)
params:
  T = dim(x, 0)   # >= 0, hint 100
  N = dim(x, 1)   # >= 0, hint 8
tensors:
  input x[T, N, 32]: float32
  constant u[32, 32]: float32
  constant w[32, 32]: float32
  constant v[32, 32]: float32
  temp h[T + 1, N, 32]: float32
  temp z[T, N, 32]: float32
  temp g[T + 1, N, 32]: float32
  output y[N, 32]: float32
statements:
  A: h[0, b, j] = 0.0   for b < N, j < 32
  H: h[t + 1, b, j] = sum over k of h[t, b, k] * u[k, j]
    for t < T in order, b < N, j < 32, k < 32
  Z: z[t, b, j] = sum over k of h[t + 1, b, k] * w[k, j]
    for t < T in order, b < N, j < 32, k < 32
  B: g[0, b, j] = x[0, b, j]   for b < N, j < 32
  G: g[t + 1, b, j] = sum over k of g[t, b, k] * z[t, k, j]
    for t < T in order, b < N, j < 32, k < 8
  Y: y[b, j] = g[T, b, j]   for b < N, j < 32
outputs:
  y: [N, 32]
"""


def shifts(text=TEXT, machine=GPU):
    """The steps by which statements of wavefronts are behind."""
    program = parsed(text)
    flows = flow(extract(program))
    made = wavefronts(release(program, flows), flows, machine)
    assert sorted(map(sorted, members(made.statements))) in ([], [["G", "H"]], [["G", "H", "Z"]])
    return {
        s.name: i.shift for s in made.statements for i in s.iters if i.loop and i.shift is not None
    }


def test_a_layer_is_behind_what_it_reads() -> None:
    """By a step for each phase between them: all elements are needed."""
    assert shifts() == {"H": 0, "Z": 1, "G": 2}


def test_an_element_by_element_reader_is_in_the_same_step() -> None:
    same = TEXT.replace("sum over k of h[t + 1, b, k] * w[k, j]", "h[t + 1, b, j] * 2.0")
    domain = "for t < T in order, b < N, j < 32"
    assert shifts(same.replace(f"{domain}, k < 32\n  B", f"{domain}\n  B")) == {
        "H": 0,
        "Z": 0,
        "G": 1,
    }


def test_recurrences_beside_each_other_are_in_the_same_step() -> None:
    beside = TEXT.replace("z[t, k, j]", "w[k, j]")
    assert shifts(beside) == {"G": 0, "H": 0}


@pytest.mark.parametrize("machine", [cpu(2), replace(GPU, wavefronts=False)])
def test_a_machine_without_wavefronts_has_none(machine) -> None:
    assert shifts(machine=machine) == {}


@pytest.mark.parametrize("change", [{"worth_a_barrier": 0}, {"shared": 16}])
def test_barriers_are_saved_where_they_cost_more_than_what_is_lost(change) -> None:
    """Rows that share loads, and weights that stay near."""
    assert shifts(machine=replace(GPU, **change)) == {}
    assert shifts(machine=replace(GPU, **change, wavefronts=True)) == shifts()


@pytest.mark.parametrize(
    "edits",
    [
        {"z[t, k, j]": "z[T - 1 - t, k, j]"},  # the last step is needed first
        {
            "T in order, b < N, j < 32, k < 8": "T - 1 in order, b < N, j < 32, k < 8",
            "g[T, b": "g[T - 1, b",
        },
    ],
)
def test_loops_that_do_not_go_step_by_step_stay_apart(edits) -> None:
    """Nor do those of different lengths."""
    text = TEXT
    for old, new in edits.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    assert shifts(text) == {}
