# SPDX-License-Identifier: Apache-2.0
"""Which nodes are lowered, and which have effects."""

from sirius_tf.frontend.graph import Argument, Edge, Graph, Node
from sirius_tf.lower.live import has_effect, live_nodes


def branch(*nodes: Node, reads: str = "x") -> Graph:
    arguments = tuple(Argument(name, "float32", ()) for name in ("x", "y"))
    return Graph("branch", arguments, (("out", Edge(reads)),), nodes)


def case(first: Graph, second: Graph) -> Graph:
    """A branch is chosen by k, and takes a and b, which are nodes."""
    nodes = [Node(name, "Exp", (Edge("x"),)) for name in ("a", "b")]
    inputs = (Edge("k"), Edge("a"), Edge("b"))
    nodes.append(Node("case", "Case", inputs, attrs={"branches": ["first", "second"]}))
    bodies = {"first": first, "second": second}
    given = (Argument("k", "int32", ()), Argument("x", "float32", ()))
    return Graph("g", given, (("out", Edge("case")),), tuple(nodes), bodies)


def names(graph: Graph) -> list[str]:
    return [node.name for node in live_nodes(graph)]


def test_what_no_branch_reads_is_left_out() -> None:
    assert names(case(branch(), branch())) == ["a", "case"]
    assert names(case(branch(), branch(reads="y"))) == ["a", "b", "case"]


def test_a_node_that_is_only_passed_on_is_no_reader() -> None:
    unread = Node("exp", "Exp", (Edge("y"),))
    inner = Node("call", "PartitionedCall", (Edge("x"), Edge("exp")), attrs={"f": "first"})
    bodies = {"first": branch()}
    outer = Graph("o", branch().inputs, (("out", Edge("call")),), (unread, inner), bodies)
    assert names(outer) == ["call"]
    assert names(case(outer, branch())) == ["a", "case"]


def test_effects_in_branches_of_a_case_count() -> None:
    checks = Node("check", "Assert", (Edge("y"),))
    graph = case(branch(), branch(checks))
    assert has_effect(graph, graph.by_name["case"])
    assert not has_effect(case(branch(), branch()), graph.by_name["case"])
    assert names(graph) == ["a", "b", "case"]  # the Assert reads b
