# SPDX-License-Identifier: Apache-2.0
"""Statements share loops as far as dependences and workers allow."""

import pytest

from sirius_tf.poly.dependence import flow
from sirius_tf.poly.scop import extract
from sirius_tf.schedule.join import Clusterer
from sirius_tf.schedule.machine import cpu
from sirius_tf.schedule.plan import choose_all
from tests.support import programs, saved

pytestmark = pytest.mark.ir

MACHINE = cpu(2)


def clusterer(program, machine=MACHINE):
    return Clusterer(program, flow(extract(program)), choose_all(program, machine), machine)


def clusters(program, names, machine=MACHINE, **options):
    """The statements of each cluster, and how many loops they share."""
    made = clusterer(program, machine)
    found = made.clusters(names, made.flows, frozenset(), **options)
    return [(c.statements, len(c.loops)) for c in found]


def test_a_softmax_is_one_cluster_of_its_rows() -> None:
    names = ["S0", "S1", "S2", "S3"]
    assert clusters(programs.softmax(), names) == [(tuple(names), 1)]
    apart = clusters(programs.softmax(), names, fusion=False)
    assert apart == [(("S0",), 1), (("S1",), 2), (("S2",), 1), (("S3",), 2)]


def test_what_needs_all_rows_has_a_cluster_of_its_own() -> None:
    text = """program text(x)
params:
  B = dim(x, 0)   # >= 0, hint 64
tensors:
  input x[B, 64]: float32
  temp e[B, 64]: float32
  temp s[64]: float32
  output y[B, 64]: float32
statements:
  E: e[b, i] = exp(x[b, i])   for b < B, i < 64
  S: s[i] = sum over b of e[b, i]   for i < 64, b < B
  Y: y[b, i] = e[b, i] / s[i]   for b < B, i < 64
outputs:
  y: [B, 64]
"""
    columns = clusters(saved.parsed(text), ["E", "S", "Y"])
    assert columns == [(("E", "S", "Y"), 1)]  # of columns, which are enough for two workers
    one = text.replace("temp s[64]", "temp s[1]").replace("s[i]", "s[0]")
    one = one.replace("for i < 64, b < B", "for b < B, i < 64").replace("over b of", "over b, i of")
    total = clusters(saved.parsed(one), ["E", "S", "Y"])
    assert total == [(("E",), 2), (("S",), 0), (("Y",), 2)]


def test_what_a_statement_needs_most_of_comes_right_before_it() -> None:
    text = """program text(x)
params:
  B = dim(x, 0)   # >= 0, hint 64
tensors:
  input x[B]: float32
  temp heavy[B]: float32
  temp light[B]: float32
  output y[B]: float32
statements:
  H: heavy[b] = sum over k of x[k]   for b < B, k < B
  L: light[b] = x[b] * 2.0   for b < B
  Y: y[b] = heavy[b] + light[b]   for b < B
outputs:
  y: [B]
"""
    made = clusterer(saved.parsed(text))
    assert made.light_first(["H", "L", "Y"], made.flows) == ["L", "H", "Y"]
