# SPDX-License-Identifier: Apache-2.0
"""Branches of TF1 become If on graphs that are written by hand."""

import pytest

from sirius_tf.frontend.branches import fold_branches
from sirius_tf.frontend.editing import Draft
from sirius_tf.frontend.graph import Argument, Edge, Graph, Node

pytestmark = pytest.mark.ir


def node(name, op, *inputs, outputs=1):
    kinds, shapes = ("float32",) * outputs, ((3,),) * outputs
    return Node(name, op, inputs, (), {}, kinds, shapes)


def draft(*nodes, output="merge"):
    arguments = (Argument("x", "float32", (3,)), *(Argument(p, "bool", ()) for p in "pq"))
    return Draft(Graph("g", arguments, (("y", Edge(output)),), nodes))


def switch(name, data, predicate):
    return node(name, "Switch", data, Edge(predicate), outputs=2)


SWITCH = switch("switch", Edge("x"), "p")
THEN = node("then", "Square", Edge("switch", 1))
ELSE = node("else", "Neg", Edge("switch", 0))


@pytest.mark.parametrize("order", [("then", "else"), ("else", "then")])
def test_a_merge_becomes_an_if(order) -> None:
    """Output 1 of a Switch is the branch taken, in whatever order the Merge has them."""
    found = draft(SWITCH, THEN, ELSE, node("merge", "Merge", *map(Edge, order), outputs=2))
    scope = fold_branches(found, set(found.nodes))
    graph = found.finish()
    (made,) = graph.nodes
    assert scope == {made.name}
    assert (made.op, made.inputs) == ("If", (Edge("p"), Edge("x")))
    assert graph.outputs == (("y", Edge(made.name)),)
    assert graph.original(Edge(made.name)) == Edge("merge")
    for key, op in (("then_branch", "Square"), ("else_branch", "Neg")):
        body = graph.bodies[made.attr_str(key)]
        ((_, result),) = body.outputs
        assert body.by_name[result.node].op == op
        assert body.by_name[result.node].inputs == (Edge(body.inputs[0].name),)


def test_a_branch_inside_of_a_branch() -> None:
    inner = switch("inner", Edge("switch", 1), "q")
    merged = node("merged", "Merge", Edge("inner", 0), Edge("inner", 1), outputs=2)
    merge = node("merge", "Merge", Edge("else"), Edge("merged"), outputs=2)
    found = draft(SWITCH, inner, merged, ELSE, merge)
    fold_branches(found, set(found.nodes))
    graph = found.finish()
    (made,) = graph.nodes
    assert made.inputs[0] == Edge("p")
    assert [n.op for n in graph.bodies[made.attr_str("then_branch")].nodes] == ["If"]
    assert [n.op for n in graph.bodies[made.attr_str("else_branch")].nodes] == ["Neg"]


def test_what_two_predicates_guard_is_no_branch() -> None:
    other = switch("other", Edge("x"), "q")
    merge = node("merge", "Merge", Edge("then"), Edge("other", 0), outputs=2)
    found = draft(SWITCH, THEN, other, merge)
    scope = fold_branches(found, set(found.nodes))
    assert scope == set(found.nodes)
    assert not found.changed
