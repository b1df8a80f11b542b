# SPDX-License-Identifier: Apache-2.0
"""A graph being changed: groups of its nodes become functional nodes, one at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from sirius_tf.frontend.graph import Argument, Edge, Graph, Node, Shape


class Draft:
    """The nodes and bodies of a graph; a group of nodes is replaced as a whole or not at all."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes = dict(graph.by_name)
        self.bodies = dict(graph.bodies)
        self._outputs = list(graph.outputs)
        self.changed = False

    def finish(self) -> Graph:
        """The graph as it is now."""
        nodes = ordered(self.nodes, self.nodes)
        bodies = _called(nodes, self.bodies)
        return replace(self.graph, outputs=tuple(self._outputs), nodes=nodes, bodies=bodies)

    def type(self, edge: Edge) -> tuple[str, Shape | None]:
        """The dtype and the static shape of what an edge carries."""
        if edge.node in self.nodes:
            node = self.nodes[edge.node]
            return node.dtypes[edge.output], node.shapes[edge.output]
        return self.graph.dtype(edge), self.graph.shape(edge)

    def unused(self, name: str) -> str:
        """A name that no node or body has, made from this one."""
        while name in self.nodes or name in self.graph.arguments or name in self.bodies:
            name += "_"
        return name

    def body(
        self,
        name: str,
        inputs: Sequence[Argument],
        outputs: Sequence[tuple[str, Edge]],
        members: Collection[str],
        edges: Mapping[Edge, Edge],
    ) -> str:
        """Make a body of some nodes, and return its name; `edges` are those called otherwise.

        Constants that they read from elsewhere are copied.
        """
        name = self.unused(name)
        copied = {
            edge.node
            for member in members
            for edge in self.nodes[member].inputs
            if edge not in edges and edge.node in self.nodes and _constant(self.nodes[edge.node])
        }
        inside = copied | set(members)
        nodes = {}
        for member in (n for n in self.nodes if n in inside):
            node = self.nodes[member]
            reads = tuple(edges.get(edge, edge) for edge in node.inputs)
            waits = tuple(c for c in node.control_inputs if c in inside)
            nodes[member] = replace(node, inputs=reads, control_inputs=waits)
        listed = ordered(nodes, nodes)
        results = tuple((key, edges.get(edge, edge)) for key, edge in outputs)
        bodies = _called(listed, self.bodies)
        self.bodies[name] = Graph(name, tuple(inputs), results, listed, bodies)
        return name

    def replace(self, members: Collection[str], made: Node) -> bool:
        """Put a node that stands for members in their place, if nothing gets lost by that.

        What they read must be among the node's inputs, what is read of them among its results,
        and the graph must not become cyclic.
        """
        gone = set(members)
        edges = {edge: Edge(made.name, k) for k, edge in enumerate(made.results) if edge}
        waited = {edge.node for edge in edges}
        given = set(made.inputs)
        controls: dict[str, None] = {}
        for member in members:
            node = self.nodes[member]
            controls.update(dict.fromkeys(c for c in node.control_inputs if c not in gone))
            outside = {e for e in node.inputs if e.node not in gone} - given
            if any(e.node not in self.nodes or not _constant(self.nodes[e.node]) for e in outside):
                return False
        changed = {}
        for node in self.nodes.values():
            if node.name in gone:
                continue
            reads = [edge for edge in node.inputs if edge.node in gone]
            waits = [c for c in node.control_inputs if c in gone]
            if not waited.issuperset(waits) or not edges.keys() >= set(reads):
                return False
            if reads or waits:
                inputs = tuple(edges.get(edge, edge) for edge in node.inputs)
                after = dict.fromkeys(made.name if c in gone else c for c in node.control_inputs)
                changed[node.name] = replace(node, inputs=inputs, control_inputs=tuple(after))
        results = [(key, edges.get(edge, edge)) for key, edge in self._outputs]
        if any(edge.node in gone for _, edge in results):
            return False
        originals = tuple(name for n in members for name in self.nodes[n].originals)
        made = replace(made, control_inputs=tuple(controls), stands_for=originals)
        nodes = {n: changed.get(n, node) for n, node in self.nodes.items() if n not in gone}
        nodes[made.name] = made
        if _reaches_itself(nodes, made.name):
            return False
        self.nodes, self._outputs, self.changed = nodes, results, True
        return True


def ordered(nodes: Mapping[str, Node], roots: Iterable[str]) -> tuple[Node, ...]:
    """Those of some nodes that the roots need, each after what it needs; but for loops of TF1."""
    order: list[Node] = []
    seen: set[str] = set()
    stack = [(root, False) for root in reversed(list(roots))]
    while stack:
        name, done = stack.pop()
        if done:
            order.append(nodes[name])
        elif name in nodes and name not in seen:
            seen.add(name)
            stack.append((name, True))
            stack.extend((need, False) for need in reversed(list(needs(nodes[name]))))
    return tuple(order)


def needs(node: Node) -> Iterator[str]:
    """What a node reads or waits for."""
    yield from (edge.node for edge in node.inputs)
    yield from node.control_inputs


def _constant(node: Node) -> bool:
    return node.op in ("Const", "Variable") and not node.inputs and not node.control_inputs


def _reaches_itself(nodes: Mapping[str, Node], name: str) -> bool:
    """Whether a node needs itself, other than by way of an earlier iteration."""
    stack, seen = list(needs(nodes[name])), set[str]()
    while stack:
        need = stack.pop()
        if need == name:
            return True
        if need in nodes and need not in seen and nodes[need].op != "NextIteration":
            seen.add(need)
            stack.extend(needs(nodes[need]))
    return False


def _called(nodes: Iterable[Node], bodies: Mapping[str, Graph]) -> dict[str, Graph]:
    """The bodies that nodes name."""
    found = {}
    for node in nodes:
        for value in node.attrs.values():
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, str) and item in bodies:
                    found[item] = bodies[item]
    return found
