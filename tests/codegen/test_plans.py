# SPDX-License-Identifier: Apache-2.0
"""Plans that C has no vectors for: the schedule says scalar, and a given one is refused."""

from dataclasses import replace

import pytest

from sirius_tf.codegen.cpu.leaf import ISAS, print_leaf
from sirius_tf.codegen.cpu.plans import is_computable, plan_of
from sirius_tf.compile import schedule_program
from sirius_tf.errors import VerifyError
from sirius_tf.ir.affine import symbol
from sirius_tf.ir.expr import index
from sirius_tf.ir.program import Panels, Reduce
from sirius_tf.nest.coalesce import Leaf
from sirius_tf.nest.nodes import Range
from sirius_tf.schedule.plan import PANEL, Plan
from sirius_tf.schedule.schedule import parse
from sirius_tf.schedule.storage import Storage
from tests.support.programs import call, it, load, param, program, stmt, tensor

pytestmark = pytest.mark.ir

N = symbol("N")
i, k = symbol("i"), symbol("k")


def mapped(value, dtype="float32"):
    """y[i] = value, of x and w, over i < N."""
    tensors = [
        tensor("x", (N,), dtype, role="input"),
        tensor("w", (64, N), dtype, role="input"),
        tensor("y", (N,), value.dtype, role="output"),
    ]
    s = stmt("y", [it("i", N)], "y", (i,), value)
    return program("p", [param("N", "x", 0)], tensors, [s], (N,))


def summed(op, dtype):
    """y[i] = the sum of x[i, k] over k < 64."""
    tensors = [tensor("x", (N, 64), dtype, role="input"), tensor("y", (N,), dtype, role="output")]
    value = load("x", i, k, dtype=dtype)
    s = stmt("y", [it("i", N)], "y", (i,), value, Reduce(op, (it("k", 64),)))
    return program("p", [param("N", "x", 0)], tensors, [s], (N,))


def x(*subscripts, dtype="float32"):
    return load("x", *subscripts, dtype=dtype)


PAIR = [x(i, dtype="int32")] * 2


@pytest.mark.parametrize(
    ("made", "plan", "possible"),
    [
        (mapped(call("exp", x(i))), Plan("i"), True),
        (mapped(x(2 * i)), Plan("i"), True),
        (mapped(x(i // 2)), Plan("i"), False),
        (mapped(x(5)), Plan("i"), True),
        (mapped(load("w", i, 0)), Plan("i"), True),
        (mapped(index(i, "int32")), Plan("i"), True),
        (mapped(index(i, "int8")), Plan("i"), False),
        (mapped(x(i, dtype="int8"), "int8"), Plan("i"), False),
        (mapped(x(call("cast", x(i), dtype="int64"))), Plan("i"), False),
        (
            mapped(call("floordiv", *PAIR, dtype="int32"), "int32"),
            Plan("i"),
            False,
        ),
        (mapped(call("max", *PAIR, dtype="int32"), "int32"), Plan("i"), True),
        (mapped(call("cast", x(i, dtype="int8")), "int8"), Plan("i"), False),
        (summed("add", "float32"), Plan("k", across=True), True),
        (summed("mul", "float32"), Plan("k", across=True), False),
        (summed("min", "int32"), Plan("k", across=True), False),
        (summed("min", "int32"), Plan("i"), True),
        (summed("and", "bool"), Plan("k", across=True), True),
        (summed("min", "int32"), Plan(None), True),
    ],
)
def test_what_a_vector_can_hold(made, plan, possible) -> None:
    assert is_computable(made, Storage(), made.statements[0], plan) is possible


def test_folded_lanes_are_no_vector() -> None:
    made = mapped(x(i))
    assert not is_computable(made, Storage({"x": (2,)}), made.statements[0], Plan("i"))


def test_lanes_of_a_leaf() -> None:
    made = mapped(load("w", i % PANEL, i // PANEL))
    leaf = Leaf(made.statements[0], (Range("i", None, None, True),))
    assert plan_of(made, Storage(), leaf, Plan("i")) == Plan("i")
    unaligned = Leaf(made.statements[0], (Range("i", None, None, False),))
    assert plan_of(made, Storage(), unaligned, Plan("i")) == Plan(None)
    assert plan_of(made, Storage(), Leaf(made.statements[0], ()), Plan("i")) == Plan(None)


@pytest.mark.parametrize("layout", [Panels(0), None])
def test_panels_alone_are_filled_up(layout) -> None:
    """The last lanes are part of a vector, which panels have and quotients of a graph may not."""
    value = call("mul", load("x", k), load("w", i // PANEL, k, i % PANEL))
    tensors = [
        tensor("x", (64,), role="input"),
        replace(tensor("w", (4, 64, PANEL), role="constant"), layout=layout),
        tensor("y", (N,), role="output"),
    ]
    s = stmt("y", [it("i", N)], "y", (i,), value, Reduce("add", (it("k", 64),)))
    made = program("p", [param("N", "x", 0)], tensors, [s], (N,))
    leaf = Leaf(s, (Range("i", None, None, True),))
    text = print_leaf(made, leaf, Plan("i"), Storage(), ISAS["v3"]).text
    assert ("sr_load_n_f32(" in text) == (layout is None)
    assert "sr_store_n_f32(" in text


def test_a_schedule_says_what_is_printed() -> None:
    made, texts = summed("min", "int32"), dict[str, str]()
    assert schedule_program(made, dump=texts.__setitem__).plans == {"y": Plan(None)}
    assert "y: scalar" in texts["schedule"]
    wanted = texts["schedule"].replace("y: scalar", "y: across k")
    with pytest.raises(VerifyError, match="y has no code for 'across k'"):
        schedule_program(made, given=parse(wanted))
