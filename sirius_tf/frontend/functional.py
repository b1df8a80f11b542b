# SPDX-License-Identifier: Apache-2.0
"""Loops and branches of TF1 become While and If, so that later stages know one control flow.

    Merge(Enter(a), NextIteration(f(Switch:1)))    Exit(Switch:0)    LoopCond(c(Merge))
    becomes    While(a, ...; cond=c, body=f)

A loop is the nodes of one frame. What fits no pattern stays as it is, node by node.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from sirius_tf.frontend.arrays import lists
from sirius_tf.frontend.branches import fold_branches
from sirius_tf.frontend.editing import Draft, needs
from sirius_tf.frontend.graph import Argument, Edge, Graph, Node

Frame = tuple[str, ...]
"""The names of the loops around a node, the outermost first."""
_OPS = {"Switch", "Merge", "Enter", "Exit", "NextIteration", "LoopCond"}


def functional(graph: Graph) -> Graph:
    """The graph in which each loop and branch of TF1 that can be one is a While or an If.

    TensorArrays become TensorLists, whose value their flow is.
    """
    draft = Draft(graph)
    if any(node.op in _OPS for node in graph.nodes):
        frames, whole = _frames(graph)
        for frame in sorted(whole, key=len, reverse=True):  # an inner loop is a node of an outer
            inside = {name for name in draft.nodes if frames.get(name) == frame}
            inside = fold_branches(draft, inside)
            frames.update(dict.fromkeys(inside, frame))
            if frame:
                _fold_loop(draft, frames, frame, inside)
    return lists(draft.finish() if draft.changed else graph)


def _frames(graph: Graph) -> tuple[dict[str, Frame], set[Frame]]:
    """The frame that each node belongs to, Enter and Exit to the loop; and which frames are whole.

    A frame is not whole if an edge leads into it, or out of it, past Enter and Exit.
    """
    frames: dict[str, Frame] = {}
    inside = {a.name: Frame() for a in graph.inputs}  # the frame of what a node makes
    free = {node.name for node in graph.nodes if not list(needs(node))}  # constants, of any frame
    growing = True
    while growing:
        growing = False
        for node in (n for n in graph.nodes if n.name not in frames):
            before = set(needs(node)) - free
            known = [inside[need] for need in before if need in inside]
            if before and not known:
                continue
            around = max(known, key=len, default=())
            own = (*around, node.attr_str("frame_name")) if node.op == "Enter" else around
            frames[node.name] = own
            inside[node.name] = own[:-1] if node.op == "Exit" else own
            growing = True
    mixed: set[Frame] = set()
    for node in graph.nodes:
        own = frames.get(node.name, ())
        around = own[:-1] if node.op == "Enter" else own
        for need in set(needs(node)) - free:
            if inside.get(need, ()) != around:
                mixed |= {inside.get(need, ()), around}
    whole = {f for f in frames.values() if not any(m and f[: len(m)] == m for m in mixed)}
    return frames, whole


def _fold_loop(
    draft: Draft, frames: dict[str, Frame], frame: Frame, members: Collection[str]
) -> None:
    loop = _Loop.of(draft, members)
    if loop is None or any(
        f[: len(frame)] == frame and len(f) > len(frame)
        for name, f in frames.items()
        if name in draft.nodes
    ):
        return
    node = loop.node(frame[-1])
    if node is not None and draft.replace(draft.sorted(members), node):
        frames[node.name] = frame[:-1]


@dataclass(frozen=True)
class _Loop:
    """The nodes of a frame by what they are; `merges` are the loop's variables in order."""

    draft: Draft
    members: Collection[str]
    merges: tuple[Node, ...]
    enters: tuple[Node, ...]  # of the merges
    nexts: tuple[Node, ...]
    invariants: tuple[Node, ...]
    switches: Mapping[str, int]  # the number of the variable of each
    exits: Mapping[int, Node]
    condition: Node

    @staticmethod
    def of(draft: Draft, members: Collection[str]) -> _Loop | None:
        """The loop that some nodes are; None if they are not a loop as TF1 builds it."""
        nodes = [draft.nodes[name] for name in draft.sorted(members)]
        by_op: dict[str, list[Node]] = {op: [n for n in nodes if n.op == op] for op in _OPS}
        if len(by_op["LoopCond"]) != 1 or any(n.op.startswith("Ref") for n in nodes):
            return None
        (condition,) = by_op["LoopCond"]
        enters, nexts = [], []
        for merge in by_op["Merge"]:
            pair = [draft.nodes.get(edge.node) for edge in merge.inputs]
            ops = [node.op if node and node.name in members else "" for node in pair]
            if sorted(ops) != ["Enter", "NextIteration"]:
                return None
            enters.append(pair[ops.index("Enter")])
            nexts.append(pair[ops.index("NextIteration")])
        first = [node for node in enters if node]
        last = [node for node in nexts if node]
        entered = {node.name for node in first}
        variables = {Edge(merge.name): k for k, merge in enumerate(by_op["Merge"])}
        switches = {n.name: variables.get(n.inputs[0], -1) for n in by_op["Switch"]}
        exits: dict[int, Node] = {}
        for node in by_op["Exit"]:
            source = node.inputs[0]
            if source.output or switches.get(source.node, -1) in (-1, *exits):
                return None
            exits[switches[source.node]] = node
        invariants = tuple(n for n in by_op["Enter"] if n.name not in entered)
        fixed = [*by_op["Merge"], *by_op["Switch"], *by_op["Exit"], condition]
        fits = (
            len(entered) == len(first)
            and {node.name for node in last} == {node.name for node in by_op["NextIteration"]}
            and not any(node.attrs.get("is_constant") for node in first)
            and all(node.attrs.get("is_constant") for node in invariants)
            and all(n.inputs[1] == Edge(condition.name) for n in by_op["Switch"])
            and -1 not in switches.values()
            and not any(node.control_inputs for node in fixed)
        )
        if not fits:
            return None
        return _Loop(
            draft,
            members,
            tuple(by_op["Merge"]),
            tuple(first),
            tuple(last),
            invariants,
            switches,
            exits,
            condition,
        )

    def node(self, name: str) -> Node | None:
        """The While; None if condition and body are not apart."""
        draft, count = self.draft, len(self.merges)
        frame = {n.name for n in (*self.merges, *self.enters, *self.nexts, *self.invariants)}
        frame |= {*self.switches, self.condition.name, *(n.name for n in self.exits.values())}
        after = [Edge(name, 1) for name in self.switches]
        before = {Edge(merge.name) for merge in self.merges}
        fixed = {Edge(enter.name) for enter in self.invariants}
        cond = self._needed([self.condition], frame)
        body = self._needed(self.nexts, frame)
        if (
            cond | body | frame != set(self.members)
            or self._read((*cond, self.condition.name), frame) - before - fixed
            or self._read((*body, *(n.name for n in self.nexts)), frame) - {*after} - fixed
        ):
            return None
        inputs = [*self.merges, *self.invariants]
        types = [(node.dtypes[0], node.shapes[0]) for node in inputs]
        arguments = [Argument(n.name, *t) for n, t in zip(inputs, types, strict=True)]
        name = draft.unused(name)
        results = [(n.name, n.inputs[0]) for n in self.nexts]
        results += [(n.name, Edge(n.name)) for n in self.invariants]
        renamed = {Edge(s, 1): Edge(self.merges[k].name) for s, k in self.switches.items()}
        kept = {Edge(node.name): Edge(node.name) for node in inputs}
        decides = [(self.condition.name, self.condition.inputs[0])]
        attrs: dict[str, object] = {
            "T": [dtype for dtype, _ in types],
            "cond": draft.body(f"{name}/cond", arguments, decides, cond, kept),
            "body": draft.body(f"{name}/body", arguments, results, body, kept | renamed),
        }
        left = [self.exits.get(k) for k in range(count)]
        shapes = [n.shapes[0] if n else t[1] for n, t in zip(left, types, strict=False)]
        shapes += [shape for _, shape in types[count:]]
        return Node(
            name,
            "While",
            tuple(n.inputs[0] for n in (*self.enters, *self.invariants)),
            (),
            attrs,
            tuple(dtype for dtype, _ in types),
            tuple(shapes),
            results=(
                *(Edge(n.name) if n else None for n in left),
                *(None for _ in self.invariants),
            ),
        )

    def _needed(self, roots: Iterable[Node], frame: Collection[str]) -> set[str]:
        """The nodes of the loop that some need, other than those every loop has."""
        stack = [need for root in roots for need in needs(root)]
        found: set[str] = set()
        while stack:
            name = stack.pop()
            if name in self.members and name not in found and name not in frame:
                found.add(name)
                stack.extend(needs(self.draft.nodes[name]))
        return found

    def _read(self, names: Iterable[str], frame: Collection[str]) -> set[Edge]:
        """The edges that some nodes read of the nodes that every loop has."""
        edges = (edge for name in names for edge in self.draft.nodes[name].inputs)
        return {edge for edge in edges if edge.node in frame}
