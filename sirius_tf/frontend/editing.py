# SPDX-License-Identifier: Apache-2.0
"""A graph being changed: groups of its nodes become functional nodes, one at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from sirius_tf.frontend.graph import Argument, Edge, Graph, Node, Shape, called


class Draft:
    """The nodes and bodies of a graph; a group of nodes is replaced as a whole or not at all."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes = dict(graph.by_name)
        self.bodies = dict(graph.bodies)
        self.readers: dict[str, set[str]] = {}
        self.changed = False
        self._outputs = list(graph.outputs)
        self._positions: dict[str, int] = {}
        for node in graph.nodes:
            for need in needs(node):
                self.readers.setdefault(need, set()).add(node.name)
        self._number()

    def _number(self) -> None:
        """Number the nodes so that each comes after what it needs in its iteration."""
        order = ordered(self.nodes, self.nodes, acyclic=True)
        self._positions = {node.name: k for k, node in enumerate(order)}

    def sorted(self, names: Iterable[str]) -> list[str]:
        """Nodes, each after what it needs in its iteration."""
        return sorted(names, key=self._positions.__getitem__)

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
        for member in self.sorted(inside):
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
        after = {reader for name in gone for reader in self.readers.get(name, ())} - gone
        for reader in after:
            node = self.nodes[reader]
            reads = {edge for edge in node.inputs if edge.node in gone}
            waits = {name for name in node.control_inputs if name in gone}
            if not waited >= waits or not edges.keys() >= reads:
                return False
        if any(edge.node in gone and edge not in edges for _, edge in self._outputs):
            return False
        originals = tuple(name for n in members for name in self.nodes[n].originals)
        made = replace(made, control_inputs=tuple(controls), stands_for=originals)
        late = self._needs_results(made, waited)
        if late is None:
            return False
        self._put(gone, made, edges, after)
        if late:
            self._number()
        return True

    def _needs_results(self, made: Node, results: Collection[str]) -> bool | None:
        """Whether a node comes after its results; None if it needs them."""
        first = min((self._positions[name] for name in results), default=0)
        stack, seen = list(needs(made)), set[str]()
        late = False
        while stack:
            name = stack.pop()
            if name in results:
                return None
            if name in seen or self._positions.get(name, -1) < first:
                continue  # what comes before the results needs none of them
            late = True
            seen.add(name)
            stack.extend(_now(self.nodes[name]))
        self._positions[made.name] = first
        return late

    def _put(
        self, gone: Collection[str], made: Node, edges: Mapping[Edge, Edge], after: Collection[str]
    ) -> None:
        for reader in after:
            node = self.nodes[reader]
            inputs = tuple(edges.get(edge, edge) for edge in node.inputs)
            waits = dict.fromkeys(made.name if c in gone else c for c in node.control_inputs)
            self.nodes[reader] = replace(node, inputs=inputs, control_inputs=tuple(waits))
        for name in gone:
            self.readers.pop(name, None)
            for need in set(needs(self.nodes.pop(name))) - set(gone):
                self.readers[need].discard(name)
        self.nodes[made.name] = made
        self.readers[made.name] = set(after)
        for need in needs(made):
            self.readers.setdefault(need, set()).add(made.name)
        self._outputs = [(key, edges.get(edge, edge)) for key, edge in self._outputs]
        self.changed = True


def ordered(
    nodes: Mapping[str, Node], roots: Iterable[str], acyclic: bool = False
) -> tuple[Node, ...]:
    """The nodes that some roots need, each after those it needs; but for loops of TF1.

    If it is to be `acyclic`, what comes from the iteration before is no need.
    """
    needed = _now if acyclic else needs
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
            stack.extend((need, False) for need in reversed(list(needed(nodes[name]))))
    return tuple(order)


def needs(node: Node) -> Iterator[str]:
    """The nodes that a node reads or waits for."""
    yield from (edge.node for edge in node.inputs)
    yield from node.control_inputs


def _now(node: Node) -> Iterator[str]:
    """The nodes that a node needs of its own iteration of a TF1 loop."""
    return iter(()) if node.op == "NextIteration" else needs(node)


def _constant(node: Node) -> bool:
    return node.op in ("Const", "Variable") and not node.inputs and not node.control_inputs


def _called(nodes: Iterable[Node], bodies: Mapping[str, Graph]) -> dict[str, Graph]:
    """The bodies that nodes name."""
    return {name: body for node in nodes for name, body in called(node, bodies).items()}
