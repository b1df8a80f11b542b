# SPDX-License-Identifier: Apache-2.0
"""The function that a wrapper hands its arguments on to, in libraries made by hand."""

import pytest
from google.protobuf import text_format
from tensorflow.core.framework import function_pb2

from sirius_tf.rewrite.methods import Forwarded, forwarded


def function(name, arguments, results, *nodes):
    """A function of floats: `results` are tensors, nodes (name, op, inputs, called function)."""
    inputs = "".join(f"input_arg {{ name: '{a}' type: DT_FLOAT }}" for a in arguments.split())
    names = [f"r{k}" for k in range(len(results.split()))]
    outputs = "".join(f"output_arg {{ name: '{n}' type: DT_FLOAT }}" for n in names)
    text = f"signature {{ name: '{name}' {inputs} {outputs} }}"
    for n, tensor in zip(names, results.split(), strict=True):
        text += f"ret {{ key: '{n}' value: '{tensor}' }}"
    for node, op, reads, *called in nodes:
        given = "".join(f"input: '{tensor}' " for tensor in reads.split())
        attrs = "".join(f"attr {{ key: 'f' value {{ func {{ name: '{f}' }} }} }}" for f in called)
        text += f"node_def {{ name: '{node}' op: '{op}' {given} {attrs} }}"
    return text_format.Parse(text, function_pb2.FunctionDef())


F = function("f", "a b", "s:z:0 t:z:0", ("s", "Add", "a b"), ("t", "Sub", "a b"))
CALL = ("c", "StatefulPartitionedCall", "y x", "f")
WRAPPER = function("g", "x y z", "i:output:0", CALL, ("i", "Identity", "c:output:1"))


def found(*functions):
    return forwarded({f.signature.name: f for f in functions}, functions[0].signature.name)


def test_arguments_and_results_change_places() -> None:
    assert found(WRAPPER, F) == Forwarded("f", (1, 0), (1,))
    call = ("d", "PartitionedCall", "p q r", "g")
    assert found(function("h", "r q p", "d:output:0", call), WRAPPER, F) == Forwarded(
        "f", (1, 2), (1,)
    )


@pytest.mark.parametrize(
    "nodes",
    [
        (CALL, ("n", "Neg", "x"), ("i", "Identity", "c:output:1")),
        (CALL, ("d", *CALL[1:]), ("i", "Identity", "c:output:1")),
        (CALL, ("i", "Identity", "x")),
        (("k", "Const", ""), ("c", *CALL[1:2], "y k:output:0", "f"), ("i", "Identity", "c:o:1")),
    ],
    ids=["computes", "calls twice", "returns an argument", "has a constant"],
)
def test_a_function_that_does_anything_else_answers_itself(nodes) -> None:
    one = function("g", "x y z", "i:output:0", *nodes)
    assert found(one, F) == Forwarded("g", (0, 1, 2), (0,))
