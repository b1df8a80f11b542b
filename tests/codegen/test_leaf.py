# SPDX-License-Identifier: Apache-2.0
"""Leaves of odd sizes, for both instruction sets.

The text for x86-64-v4 runs here on any machine: it is compiled with its 16 lanes for x86-64-v3.
"""

from dataclasses import replace

import numpy as np
import pytest

from sirius_tf.bundle import link as link_module
from sirius_tf.bundle.link import link
from sirius_tf.codegen.cpu import leaf
from sirius_tf.codegen.cpu.kernel import print_run
from sirius_tf.compile import compile_program, schedule_program
from sirius_tf.ir import interp
from sirius_tf.ir.affine import symbol
from sirius_tf.ir.expr import Const, Index
from sirius_tf.ir.program import Program, Reduce
from sirius_tf.runtime import native
from sirius_tf.schedule.plan import Plan
from sirius_tf.schedule.storage import Storage
from tests.support import saved
from tests.support.programs import (
    B,
    b,
    call,
    dense,
    i,
    it,
    j,
    k,
    load,
    param,
    program,
    softmax,
    stmt,
    tensor,
)

DEPTHS, WIDTHS, ROWS = (1, 7, 33, 150), (1, 7, 16, 33, 80), (1, 2, 5, 7, 33)


def elementwise(name, dtype, value, width=21):
    """y[b, i] = value, of an input x[b, i] of `dtype`; y is what value is."""
    box = [it("b", B), it("i", width)]
    return program(
        name,
        [param("B", "x", 0)],
        [
            tensor("x", [B, width], dtype, role="input"),
            tensor("y", [B, width], value.dtype, role="output"),
        ],
        [stmt("S", box, "y", [b, i], value)],
        [B, width],
    )


def transposed_sum(name, op):
    """y[i] = op over b of x[b, i], and of the rows of x read backwards."""
    box = [it("i", 37)]
    value = call("add", load("x", k, i), load("x", k, 36 - i))
    return program(
        name,
        [param("B", "x", 0)],
        [tensor("x", [B, 37], role="input"), tensor("y", [37], role="output")],
        [stmt("S", box, "y", [i], value, Reduce(op, (it("k", B),)))],
        [37],
    )


def squares(depth):
    """y[b] = sum over k of x[b, k] * x[b, k]: a sum along lanes."""
    term = call("mul", load("x", b, k), load("x", b, k))
    return program(
        f"squares_{depth}",
        [param("B", "x", 0)],
        [tensor("x", [B, depth], role="input"), tensor("y", [B], role="output")],
        [stmt("S", [it("b", B)], "y", [b], term, Reduce("add", (it("k", depth),)))],
        [B],
    )


def wide_convolution(name, channels):
    """y[b, i, j] = sum over k, l of x[b, 2 i + k, l] * w[k, l, j]: a strided 1-d convolution."""
    weights = np.random.default_rng(2).standard_normal((3, 5, channels)).astype("f")
    l = it("l", 5)  # noqa: E741
    x_at = load("x", b, 2 * i + k, symbol("l"))
    value = call("mul", x_at, load("w", k, symbol("l"), j))
    return program(
        name,
        [param("B", "x", 0)],
        [
            tensor("x", [B, 43, 5], role="input"),
            tensor("w", [3, 5, channels], role="constant", value=weights),
            tensor("y", [B, 21, channels], role="output"),
        ],
        [
            stmt(
                "S",
                [it("b", B), it("i", 21), it("j", channels)],
                "y",
                [b, i, j],
                value,
                Reduce("add", (it("k", 3), l)),
            )
        ],
        [B, 21, channels],
    )


def cases() -> list[Program]:
    """Every kind of leaf, by a name of its own."""
    x32, xi, xb = load("x", b, i), load("x", b, i, dtype="int32"), load("x", b, i, dtype="bool")
    zero = Const(0.0, "float32")
    positive = call("gt", x32, zero, dtype="bool")
    position = Index(3 * i + b - 7, "int32")
    chosen = call("select", call("lt", xi, position, dtype="bool"), xi, position, dtype="int32")
    made = [
        replace(dense(depth, width), name=f"dense_{depth}_{width}")
        for depth in DEPTHS
        for width in WIDTHS
    ]
    made += [replace(softmax(width), name=f"softmax_{width}") for width in (1, 7, 33)]
    made += [squares(depth) for depth in (7, 29, 150, 500)]
    made += [transposed_sum("sum_rows", "add"), transposed_sum("max_rows", "max")]
    made += [wide_convolution("conv_8", 8), wide_convolution("conv_33", 33)]
    made += [
        elementwise("to_bool", "float32", positive),
        elementwise("of_bool", "bool", call("cast", call("not", xb, dtype="bool"))),
        elementwise("widen", "int32", call("cast", xi, dtype="int64")),
        elementwise("choose", "int32", chosen),
        elementwise("flip", "float32", call("exp", load("x", b, 20 - i))),
        elementwise("integers", "int32", call("floordiv", xi, Const(-3, "int32"), dtype="int32")),
    ]
    return made


def test_lanes_that_go_backward_are_vectors() -> None:
    """Of what is a stride apart, too: else the code is right, and slow."""
    (flip,) = (made for made in cases() if made.name == "flip")
    text = print_run(schedule_program(flip), "v3")
    assert "sr_strided_f32(" in text and ")[0]" not in text


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    made = {}
    for isa in ("v3", "v4"):
        path = tmp_path_factory.mktemp("leaves") / "bundle.so"
        with pytest.MonkeyPatch.context() as patch:
            if isa == "v4":
                march = ("-march=x86_64_v3", "-DSIRIUS_LANES=16")
                patch.setitem(link_module.MARCH, "v3", march)
                patch.setitem(leaf.ISAS, "v3", leaf.ISAS["v4"])
            link([compile_program(p) for p in cases()], path, {}, isas=["v3"])
        made[isa] = native.Bundle(path)
    return made


@pytest.fixture(params=["v3", "v4"])
def bundle(request, bundles):
    return bundles[request.param]


@pytest.mark.parametrize("made", cases(), ids=lambda p: p.name)
@pytest.mark.parametrize("rows", ROWS)
def test_a_leaf_computes_what_the_interpreter_does(bundle, made, rows) -> None:
    rng = np.random.default_rng(rows)
    tensor_ = made.tensor["x"]
    shape = [extent.evaluate({"B": rows}) for extent in tensor_.shape]
    x = (rng.standard_normal(shape) * 3).astype(tensor_.dtype)
    (want,) = interp.run(made, {"x": x})
    (have,) = bundle.call(made.name, [x], 1)
    assert have.dtype == want.dtype
    np.testing.assert_allclose(have, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("made", cases(), ids=lambda p: p.name)
def test_bits_depend_on_neither_the_instruction_set_nor_other_rows(bundles, made) -> None:
    shape = [extent.evaluate({"B": max(ROWS)}) for extent in made.tensor["x"].shape]
    x = (np.random.default_rng(1).standard_normal(shape) * 3).astype(made.tensor["x"].dtype)
    (all_rows,) = bundles["v3"].call(made.name, [x], 1)
    by_row = made.tensor["y"].shape[0] == B
    for rows in ROWS if by_row else (max(ROWS),):
        for bundle in bundles.values():
            (some,) = bundle.call(made.name, [x[:rows]], 1)
            want = all_rows[:rows] if by_row else all_rows
            np.testing.assert_array_equal(some, want, strict=True)


def test_leaves_that_are_alike_are_printed_once(monkeypatch) -> None:
    """Layers that differ by their weights; the text is as if each were printed."""

    def print_leaf(program, made, *rest):
        printed.append(made.statement.name)
        return real(program, made, *rest)

    scheduled, printed, real = schedule_program(saved.read("two_layers")), [], leaf.print_leaf
    monkeypatch.setattr(leaf, "print_leaf", print_leaf)
    text, once = print_run(scheduled, "v3"), list(printed)
    printed.clear()
    monkeypatch.setattr(leaf, "alike", lambda program, made, *_: (made.statement.name, []))
    assert print_run(scheduled, "v3") == text
    assert set(once) < set(printed)


def test_zeros_of_either_sign_are_not_alike() -> None:
    def key(value):
        s = stmt("y", [it("i", 4)], "y", (i,), Const(value, "float32"))
        written = program("p", [], [tensor("y", (4,), role="output")], [s], (4,))
        return leaf.alike(written, leaf.Leaf(s, ()), Plan(None), Storage())[0]

    assert key(0.0) == key(0.0) != key(-0.0)
