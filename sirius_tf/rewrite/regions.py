# SPDX-License-Identifier: Apache-2.0
"""Regions: the nodes of a graph that are compiled together, and why the others stay on TensorFlow.

A region is pure: a control edge into one of its nodes orders nothing but results (substitute.py
moves it behind the region), so it splits no region. All other edges count: along a path from a
region through TensorFlow every node gets a level, one higher each time the path enters compiled
nodes again. The nodes of one level are a region: convex, and regions depend on lower levels only.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tensorflow.python.framework import op_def_registry

from sirius_tf.errors import Unsupported, defect
from sirius_tf.frontend.graph import Argument, Edge, Graph, Node, consumers
from sirius_tf.ir.dtypes import FLOAT, HALF
from sirius_tf.lower.graph import lower
from sirius_tf.lower.live import EFFECTS, has_effect
from sirius_tf.lower.rules import RULES
from sirius_tf.rewrite.canonical import digest

_SOURCES = ("Const", "Variable")  # they are copied into each region that reads them
DTYPES = FLOAT | HALF | {"bool", "int8", "int16", "int32", "int64", "uint8"}
TABLE_BYTES = 1 << 20
"""A variable of this size that is only looked up is read where it is, not copied. Of a smaller one
that is a constant, sums over its rows can be kept, and to read it from TensorFlow takes 6 us."""
_PLUMBING = {"Assert", "BroadcastTo", "Cast", "ConcatV2", "EnsureShape", "ExpandDims", "Fill"}
_PLUMBING |= {"Identity", "OnesLike", "Pack", "PreventGradient", "Prod", "Range", "Rank"}
_PLUMBING |= {"Reshape", "Shape", "Size", "Snapshot", "Squeeze", "StopGradient", "StridedSlice"}
_PLUMBING |= {"Unpack", "ZerosLike"}


@dataclass(frozen=True, eq=False)
class Region:
    """Nodes of an outer graph that are compiled together.

    Input k of `graph` carries the outer edge `inputs[k]`, output k is the outer edge `outputs[k]`.
    An input that is the edge of a Variable is read where that is. `nodes` are the outer nodes it
    stands for, of which a While may in turn stand for nodes of the GraphDef.
    """

    name: str
    graph: Graph
    inputs: tuple[Edge, ...]
    outputs: tuple[Edge, ...]
    nodes: frozenset[str]
    known: str = ""
    """Its digest, where the values of its constants are gone."""

    @functools.cached_property
    def digest(self) -> str:
        """A hash of what it computes: regions that are the same share a kernel."""
        return self.known or digest(self.graph)


@dataclass(frozen=True)
class Cut:
    """The regions of a graph, and of every other node the reason; sources have none."""

    regions: tuple[Region, ...]
    left: Mapping[str, str]


def cut(
    graph: Graph,
    name: str,
    left: Mapping[str, str] | None = None,
    keep_variables: bool = False,
) -> Cut:
    """The maximal regions of a graph, called `<name>_<k>`; nodes in `left` are taken as given.

    `name` is a C identifier. With `keep_variables` all variables are inputs of regions.
    """
    reasons = dict(left or {})
    guarded = _guarded(graph)
    for node in graph.nodes:
        problem = _obstacle(graph, node)
        if node.name in guarded:
            problem = "it is inside of a TF1 loop or branch"
        if problem and node.name not in reasons:
            reasons[node.name] = problem
    while True:
        regions = _regions(graph, name, reasons, keep_variables)
        rejected = [pair for region in regions for pair in _rejected(region)]
        if not rejected:
            break
        reasons.update(rejected)
    return _without_small(graph, regions, reasons)


def stems(signatures: Iterable[str]) -> dict[str, str]:
    """For names of signatures different C identifiers."""
    found: dict[str, str] = {}
    for name in signatures:
        stem = re.sub(r"\W", "_", name, flags=re.ASCII)
        stem = stem if stem[:1].isalpha() else f"s{stem}"
        while stem in found.values():
            stem += "_"
        found[name] = stem
    return found


def is_source(graph: Graph, edge: Edge) -> bool:
    """Whether an edge carries a constant."""
    return edge.node in graph.by_name and constant(graph.by_name[edge.node])


def constant(node: Node) -> bool:
    """Whether a node is a constant; TensorFlow has an op Variable too, which has no value."""
    return node.op in _SOURCES and "value" in node.attrs


def is_variable(node: Node) -> bool:
    """Whether a node is a variable of known value."""
    return node.op == "Variable" and "value" in node.attrs


def constants(uses: Iterable[Region]) -> list[str]:
    """The variables whose values are constants of some regions."""
    return sorted({n.name for region in uses for n in region.graph.nodes if is_variable(n)})


def table(graph: Graph, edge: Edge, readers: Iterable[tuple[Node, int]]) -> bool:
    """Whether an edge carries a large variable that is only looked up along its first axis."""
    node = graph.by_name.get(edge.node)
    if node is None or not is_variable(node) or node.attr_array().nbytes < TABLE_BYTES:
        return False
    return all(position == 0 and _gathers_rows(graph, reader) for reader, position in readers)


def _gathers_rows(graph: Graph, node: Node) -> bool:
    if node.op == "GatherNd":
        return True
    if node.op == "GatherV2" and is_source(graph, node.inputs[2]):
        axis = graph.by_name[node.inputs[2].node].attr_array()
        return int(axis) == 0 and not node.attrs.get("batch_dims", 0)
    return node.op == "Gather"


def _obstacle(graph: Graph, node: Node) -> str | None:
    """Why a node cannot be compiled, as far as its op and types tell."""
    if constant(node):
        return None
    if node.op not in RULES:
        return "there is no rule for this op"
    if node.op in EFFECTS:  # it may read strings
        return None
    if any(_is_reference(graph, edge) for edge in node.inputs):
        return "it reads a variable that may change, when its control inputs have run"
    types = [*node.dtypes, *(graph.dtype(edge) for edge in node.inputs)]
    strange = sorted(set(types) - DTYPES - {"variant"})  # a TensorList, inside of a region
    return f"dtype {strange[0]} is not compiled" if strange else None


def _guarded(graph: Graph) -> set[str]:
    """The nodes that run never, or more than once: between Switch and Merge, Enter and Exit."""
    inside: dict[str, str] = {}  # for each node the branches (b) and loops (l) around it
    former = None
    while inside != former:  # a loop leads back to nodes that come first
        former = dict(inside)
        for node in graph.nodes:
            before = {edge.node for edge in node.inputs} | set(node.control_inputs)
            around = max((inside.get(name, "") for name in before), key=len, default="")
            inside[node.name] = _around(node.op.removeprefix("Ref"), around)
    return {name for name, around in inside.items() if around}


def _around(op: str, around: str) -> str:
    """The branches and loops around the result of an op, from those around its inputs."""
    match op:
        case "Switch":
            return around + "b"
        case "Merge" | "NextIteration":
            return around.removesuffix("b")
        case "Enter":
            return around + "l"
        case "Exit":
            return around.rpartition("l")[0]
    return around


def _is_reference(graph: Graph, edge: Edge) -> bool:
    """Whether an edge is a reference of TF1, of which the value is taken by who reads it."""
    node = graph.by_name.get(edge.node)
    if node is None or constant(node):
        return False
    definition = op_def_registry.get(node.op)
    return definition is not None and any(result.is_ref for result in definition.output_arg)


def _rejected(region: Region) -> list[tuple[str, str]]:
    """Nodes of a region that are better left to TensorFlow, or that lowering rejects, and why."""
    copies = [node for edge in region.outputs for node in _handed_on(region, edge)]
    if copies:
        return [(node, "it hands on an input") for node in copies]
    try:
        for argument in region.graph.inputs:
            if argument.dtype not in DTYPES:
                problem = f"dtype {argument.dtype} of its input {argument.name} is not compiled"
                raise Unsupported(argument.name, "Placeholder", problem)
            if argument.shape is None:
                problem = f"the rank of its input {argument.name} is not known"
                raise Unsupported(argument.name, "Placeholder", problem)
        for name, edge in region.graph.outputs:
            if (dtype := region.graph.dtype(edge)) not in DTYPES:
                problem = f"its result {name} of dtype {dtype} cannot leave a region"
                raise Unsupported(name, "Output", problem)
        lower(region.graph)
    except Unsupported as error:
        return [(node, error.reason) for node in _blamed(region, error.node)]
    except Exception as error:  # behind all rules
        return [(node, defect(error)) for node in sorted(region.nodes)]
    return []


def _handed_on(region: Region, edge: Edge) -> list[str]:
    """The nodes between an input of a region and an output, if that is all they are."""
    chain = []
    nodes = region.graph.by_name
    while edge.node in nodes and nodes[edge.node].op == "Identity":
        chain.append(edge.node)
        edge = nodes[edge.node].inputs[0]
    return chain if edge.node in region.graph.arguments else []


def _blamed(region: Region, name: str) -> list[str]:
    """The nodes to take out where an error names a node, an argument or an output."""
    if name in region.nodes:
        return [name]
    found = [edge.node for key, edge in region.graph.outputs if key == name]
    found += [n.name for n in region.graph.nodes if any(e.node == name for e in n.inputs)]
    return [node for node in found if node in region.nodes] or sorted(region.nodes)


def _regions(graph: Graph, name: str, left: Collection[str], keep_variables: bool) -> list[Region]:
    levels = _levels(graph, left)
    members: dict[int, list[Node]] = {}
    for node in graph.nodes:
        if node.name in levels and node.name not in left:
            members.setdefault(levels[node.name], []).append(node)
    readers = consumers(graph)
    made: list[Region] = []
    for level in sorted(members):
        called = f"{name}_{len(made)}"
        region = _region(graph, called, members[level], readers, keep_variables)
        if region is not None:
            made.append(region)
    return made


def _levels(graph: Graph, left: Collection[str]) -> dict[str, int]:
    """The level of each node; that of a compiled one is as high as all its readers allow."""
    nodes = [node for node in graph.nodes if not constant(node)]
    known = {node.name for node in nodes}
    needs = {n.name: ({e.node for e in n.inputs} | _waits(graph, n, left)) & known for n in nodes}
    levels = {node.name: int(node.name not in left) for node in nodes}
    growing = True
    while growing:  # again only for loops of TF1, of which all nodes are left
        growing = False
        for name, before in needs.items():
            up = (levels[need] + (name not in left and need in left) for need in before)
            level = max(up, default=0)
            if level > levels[name]:
                levels[name] = level
                growing = True
    readers: dict[str, list[str]] = {}
    for name, before in needs.items():
        for need in before:
            readers.setdefault(need, []).append(name)
    for name in reversed(needs):
        after = readers.get(name, [])
        if name not in left and after and not _any(after, left):
            levels[name] = min(levels[reader] for reader in after)
    return levels


def _any(names: Iterable[str], left: Collection[str]) -> bool:
    """Whether one of the nodes stays on TensorFlow."""
    return any(name in left for name in names)


def _waits(graph: Graph, node: Node, left: Collection[str]) -> set[str]:
    """The control inputs of a node that order more than results."""
    controls = set(node.control_inputs)
    if node.name in left:
        return controls
    return {c for c in controls if c not in left and has_effect(graph, graph.by_name[c])}


def _region(
    graph: Graph,
    name: str,
    members: Sequence[Node],
    readers: Mapping[Edge, Sequence[tuple[Node, int]]],
    keep_variables: bool,
) -> Region | None:
    """The region of some nodes; None if nothing reads its results.

    Nodes and inputs are in an order that depends on the outputs only: those of a signature come
    first, as they do there. So the same region in another signature has the same order.
    """
    inside = {node.name for node in members}
    outputs = _outputs(graph, members, readers)
    if not outputs:
        return None
    roots = [edge.node for edge in outputs] + [n.name for n in members if has_effect(graph, n)]
    inputs: dict[Edge, str] = {}
    copied: set[str] = set()
    for node in _ordered(graph, roots, inside):
        for edge in node.inputs:
            if edge.node in inside or edge.node in copied or edge in inputs:
                continue
            reading = [(n, k) for n, k in readers[edge] if n.name in inside]
            kept = (
                keep_variables and is_source(graph, edge) and is_variable(graph.by_name[edge.node])
            )
            if is_source(graph, edge) and not kept and not table(graph, edge, reading):
                copied.add(edge.node)
            else:
                inputs[edge] = f"{edge}"
    local = [
        replace(
            node,
            inputs=tuple(Edge(inputs[e]) if e in inputs else e for e in node.inputs),
            control_inputs=(),
        )
        for node in _ordered(graph, roots, inside | copied)
    ]
    arguments = [Argument(label, graph.dtype(e), graph.shape(e)) for e, label in inputs.items()]
    results = tuple((str(edge), edge) for edge in outputs)
    inner = Graph(name, tuple(arguments), results, tuple(local), graph.bodies)
    return Region(name, inner, tuple(inputs), tuple(outputs), frozenset(inside))


def _outputs(
    graph: Graph, members: Sequence[Node], readers: Mapping[Edge, Sequence[tuple[Node, int]]]
) -> list[Edge]:
    """The edges that are read outside of a region, results of the signature first."""
    inside = {node.name for node in members}
    made = [Edge(n.name, k) for n in members for k in range(len(n.dtypes))]
    direct = [edge for _, edge in graph.outputs]
    probes = [graph.by_name[e.node] for e in direct if e.node in graph.by_name.keys() - inside]
    probed = [edge for probe in probes for edge in probe.inputs]
    read = [e for e in made if any(n.name not in inside for n, _ in readers.get(e, ()))]
    known = set(made)
    return list(dict.fromkeys(e for e in [*direct, *probed, *read] if e in known))


def _ordered(graph: Graph, roots: Iterable[str], inside: Collection[str]) -> list[Node]:
    """The nodes, of some, that the roots need, each after those that it reads."""
    order: dict[str, Node] = {}
    stack = [(root, False) for root in reversed(list(roots))]
    while stack:
        name, done = stack.pop()
        if name in order or name not in inside:
            continue
        node = graph.by_name[name]
        if done:
            order[name] = node
        else:
            stack.append((name, True))
            stack.extend((edge.node, False) for edge in reversed(node.inputs))
    return list(order.values())


def _without_small(graph: Graph, regions: Sequence[Region], reasons: dict[str, str]) -> Cut:
    """The regions that compute something, or that are all there is to a signature."""
    kept: list[Region] = []
    results = {edge.node for _, edge in graph.outputs}
    others = {n.name for n in graph.nodes if not constant(n) and n.op != "Identity"} - results
    for region in regions:
        ops = {node.op for node in region.graph.nodes if node.name in region.nodes}
        if ops <= _PLUMBING and not others <= region.nodes:
            reasons.update((node, "too small") for node in region.nodes)
        else:
            kept.append(region)
    compiled = {node for region in kept for node in region.nodes}
    for node in graph.nodes:
        if node.name not in compiled and not constant(node):
            reasons.setdefault(node.name, "nothing reads its results")
    return Cut(tuple(kept), {n: r for n, r in reasons.items() if n not in compiled})
