# SPDX-License-Identifier: Apache-2.0
"""Branches of TF1 become If.

    Merge(f(Switch(x, p):0), g(Switch(x, p):1))    becomes    If(p, x; else_branch=f, then_branch=g)

A node is *guarded* by (p, 1) if it runs only where p holds, and by (p, 0) if only where it does
not. A Switch adds a guard, and a Merge takes a pair of them away. The Merges of one branch are
those that guarded nodes, or the Identity in front of p, connect.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from sirius_tf.frontend.editing import Draft, needs
from sirius_tf.frontend.graph import Argument, Edge, Node

Guards = frozenset[tuple[Edge, int]]
_UNKNOWN: Guards = frozenset([(Edge(""), 0)])
"""The guards of a value that a Merge hands on which fits no pattern: no other Merge can take them
away."""
_RAW = {"Switch", "Merge", "Enter", "Exit", "NextIteration", "LoopCond"}


def fold_branches(draft: Draft, scope: set[str]) -> set[str]:
    """Make If nodes of what is in one frame, inner ones first; the nodes of the frame then."""
    growing = True
    while growing:  # again, as a predicate may be the result of another branch
        growing = False
        found = _Guarded(draft, scope)
        for merge in sorted(found.merges, key=lambda m: -len(found.merges[m].outside)):
            if merge in found.scope:
                branch = _branch(found, merge)
                node = branch.node()
                if node is not None and draft.replace(branch.ordered(), node):
                    found.put(branch.members, node.name, found.merges[merge].outside)
                    growing = True
        scope = found.scope
    return scope


@dataclass(frozen=True)
class _Merge:
    """The predicate of a Merge, what guards it, and which input comes where the predicate holds."""

    predicate: Edge
    outside: Guards
    taken: int


class _Guarded:
    """The guards of the nodes of one frame."""

    def __init__(self, draft: Draft, scope: Collection[str]) -> None:
        self.draft, self.scope = draft, set(scope)
        self.guards: dict[str, Guards] = {}  # of a Switch, those of its inputs
        self.merges: dict[str, _Merge] = {}
        for name in draft.sorted(scope):
            if draft.nodes[name].op != "NextIteration":  # an iteration does not guard the next one
                self.guards[name] = self._after(draft.nodes[name])

    def put(self, members: Collection[str], name: str, guards: Guards) -> None:
        """Note that a node has taken the place of others."""
        self.scope.difference_update(members)
        self.scope.add(name)
        self.guards[name] = guards

    def predicate(self, switch: Node) -> Edge:
        """The edge behind the Identities in front of a Switch."""
        edge = switch.inputs[1]
        while edge.node in self.scope and self.draft.nodes[edge.node].op == "Identity":
            edge = self.draft.nodes[edge.node].inputs[0]
        return edge

    def splits(self, node: Node | None) -> bool:
        """Whether a node is the Switch of a branch, not of a loop."""
        if node is None or node.op != "Switch" or node.name not in self.scope:
            return False
        source = self.draft.nodes.get(self.predicate(node).node)
        return source is None or source.op != "LoopCond"

    def of(self, edge: Edge) -> Guards:
        """The guards of what an edge carries."""
        guards = self.guards.get(edge.node, frozenset())
        node = self.draft.nodes.get(edge.node)
        if node is not None and self.splits(node):
            return guards | {(self.predicate(node), edge.output)}
        return guards

    def before(self, node: Node) -> Guards:
        """The guards of what a node reads or waits for."""
        waits = (self.guards.get(c, frozenset()) for c in node.control_inputs)
        return frozenset().union(*map(self.of, node.inputs), *waits)

    def _after(self, node: Node) -> Guards:
        if node.op != "Merge":
            return self.before(node)
        if any(self._is_next(edge) for edge in node.inputs):
            return frozenset()
        if len(node.inputs) != 2 or node.control_inputs:
            return _UNKNOWN
        first, second = map(self.of, node.inputs)
        if len(first - second) != 1 or len(second - first) != 1:
            return _UNKNOWN
        ((predicate, side),), ((other, _),) = first - second, second - first
        if predicate != other:
            return _UNKNOWN
        self.merges[node.name] = _Merge(predicate, first & second, 0 if side else 1)
        return first & second

    def _is_next(self, edge: Edge) -> bool:
        node = self.draft.nodes.get(edge.node)
        return node is not None and node.op == "NextIteration"


@dataclass(frozen=True)
class _Branch:
    """Merges with all that is between them and the Switches of their predicate."""

    found: _Guarded
    predicate: Edge
    merges: tuple[str, ...]
    members: frozenset[str]
    front: frozenset[str]  # members that are Identities in front of the predicate

    def ordered(self) -> list[str]:
        """The members, as they are in the graph."""
        return self.found.draft.sorted(self.members)

    def node(self) -> Node | None:
        """The If; None if there is other control flow inside."""
        draft, found = self.found.draft, self.found
        nodes = {name: draft.nodes[name] for name in self.ordered()}
        inner = [n for name, n in nodes.items() if name not in {*self.merges, *self.front}]
        if any(self._strange(node) for node in inner):
            return None
        reading = (e for n in inner if n.op != "Switch" for e in n.inputs)
        if any(edge.node in self.front for edge in reading):
            return None
        read = dict.fromkeys(
            edge
            for node in nodes.values()
            for edge in node.inputs
            if edge.node not in self.members and (node.op == "Switch" or not self._free(edge))
        )
        tests = [edge for edge in read if self._is_test(edge)]
        # The predicate is among the data where a branch reads it.
        data = dict.fromkeys(self._source(n.inputs[0]) for n in inner if n.op == "Switch")
        if not tests or any(edge.node in self.members for edge in data):
            return None
        given = [edge for edge in dict.fromkeys([*data, *read]) if edge != tests[0] or edge in data]
        labels = {edge: str(edge) for edge in given}
        types = [draft.type(edge) for edge in given]
        arguments = [Argument(labels[e], *t) for e, t in zip(given, types, strict=True)]
        name = draft.unused(self.merges[0].rpartition("/")[0] or f"{self.merges[0]}/If")
        attrs: dict[str, object] = {"Tcond": "bool", "Tin": [dtype for dtype, _ in types]}
        for side, key in enumerate(("else_branch", "then_branch")):
            edges = {edge: Edge(label) for edge, label in labels.items()}
            for node in inner:
                if node.op == "Switch":
                    edges[Edge(node.name, side)] = Edge(labels[self._source(node.inputs[0])])
            chosen = {m: abs(found.merges[m].taken + side - 1) for m in self.merges}
            results = [(merge, nodes[merge].inputs[k]) for merge, k in chosen.items()]
            own = [n.name for n in inner if n.op != "Switch" and self._side(n) == side]
            attrs[key] = draft.body(f"{name}/{key}", arguments, results, own, edges)
        attrs["Tout"] = [nodes[merge].dtypes[0] for merge in self.merges]
        return Node(
            name,
            "If",
            (tests[0], *given),
            (),
            attrs,
            tuple(nodes[merge].dtypes[0] for merge in self.merges),
            tuple(nodes[merge].shapes[0] for merge in self.merges),
            results=tuple(Edge(merge) for merge in self.merges),
        )

    def _side(self, node: Node) -> int | None:
        """Whether a node runs where the predicate holds (1) or does not (0); None if never."""
        sides = {side for p, side in self.found.before(node) if p == self.predicate}
        return sides.pop() if len(sides) == 1 else None

    def _strange(self, node: Node) -> bool:
        if node.op == "Switch":
            sides = {p for p, _ in self.found.before(node)}
            return not self.found.splits(node) or self.predicate in sides
        return node.op in _RAW or node.op.startswith("Ref") or self._side(node) is None

    def _source(self, edge: Edge) -> Edge:
        """The edge whose value this one carries: members in front of the predicate hand it on."""
        while edge.node in self.front:
            edge = self.found.draft.nodes[edge.node].inputs[0]
        return edge

    def _is_test(self, edge: Edge) -> bool:
        """Whether an edge carries the predicate."""
        nodes = self.found.draft.nodes
        while edge != self.predicate and edge.node in nodes and nodes[edge.node].op == "Identity":
            edge = nodes[edge.node].inputs[0]
        return edge == self.predicate

    def _free(self, edge: Edge) -> bool:
        node = self.found.draft.nodes.get(edge.node)
        return node is not None and node.op == "Const" and not list(needs(node))


def _branch(found: _Guarded, merge: str) -> _Branch:
    """The branch that a Merge is one of the results of."""
    predicate, outside = found.merges[merge].predicate, found.merges[merge].outside
    alike = [
        name
        for name, m in found.merges.items()
        if name in found.scope and (m.predicate, m.outside) == (predicate, outside)
    ]
    members = {name: _between(found, [name], predicate) for name in alike}
    group, grown = {merge}, True
    while grown:
        inside = set().union(*(members[name] for name in group))
        new = {name for name in alike if name not in group and members[name] & inside}
        group |= new
        grown = bool(new)
    inside = set().union(*(members[name] for name in group))
    front = {name for name in inside if _in_front(found, name, predicate)}
    dropped = True
    while dropped:  # what others read too is no part of the branch
        other = {name for name in front if not found.draft.readers[name] <= inside}
        other |= {name for name in front if _is_output(found.draft, name)}
        front -= other
        inside -= other
        dropped = bool(other)
    merges = tuple(found.draft.sorted(group))
    return _Branch(found, predicate, merges, frozenset(inside), frozenset(front))


def _between(found: _Guarded, merges: Iterable[str], predicate: Edge) -> set[str]:
    """Merges, what the predicate guards before them, and the Identities in front of it."""
    nodes: Mapping[str, Node] = found.draft.nodes
    inside: set[str] = set()
    stack = list(merges)
    while stack:
        name = stack.pop()
        if name in inside:
            continue
        inside.add(name)
        node = nodes[name]
        if found.splits(node) and found.predicate(node) == predicate:
            edge = node.inputs[1]
            while edge != predicate:
                inside.add(edge.node)
                edge = nodes[edge.node].inputs[0]
            continue
        before = [(edge.node, found.of(edge)) for edge in node.inputs]
        before += [(c, found.guards.get(c, frozenset())) for c in node.control_inputs]
        stack.extend(
            need
            for need, guards in before
            if need in found.scope and any(p == predicate for p, _ in guards)
        )
    return inside


def _in_front(found: _Guarded, name: str, predicate: Edge) -> bool:
    """Whether a node is one of the Identities in front of a predicate."""
    node = found.draft.nodes[name]
    guards = found.guards.get(name, frozenset())
    return node.op == "Identity" and not any(p == predicate for p, _ in guards)


def _is_output(draft: Draft, name: str) -> bool:
    return any(edge.node == name for _, edge in draft.graph.outputs)
