# SPDX-License-Identifier: Apache-2.0
"""Groups of nodes are replaced as a whole, or not at all."""

from dataclasses import replace

import pytest

from sirius_tf.frontend.editing import Draft, needs, ordered
from sirius_tf.frontend.graph import Argument, Edge, Graph, Node

pytestmark = pytest.mark.ir


def node(name, *inputs, op="Neg", after=()):
    edges = tuple(map(Edge, inputs))
    return Node(name, op, edges, tuple(after), dtypes=("float32",), shapes=((3,),))


def draft(*nodes, output="d"):
    return Draft(
        Graph("g", (Argument("x", "float32", (3,)),), (("y", Edge(output)),), tuple(nodes))
    )


A, B, C, D = node("a", "x"), node("b", "a"), node("c", "b"), node("d", "c")


def standing(*inputs, results=("c",)):
    """A node in place of others, with these results."""
    kinds, edges = ("float32",) * len(results), tuple(map(Edge, results))
    made = node("made", *inputs, op="If")
    return replace(made, dtypes=kinds, shapes=((3,),) * len(results), results=edges)


def test_members_become_one_node() -> None:
    found = draft(A, B, C, D)
    assert found.replace(["b", "c"], standing("a"))
    graph = found.finish()
    assert [n.name for n in graph.nodes] == ["a", "made", "d"]
    assert graph.by_name["made"].stands_for == ("b", "c")
    assert graph.by_name["d"].inputs == (Edge("made"),)
    assert graph.original(Edge("made")) == Edge("c")


def test_the_output_of_a_graph_follows() -> None:
    found = draft(A, B, C, output="c")
    assert found.replace(["b", "c"], standing("a"))
    assert found.finish().outputs == (("y", Edge("made")),)


def test_what_members_wait_for_is_waited_for() -> None:
    found = draft(A, node("b", "a", after=["w"]), C, D, node("w", "x"))
    assert found.replace(["b", "c"], standing("a"))
    assert found.nodes["made"].control_inputs == ("w",)


@pytest.mark.parametrize(
    ("nodes", "made"),
    [
        ((A, B, C, D), standing("x")),  # what b reads is no input
        ((A, B, C, node("d", "c", "b")), standing("a")),  # b is read, too
        ((A, B, C, node("d", "c", after=["b"])), standing("a")),  # or waited for
        ((A, B, C, D), standing("a", results=("b",))),  # c is read
        ((A, B, C, D), standing("a", "d")),  # a cycle
    ],
)
def test_nothing_is_lost(nodes, made) -> None:
    found = draft(*nodes)
    before = dict(found.nodes)
    assert not found.replace(["b", "c"], made)
    assert found.nodes == before and not found.changed


def test_nodes_come_after_what_they_need() -> None:
    nodes = {n.name: n for n in (D, C, B, A)}
    assert [n.name for n in ordered(nodes, ["d"])] == ["a", "b", "c", "d"]
    assert [n.name for n in ordered(nodes, ["b"])] == ["a", "b"]
    loop = {"next": node("next", "merge", op="NextIteration"), "merge": node("merge", "next")}
    assert [n.name for n in ordered(loop, ["next"], acyclic=True)] == ["next"]
    assert list(needs(node("n", "a", after=["w"]))) == ["a", "w"]


def test_a_name_that_is_free() -> None:
    found = draft(A, node("a_", "x"))
    assert (found.unused("a"), found.unused("x"), found.unused("new")) == ("a__", "x_", "new")
