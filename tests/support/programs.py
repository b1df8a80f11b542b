# SPDX-License-Identifier: Apache-2.0
"""Small programs, written by hand, that several tests share."""

from dataclasses import replace

import numpy as np

from sirius_tf.ir.affine import affine, symbol
from sirius_tf.ir.expr import Call, Const, Dim, Load, index
from sirius_tf.ir.program import (
    UNLIMITED,
    Iter,
    Output,
    Param,
    Program,
    Reduce,
    Statement,
    Tensor,
)
from sirius_tf.pipeline import PIPELINE, run

B, T = symbol("B"), symbol("T")
b, i, j, k, t = (symbol(name) for name in "bijkt")
F = "float32"


def it(name, extent, loop=False):
    return Iter(name, affine(extent), loop)


def load(tensor, *subscripts, dtype=F):
    return Load(tensor, tuple(s if isinstance(s, Call) else affine(s) for s in subscripts), dtype)


def call(fn, *args, dtype=F):
    return Call(fn, args, dtype)


def param(name, tensor, axis, minimum=0, hint=4):
    return Param(name, Dim(tensor, axis), minimum, hint)


def tensor(name, shape, dtype=F, role="temp", value=None):
    return Tensor(name, tuple(affine(s) for s in shape), dtype, role, value)


def stmt(name, iters, target, subscripts, value, reduce=None, origin=()):
    return Statement(
        name, tuple(iters), target, tuple(affine(s) for s in subscripts), value, reduce, origin
    )


def program(name, params, tensors, statements, shape, checks=(), context=()):
    """One output, `y`."""
    inputs = tuple(t.name for t in tensors if t.role == "input")
    output = Output("y", tuple(index(s) for s in shape))
    return Program(
        name,
        tuple(params),
        tuple(checks),
        tuple(context),
        tuple(tensors),
        tuple(statements),
        inputs,
        (output,),
    )


def simplified(program, passes=PIPELINE):
    """The program behind the passes that know nothing of a target."""
    return run(program, pipeline=passes.before("overlap"))[0]


def dense(depth=499, width=16):
    weights = np.random.default_rng(0).standard_normal((depth, width)).astype(F)
    n = symbol("n")
    return program(
        "dense",
        [param("B", "x", 0, minimum=1, hint=8)],
        [
            tensor("x", [B, depth], role="input"),
            tensor("w", [depth, width], role="constant", value=weights),
            tensor("y", [B, width], role="output"),
        ],
        [
            stmt(
                "S3",
                [it("b", B), it("n", width)],
                "y",
                [b, n],
                call("mul", load("x", b, k), load("w", k, n)),
                Reduce("add", (it("k", depth),)),
                ("dense/MatMul",),
            )
        ],
        [B, width],
        context=[B - 1],
    )


def softmax(width=5):
    dom = [it("b", B), it("i", width)]
    over = (it("j", width),)
    exp = call("exp", call("sub", load("x", b, i), load("m", b)))
    return program(
        "softmax",
        [param("B", "x", 0)],
        [
            tensor("x", [B, width], role="input"),
            tensor("m", [B]),
            tensor("e", [B, width]),
            tensor("s", [B]),
            tensor("y", [B, width], role="output"),
        ],
        [  # not in the order of execution
            stmt("S3", dom, "y", [b, i], call("div", load("e", b, i), load("s", b))),
            stmt("S2", [it("b", B)], "s", [b], load("e", b, j), Reduce("add", over)),
            stmt("S0", [it("b", B)], "m", [b], load("x", b, j), Reduce("max", over)),
            stmt("S1", dom, "e", [b, i], exp),
        ],
        [B, width],
    )


def lstm(units=3):
    """c and h of a cell whose four gates are the columns of h[t] * u + x[t]."""

    def gate(number):
        return load("z", t, b, i + number * units)

    loop, row, unit = it("t", T, loop=True), it("b", B), it("i", units)
    wide = it("i", 4 * units)
    sig = [call("sigmoid", gate(g)) for g in range(3)]
    new_c = call(
        "add",
        call("mul", sig[1], load("c", t, b, i)),
        call("mul", sig[0], call("tanh", gate(3))),
    )
    zero = Const(0.0, F)
    return program(
        "lstm",
        [param("T", "x", 0), param("B", "x", 1)],
        [
            tensor("x", [T, B, 4 * units], role="input"),
            tensor("u", [units, 4 * units], role="input"),
            tensor("hu", [T, B, 4 * units]),
            tensor("z", [T, B, 4 * units]),
            tensor("c", [T + 1, B, units]),
            tensor("h", [T + 1, B, units]),
            tensor("y", [B, units], role="output"),
        ],
        [
            stmt("out", [row, unit], "y", [b, i], load("h", T, b, i)),
            stmt(
                "h1",
                [loop, row, unit],
                "h",
                [t + 1, b, i],
                call("mul", sig[2], call("tanh", load("c", t + 1, b, i))),
            ),
            stmt("c1", [loop, row, unit], "c", [t + 1, b, i], new_c),
            stmt(
                "z",
                [loop, row, wide],
                "z",
                [t, b, i],
                call("add", load("x", t, b, i), load("hu", t, b, i)),
            ),
            stmt(
                "hu",
                [loop, row, wide],
                "hu",
                [t, b, i],
                call("mul", load("h", t, b, j), load("u", j, i)),
                Reduce("add", (it("j", units),)),
            ),
            stmt("c0", [row, unit], "c", [0, b, i], zero),
            stmt("h0", [row, unit], "h", [0, b, i], zero),
        ],
        [B, units],
    )


def growth(*width):
    """y[t] = x * 1.001^t while that is less than 2, at most T of them: data decides how many. With
    a width, rows of equal numbers."""
    end, columns = symbol("X"), [it("j", w) for w in width]
    at, first = [j for _ in width], [0 for _ in width]
    go, h = load("go", t, dtype="bool"), load("h", t, *at)
    step = [it("t", end, loop=True)]
    return program(
        "growth",
        [Param("T", Load("limit", (), "int64")), Param("X", index(T), hint=4, exit=go)],
        [
            tensor("x", [], role="input"),
            tensor("limit", [], "int64", role="input"),
            tensor("go", [T + 1], "bool"),
            tensor("h", [T + 1, *width]),
            tensor("y", [end, *width], role="output"),
        ],
        [
            stmt("h0", columns, "h", [0, *at], load("x")),
            stmt("go0", [], "go", [0], _going(0, load("x"))),
            stmt("h1", [*step, *columns], "h", [t + 1, *at], call("mul", h, Const(1.001, F))),
            stmt("go1", step, "go", [t + 1], _going(t + 1, load("h", t + 1, *first))),
            stmt("out", [it("i", end), *columns], "y", [i, *at], load("h", i, *at)),
        ],
        [end, *width],
        context=[T - end],
    )


def _going(iteration, value):
    """Whether an iteration of `growth` is run: its value is small, and there is room."""
    room = call("lt", index(iteration, "int64"), index(T, "int64"), dtype="bool")
    return call("and", room, call("lt", value, Const(2.0, F), dtype="bool"), dtype="bool")


def endless():
    """y = x * 0.5^X where X is the first t with x * 0.5^t < 1, which an infinite x never is."""
    bound, end, go = symbol("N"), symbol("X"), load("go", t, dtype="bool")
    step, unlimited = [it("t", end, loop=True)], Const(UNLIMITED, "int64")

    def more(value):
        return call("le", Const(1.0, F), value, dtype="bool")

    return program(
        "endless",
        [Param("N", unlimited, hint=4), Param("X", unlimited, hint=4, exit=go)],
        [
            tensor("x", [], role="input"),
            tensor("go", [bound + 1], "bool"),
            tensor("h", [bound + 1]),
            tensor("y", [], role="output"),
        ],
        [
            stmt("h0", [], "h", [0], load("x")),
            stmt("go0", [], "go", [0], more(load("x"))),
            stmt("h1", step, "h", [t + 1], call("mul", load("h", t), Const(0.5, F))),
            stmt("go1", step, "go", [t + 1], more(load("h", t + 1))),
            stmt("out", [], "y", [], load("h", end)),
        ],
        [],
        context=[bound - end],
    )


def counted():
    """y[b] = x[b] + n, one at a time, for as large an n as the input says."""
    n = symbol("n")
    return program(
        "counted",
        [param("B", "x", 0), Param("n", Load("count", (), "int64"))],
        [
            tensor("x", [B], role="input"),
            tensor("count", [], "int64", role="input"),
            tensor("h", [n + 1, B]),
            tensor("y", [B], role="output"),
        ],
        [
            stmt("h0", [it("b", B)], "h", [0, b], load("x", b)),
            stmt(
                "h1",
                [it("t", n, loop=True), it("b", B)],
                "h",
                [t + 1, b],
                call("add", load("h", t, b), Const(1.0, F)),
            ),
            stmt("out", [it("b", B)], "y", [b], load("h", n, b)),
        ],
        [B],
    )


def squares():
    """y[i] = sum over j of x[i] * x[j]: a long phase of short tiles, and little memory."""
    product = call("mul", load("x", i), load("x", j))
    return program(
        "squares",
        [param("B", "x", 0, hint=1000)],
        [tensor("x", [B], role="input"), tensor("y", [B], role="output")],
        [stmt("sum", [it("i", B)], "y", [i], product, Reduce("add", (it("j", B),)))],
        [B],
    )


def uneven():
    """s[i] = sum over j of x[i] * x[j], y[i] = sum over j, k of x[i] * (s[j] - s[k]): short tiles
    in one phase, and long ones in the next."""
    first = call("mul", load("x", i), load("x", j))
    second = call("mul", load("x", i), call("sub", load("s", j), load("s", k)))
    inner = (it("j", B), it("k", B))
    return program(
        "uneven",
        [param("B", "x", 0, hint=1000)],
        [tensor("x", [B], role="input"), tensor("s", [B]), tensor("y", [B], role="output")],
        [
            stmt("short", [it("i", B)], "s", [i], first, Reduce("add", (it("j", B),))),
            stmt("long", [it("i", B)], "y", [i], second, Reduce("add", inner)),
        ],
        [B],
    )


def gather(rows=4):
    at = call("bounded", load("ids", b, dtype="int32"), Const(rows, "int32"), dtype="int32")
    return program(
        "gather",
        [param("B", "ids", 0)],
        [
            tensor("ids", [B], "int32", "input"),
            tensor("table", [rows, 2], role="input"),
            tensor("y", [B, 2], role="output"),
        ],
        [stmt("S", [it("b", B), it("i", 2)], "y", [b, i], load("table", at, i))],
        [B, 2],
    )


def copy(value=None, target=(b,), iters=(("b", B),), reduce=None, **options):
    """y[b] = x[b], to be varied."""
    return program(
        "copy",
        options.pop("params", [param("B", "x", 0)]),
        [
            tensor("x", [B], role="input"),
            tensor("y", [B], role="output"),
            *options.pop("tensors", []),
        ],
        [
            stmt("S", [it(*i) for i in iters], "y", target, value or load("x", b), reduce),
            *options.pop("statements", []),
        ],
        [B],
        **options,
    )


def ge(name, bound):
    return Call("ge", (index(symbol(name)), index(bound)), "bool")


def random_inputs(program: Program, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        name: rng.standard_normal([e.evaluate(sizes) for e in program.tensor[name].shape]).astype(
            program.tensor[name].dtype
        )
        for name in program.inputs
    }


def scaled(program: Program, factor: float) -> Program:
    """The program with other values of its constants."""
    tensors = tuple(
        t if t.value is None else replace(t, value=t.value * np.asarray(factor, t.value.dtype))
        for t in program.tensors
    )
    return replace(program, tensors=tensors)


def recurrence() -> Program:
    """h[t+1] = tanh(x[t] W + h[t] U): the input product does not depend on the loop."""
    h = symbol("H")
    step, row, column = Iter("t", T, loop=True), Iter("b", B), Iter("j", h)
    over = Reduce("add", (Iter("k", h),))
    statements = (
        Statement("init", (row, column), "h", (affine(0), b, j), Const(0.0, "float32")),
        Statement(
            "xw",
            (step, row, column),
            "p",
            (t, b, j),
            call("mul", load("x", t, b, k), load("w", k, j)),
            over,
        ),
        Statement(
            "hu",
            (step, row, column),
            "q",
            (t, b, j),
            call("mul", load("h", t, b, k), load("u", k, j)),
            over,
        ),
        Statement(
            "cell",
            (step, row, column),
            "h",
            (t + 1, b, j),
            call("tanh", call("add", load("p", t, b, j), load("q", t, b, j))),
        ),
        Statement("last", (row, column), "y", (b, j), load("h", T, b, j)),
    )
    shapes = {"x": (T, B, h), "w": (h, h), "u": (h, h), "h": (T + 1, B, h), "p": (T, B, h)}
    shapes |= {"q": (T, B, h), "y": (B, h)}
    roles = {"x": "input", "w": "input", "u": "input", "y": "output"}
    tensors = tuple(
        Tensor(n, s, "float32", roles.get(n, "temp"))  # type: ignore[arg-type]
        for n, s in shapes.items()
    )
    params = tuple(Param(n, Const(1, "int64"), minimum=1) for n in "TBH")
    return Program("rnn", params, (), (), tensors, statements, ("x", "w", "u"), (Output("y", ()),))


def softmax_of(rows: int = 8, columns: int = 100) -> Program:
    """Softmax of M rows of N columns; these are the hints."""
    m, n = symbol("M"), symbol("N")
    over = (Iter("k", n),)
    row, column = Iter("i", m), Iter("j", n)
    statements = (
        Statement("top", (row,), "m", (i,), load("x", i, k), Reduce("max", over)),
        Statement(
            "raised",
            (row, column),
            "e",
            (i, j),
            call("exp", call("sub", load("x", i, j), load("m", i))),
        ),
        Statement("total", (row,), "s", (i,), load("e", i, k), Reduce("add", over)),
        Statement("share", (row, column), "y", (i, j), call("div", load("e", i, j), load("s", i))),
    )
    shapes = {"x": (m, n), "m": (m,), "e": (m, n), "s": (m,), "y": (m, n)}
    tensors = tuple(
        Tensor(n, s, "float32", "input" if n == "x" else "output" if n == "y" else "temp")
        for n, s in shapes.items()
    )
    params = (
        Param("M", Const(1, "int64"), minimum=1, hint=rows),
        Param("N", Const(1, "int64"), minimum=1, hint=columns),
    )
    return Program("softmax", params, (), (), tensors, statements, ("x",), (Output("y", ()),))
