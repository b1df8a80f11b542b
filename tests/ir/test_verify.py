# SPDX-License-Identifier: Apache-2.0
"""Every invariant has a program that breaks it."""

import dataclasses

import numpy as np
import pytest

from sirius_tf.errors import VerifyError
from sirius_tf.ir.expr import Call, Const, Dim, Index, index
from sirius_tf.ir.program import Check, Output, Panels, Param, Reduce, Tiles
from sirius_tf.ir.verify import verify
from tests.support.programs import (
    B,
    F,
    b,
    call,
    copy,
    dense,
    gather,
    i,
    it,
    load,
    lstm,
    param,
    softmax,
    stmt,
    symbol,
    tensor,
)

pytestmark = pytest.mark.ir


@pytest.mark.parametrize("build", [dense, softmax, lstm, gather, copy])
def test_good(build):
    verify(build())


x = load("x", b)
N = symbol("N")
zero = Const(0.0, F)
sum_i = Reduce("add", (it("i", 3),))
temp = tensor("t", [B])
define_t = stmt("D", [it("b", B)], "t", [b], zero)
ids = tensor("ids", [B], "int32", "input")


def constant(shape, value, dtype=F, role="constant"):
    return copy(tensors=[tensor("w", shape, dtype, role, value)])


def output(name, *shape):
    return dataclasses.replace(copy(), outputs=(*copy().outputs, Output(name, shape)))


def loops(*extents):
    """One loop t, in statements that give it different extents."""
    tensors = [tensor(f"t{n}", [5, B]) for n in range(len(extents))]
    statements = [
        stmt(f"L{n}", [it("t", e, True), it("b", B)], f"t{n}", [symbol("t"), b], zero)
        for n, e in enumerate(extents)
    ]
    return copy(tensors=tensors, statements=statements)


BAD = {
    "parameter B is defined twice": copy(params=[param("B", "x", 0)] * 2),
    "N is not bound in parameter B": copy(params=[Param("B", Index(N, "int64"))]),
    "parameter B is float32": copy(params=[Param("B", zero)]),
    "t is read but is no input in parameter": copy(
        params=[Param("B", load("t", 0, dtype="int64"))], tensors=[tensor("t", [2], "int64")]
    ),
    "subscript that is not constant": copy(
        params=[param("B", "x", 0), Param("N", load("ids", B, dtype="int32"))], tensors=[ids]
    ),
    r"dim\(y, 0\) is no extent of an input": copy(params=[param("B", "y", 0)]),
    "not bool": copy(checks=[Check(Index(B, "int64"), "m")]),
    "N is not bound in check": copy(checks=[Check(Call("not", (index(N),), "bool"), "m")]),
    "N is not bound in context": copy(context=[N]),
    "N is not bound in the shape of output": output("y", index(N)),
    "shape of output y is int32": output("y", Index(B, "int32")),
    "tensor t occurs twice": copy(tensors=[temp, temp]),
    "statement D occurs twice": copy(tensors=[temp], statements=[define_t] * 2),
    "N is no parameter in the shape of tensor t": copy(tensors=[tensor("t", [N])]),
    "has the role scratch": copy(tensors=[tensor("t", [B], role="scratch")]),
    "has a value, but its role is temp": constant([2], np.zeros(2, F), role="temp"),
    "value of w is float64": constant([2], np.zeros(2)),
    "value of w has 3 elements, not 2": constant([2], np.zeros(3, F)),
    r"t cannot have Panels\(axis=0\): it is no constant": copy(
        tensors=[dataclasses.replace(tensor("t", [B, 16]), layout=Panels(0))]
    ),
    r"t cannot have Tiles\(axis=2, size=4\)": copy(
        tensors=[dataclasses.replace(tensor("t", [B, 16]), layout=Tiles(2, 4))]
    ),
    "output t has the role temp": dataclasses.replace(
        copy(tensors=[temp], statements=[define_t]), outputs=(Output("t", (index(B),)),)
    ),
    "output q is no tensor": output("q"),
    "input x occurs twice": dataclasses.replace(copy(), inputs=("x", "x")),
    "role output but is not listed": copy(tensors=[tensor("z", [B], role="output")]),
    "role input but is not listed": dataclasses.replace(copy(tensors=[ids]), inputs=("x",)),
    "output y is not defined": dataclasses.replace(copy(), statements=()),
    "tensor t is read but not defined": copy(load("t", b), tensors=[temp]),
}

BAD_STATEMENT = {
    "iterator b occurs twice": copy(iters=[("b", B), ("b", B)]),
    "iterator B has the name of a parameter": copy(iters=[("b", B), ("B", 3)]),
    "N is no parameter in the extent of b": copy(iters=[("b", N)]),
    "i is no parameter in the extent of b": copy(iters=[("i", 3), ("b", i)]),
    "loop t has the extents 4 and 5": loops(4, 5),
    "loop iterator comes after": copy(iters=[("b", B), ("t", 3, True)]),
    "loop iterator is reduced": copy(
        iters=[("b", B, True)], reduce=Reduce("add", (it("t", 3, True),))
    ),
    "no reduction xor": copy(reduce=Reduce("xor", (it("i", 3),))),
    "q is no tensor": copy(statements=[stmt("D", [], "q", [], zero)]),
    "input x is written": copy(statements=[stmt("D", [it("b", B)], "x", [b], zero)]),
    "constant w is written": copy(
        tensors=[tensor("w", [B], role="constant")],
        statements=[stmt("D", [it("b", B)], "w", [b], zero)],
    ),
    "y has rank 1, not 2": copy(target=(b, b)),
    "y is float32, its value int64": copy(Index(b, "int64")),
    "subscripted by the reduction iterator i": copy(target=(b + i,), reduce=sum_i),
    "N is not bound": copy(Index(N, F)),
    "j is not bound": copy(target=(symbol("j"),)),
    "i is not bound": copy(load("x", i)),
    "is only for parameters": copy(Dim("x", 0, F)),
    "q is no tensor in": copy(load("q", b)),
    "x has rank 1, not 2": copy(load("x", b, b)),
    "x is float32, not float64": copy(call("cast", load("x", b, dtype="float64"))),
    "not bounded": copy(load("x", call("neg", Const(1, "int32"), dtype="int32"))),
    "no function frob": copy(call("frob", x)),
    "exp takes 1 arguments, not 2": copy(call("exp", x, x)),
    "lt is a bool, not float32": copy(call("lt", x, x)),
    "index x.b. is float32": copy(load("x", call("bounded", x, Const(3, "int32")))),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_program(message):
    with pytest.raises(VerifyError, match=message):
        verify(BAD[message])


@pytest.mark.parametrize("message", BAD_STATEMENT)
def test_bad_statement_is_quoted(message):
    p = BAD_STATEMENT[message]
    with pytest.raises(VerifyError, match=message) as caught:
        verify(p)
    assert str(caught.value).split(" in\n  ")[1].startswith(p.statements[-1].name + ": ")
