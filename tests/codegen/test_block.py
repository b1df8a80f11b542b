# SPDX-License-Identifier: Apache-2.0
"""A block of a leaf: where its values are computed, how often, and from where they are read."""

import operator
import re
from dataclasses import replace

import pytest

from sirius_tf.codegen.block import Block
from sirius_tf.codegen.context import Context, Isa
from sirius_tf.codegen.vector import NotVectorizableError
from sirius_tf.ir.affine import affine, symbol
from sirius_tf.nest.nodes import Range
from sirius_tf.schedule.plan import Plan
from sirius_tf.schedule.storage import Storage
from tests.support.programs import b, call, dense, k, load, tensor

pytestmark = pytest.mark.ir

AVX2 = Isa(8, 6, {1: 8, 2: 4, 6: 2})


def block(program, rows=2, vectors=2, tail=False, storage=None):
    box = {name: Range(name, None, None, True) for name in "bn"}
    plan, (s,) = Plan("n", "b"), program.statements
    ctx = Context(program, s, plan, AVX2, storage or Storage(), box)
    return Block(ctx, rows, vectors, tail, symbol("n_b"))


def test_rows_and_vectors_share_what_they_read() -> None:
    """A row of one operand is loaded once for all vectors, a vector of the other for all rows."""
    made = block(dense())
    lines = [made.accumulate(f"acc_{r}_{j}", made.s.value, r, j, True) for r, j in made.places]
    assert len(lines) == 4 and all("= sr_fma(" in line for line in lines)
    assert made.inside == [
        "const float s2 = p1[(k)];",
        "const sr_f32 v4 = sr_load_f32(p3 + (16 * k));",
        "const sr_f32 v5 = sr_load_f32(p3 + (16 * k) + 8);",
        "const float s6 = p1[(k) + 499];",
    ]
    assert [line.split(" = ")[1] for line in made.before] == ["a0 + ((499 * b));", "a1 + ((n_b));"]


def with_added(program, value):
    """The program that adds a value to its sum."""
    (s,) = program.statements
    bias = tensor("bias", [16], role="constant")
    carried = tensor("carried", [16], role="input")
    s = replace(s, finish=call("add", s.result, value))
    return replace(program, tensors=(*program.tensors, bias, carried), statements=(s,))


def test_sums_start_with_a_constant_alone() -> None:
    """What is no constant may be far larger than the terms: it is added in the end."""
    n = symbol("n")
    constant = block(with_added(dense(), load("bias", n)), 1, 1)
    assert constant.bias == load("bias", n) and constant.start(0, 0, True) == "v2"
    assert constant.before[-1] == "const sr_f32 v2 = sr_load_f32(p1 + 0);"
    assert constant.finished(("acc", True), 0, 0) == ("acc", True)
    other = block(with_added(dense(), load("carried", n)), 1, 1)
    assert other.bias is None and other.start(0, 0, False) == "(float)0x0.0p+0"
    assert other.finished(("acc", True), 0, 0) == ("v3", True)
    assert other.before[-2:] == [
        "const sr_f32 v2 = sr_load_f32(p1 + 0);",
        "const sr_f32 v3 = (acc + v2);",
    ]


def test_lanes_are_a_known_distance_apart() -> None:
    made, n = block(dense()), symbol("n")
    assert made.step("y", (b, n)) == "1"
    assert made.step("w", (n, k)) == "16"
    assert made.step("x", (b, 7 - 2 * n)) == "-2"
    with pytest.raises(NotVectorizableError, match="x has no stride along n"):
        made.step("x", (b, affine(3)))
    folded = block(dense(), storage=Storage({"y": (None, 4)}))
    with pytest.raises(NotVectorizableError, match="y has no stride along n"):
        folded.step("y", (b, n))


def test_rows_of_a_folded_tensor_take_turns() -> None:
    """Row b + 1 is in slot (b + 1) mod 2; the second vector begins 8 lanes further on."""
    made = block(dense(), storage=Storage({"y": (2, None)}))
    pointer, offset = made.address("y", (b, symbol("n")), 1, 1)
    (place,) = re.findall(rf"float \*{pointer} = a0 \+ (.*);", made.before[-1])
    for row in range(4):
        names = {"sirius_floordiv": operator.floordiv, "b": row, "n_b": 0}
        assert eval(place, names) + int(offset) == 16 * ((row + 1) % 2) + 8


def test_the_last_lanes_are_stored_by_their_number() -> None:
    whole, rest = block(dense(), 1, 1), block(dense(), 1, 1, tail=True)
    for made in (whole, rest):
        made.store(0, 0, ("v", True))
    assert whole.before[-1] == "sr_store_f32(p1 + 0, v);"
    assert rest.before[-1] == "sr_store_n_f32(p1 + 0, left, v);"
