# SPDX-License-Identifier: Apache-2.0
"""The variables that a graph assigns and restores, on nodes that are written by hand."""

from types import SimpleNamespace

import pytest

from sirius_tf.frontend.variables import Saved, Tracked, Variables

pytestmark = pytest.mark.ir


def attr(func=None, tensor=None):
    """An AttrValue, of a function or of strings."""
    return SimpleNamespace(
        HasField=lambda field: field == "func" and func is not None,
        func=SimpleNamespace(name=func),
        list=SimpleNamespace(func=()),
        tensor=SimpleNamespace(string_val=tensor),
    )


def node(name, op, *inputs, **attrs):
    return SimpleNamespace(name=name, op=op, input=inputs, attr=attrs)


def strings(name, *values):
    return node(name, "Const", value=attr(tensor=[v.encode() for v in values]))


def function(name, arguments, *nodes):
    inputs = [SimpleNamespace(name=a) for a in arguments]
    return SimpleNamespace(signature=SimpleNamespace(name=name, input_arg=inputs), node_def=nodes)


def variables(*nodes, library=(), references=()):
    graph = SimpleNamespace(node=nodes, library=SimpleNamespace(function=library))
    return Variables(SimpleNamespace(graph_def=graph), references.__contains__)


V, W = node("v", "VarHandleOp"), node("w", "VarHandleOp")
RESTORE = (
    strings("keys", "first", "second"),
    strings("parts", ""),
    node("restore", "RestoreV2", "prefix", "keys", "parts"),
    node("copy", "Identity", "restore:1"),
)


def test_the_entry_of_a_variable_is_what_its_assignment_restores() -> None:
    found = variables(
        *(V, W, *RESTORE),
        node("left", "AssignVariableOp", "v", "copy"),
        node("right", "AssignVariableOp", "w", "restore"),
        node("all", "NoOp", "^left", "^right"),
        node("part", "NoOp", "^left"),
    )
    assert found.saved("all") == {"v": Saved("second", ""), "w": Saved("first", "")}
    assert found.saved("part:0") == {"v": Saved("second", "")}
    assert found.saved("nothing") == {}
    assert found.assigned(["all"]) == set()  # to restore is not to assign


def test_a_restoring_function_is_followed() -> None:
    body = function(
        "f",
        ["handle"],
        *RESTORE,
        node("assign", "AssignVariableOp", "handle", "copy:output:0"),
    )
    call = node("call", "StatefulPartitionedCall", "w", f=attr("f"))
    assert variables(W, call, library=[body]).saved("call") == {"w": Saved("second", "")}


def test_what_may_assign_a_variable() -> None:
    nodes = (
        *(V, W, node("old", "VariableV2")),
        node("read", "ReadVariableOp", "v"),
        node("copy", "Identity", "w"),
        node("add", "AssignAddVariableOp", "copy", "read"),
        node("sum", "Add", "old", "old"),
        node("set", "Assign", "old", "sum"),
    )
    found = variables(*nodes, references=["Assign"])
    assert found.assigned(["read:0"]) == set()
    assert found.assigned(["^add"]) == {"w"}
    assert found.assigned(["sum"]) == set()  # which takes the value of a reference
    assert found.assigned(["add", "set"]) == {"w", "old"}


def test_the_arguments_that_functions_assign() -> None:
    """Input 1 of an If is argument 0 of its branches; a function may call itself."""
    add = node("add", "AssignAddVariableOp", "b", "one")
    again = node("again", "PartitionedCall", "b", "a", f=attr("g"))
    library = [
        function("f", ["a", "b"], add),
        function("g", ["a", "b"], again, node("first", "PartitionedCall", "a", "b", f=attr("f"))),
    ]
    choice = node("if", "If", "p", "v", "w", "^v", then_branch=attr("f"))
    found = variables(V, W, choice, node("call", "Unknown", "v", f=attr("f")), library=library)
    assert found.argument_count("f") == 2
    assert found.argument_count("h") == 0
    assert found.assigned_arguments("f") == {1}
    assert found.assigned_arguments("g") == {0, 1}  # the second call of itself swaps them
    assert found.assigned(["if"]) == {"w"}
    assert found.assigned(["call"]) == {"v"}  # by what is not understood


def test_objects_are_the_same_where_their_paths_are() -> None:
    def children(**names):
        pairs = [SimpleNamespace(local_name=n, node_id=k) for n, k in names.items()]
        return SimpleNamespace(children=pairs, attributes=())

    key = SimpleNamespace(checkpoint_key="layer/kernel")
    ours = [children(layer=1, other=3), children(kernel=2, itself=0), children(), children()]
    theirs = [children(layer=2), children(), children(kernel=1, itself=0)]
    theirs[1].attributes = [key]
    objects = SimpleNamespace(nodes=ours)
    meta_graph = SimpleNamespace(object_graph_def=objects)
    tracked = Tracked.of(meta_graph, SimpleNamespace(nodes=theirs))
    assert tracked.same == {0: 0, 1: 2, 2: 1}
    assert tracked.keys(2) == ["layer/kernel"]
    assert tracked.keys(3) == []
