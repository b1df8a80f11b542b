# SPDX-License-Identifier: Apache-2.0
"""Parts of the lowering by themselves: loops, half precision, and what is known on entry."""

import numpy as np
import pytest

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.affine import affine, symbol
from sirius_tf.ir.expr import Call, Const, Index, Load
from sirius_tf.ir.polynomial import poly
from sirius_tf.ir.printer import show_statement
from sirius_tf.ir.program import Iter
from sirius_tf.lower.boxes import channels_first, elements, polys, scalar
from sirius_tf.lower.entry_values import HOST_LIMIT, small, to_condition, to_poly
from sirius_tf.lower.expand import expand_statement, expand_tensor, forward, varying
from sirius_tf.lower.half import wide, widened
from sirius_tf.lower.params import Params
from sirius_tf.lower.tensors import iterators, literal
from sirius_tf.lower.tensors import load as read
from sirius_tf.lower.value import Value, dim_of
from tests.support.programs import call, i, it, load, stmt, t, tensor

pytestmark = pytest.mark.ir

LOOP = Iter("t", symbol("T"), loop=True)


def test_host_vectors_hold_polynomials() -> None:
    vector = polys([symbol("n"), 3])
    assert elements(vector) == [poly(symbol("n")), poly(3)]
    assert scalar(2).shape == () and elements(scalar(2)) == [poly(2)]
    assert channels_first(Node("c", "Conv2D", attrs={"data_format": "NCHW"}))
    assert not channels_first(Node("c", "Conv2D"))


def body():
    """a = x[t], b = a + w, c = w, in a body that runs once."""
    return [
        stmt("A", [it("i", 4)], "a", [i], load("x", t, i)),
        stmt("B", [it("i", 4)], "b", [i], call("add", load("a", i), load("w", i))),
        stmt("C", [it("i", 4)], "c", [i], load("w", i)),
    ]


def test_what_depends_on_the_iteration_has_a_slice_for_each() -> None:
    found = varying(body(), ["a", "b", "c"], LOOP)
    assert found == {"a", "b"}
    assert varying(body(), ["b", "c"], LOOP) == set()  # a is another loop's
    texts = [show_statement(expand_statement(s, found, LOOP)) for s in body()]
    assert texts == [
        "A: a[t, i] = x[t, i]   for t < T in order, i < 4",
        "B: b[t, i] = a[t, i] + w[i]   for t < T in order, i < 4",
        "C: c[i] = w[i]   for i < 4",
    ]
    assert str(expand_tensor(tensor("a", [4]), symbol("T")).shape[0]) == "T"


def test_what_is_carried_on_is_defined_in_its_place() -> None:
    made = [
        stmt("M", [LOOP, it("i", 4)], "m", [t, i], call("exp", load("h", t, i))),
        stmt("H", [LOOP, it("i", 4)], "h", [t + 1, i], load("m", t, i)),
    ]
    (only,) = forward(made, {"h"}, {"m"})
    assert show_statement(only) == "M: h[t + 1, i] = exp(h[t, i])   for t < T in order, i < 4"
    assert forward(made, {"h"}, set()) == made
    turned = [made[0], stmt("H", made[1].iters, "h", [t + 1, i], load("m", t, 3 - i))]
    assert forward(turned, {"h"}, {"m"}) == turned


def test_half_precision_is_computed_in_float32_and_rounded_once() -> None:
    x = load("x", i, dtype="float16")
    value = widened(call("add", x, Const(0.1, "float16"), dtype="float16"), "float16")
    tenth = float(np.float16(0.1))
    inside = Call("add", (Call("cast", (x,), "float32"), Const(tenth, "float32")), "float32")
    assert value == Call("cast", (inside,), "float16")
    assert widened(x, "float16") == x  # there and back is nothing
    assert (wide("bfloat16"), wide("float64")) == ("float32", "float64")


TENSORS = {
    t.name: t
    for t in (
        tensor("k", [3], "int32", "constant", np.array([5, 6, 7], "int32")),
        tensor("n", [], "int32", "input"),
        tensor("m", [], "uint8", "input"),
        tensor("v", [], "int32"),
    )
}
N, M, V = (Load(name, (), TENSORS[name].dtype) for name in "nmv")


def at(place):
    return Load("k", (affine(place),), "int32")


def test_sizes_of_expressions() -> None:
    params = Params()
    both = Call("add", (at(1), Call("mul", (at(2), Index(symbol("B"), "int32")), "int32")), "int32")
    assert to_poly(both, TENSORS, None) == poly(7) * symbol("B") + 6
    assert to_poly(N, TENSORS, None) is None
    assert to_poly(N, TENSORS, params).is_name
    for unknown in (M, V, Call("sub", (at(0), at(1)), "int32")):
        assert to_poly(unknown, TENSORS, params) is None


def test_conditions_on_entry() -> None:
    known = Call("lt", (at(0), at(1)), "bool")
    assert to_condition(known, TENSORS) == Const(True, "bool")
    given = Call("lt", (N, at(1)), "bool")
    assert to_condition(given, TENSORS) == Call("lt", (N, Const(6, "int32")), "bool")
    assert to_condition(Call("lt", (V, at(1)), "bool"), TENSORS) is None


def test_only_few_integers_are_sizes() -> None:
    def value(count, dtype="int32"):
        return Value(dtype, (dim_of(count),), lambda index: Index(index[0], dtype))

    def place(expr):
        return to_poly(expr, TENSORS, None)

    assert elements(small(value(3), place)) == [poly(0), poly(1), poly(2)]
    assert small(value(HOST_LIMIT), place) is not None
    assert small(value(HOST_LIMIT + 1), place) is None
    assert small(value(3, "float32"), place) is None
    assert small(value(3), lambda expr: None) is None


def test_axes_of_one_element_are_read_at_zero() -> None:
    box = (affine(4), affine(1), affine(5))
    assert [str(k) for k in iterators("r", box)] == ["r0", "r1", "r2"]
    value = read("x", "float32", [(affine(4),), (), (affine(5),)], box)
    assert value.at((i, t)) == load("x", i, 0, t)
    assert literal(poly(1), "bool") == Const(True, "bool")
    assert literal(poly(symbol("n")), "int64") == Index(symbol("n"), "int64")
