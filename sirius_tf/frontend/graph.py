# SPDX-License-Identifier: Apache-2.0
"""A typed, read-only view of one signature after function inlining; TensorFlow is not imported.

An Edge names either a Node or an Argument of the Graph it lives in: an Argument has no Node, and
its only output is 0. A While, If, Case or PartitionedCall names functions in its attributes; their
bodies are Graphs of their own in `Graph.bodies` under that name.

A While or If that functional.py made has no node of its name in the GraphDef: it `stands_for` nodes
there, and output k carries what their edge `results[k]` carries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, TypeVar

import numpy as np

from sirius_tf.errors import SiriusError

Shape = tuple[int | None, ...]
"""A static shape; None is a dimension that is not known. An unknown rank is None, not a Shape."""

T = TypeVar("T")


@dataclass(frozen=True)
class Edge:
    """Output `output` of the node or argument called `node`."""

    node: str
    output: int = 0

    def __str__(self) -> str:
        return f"{self.node}:{self.output}" if self.output else self.node


@dataclass(frozen=True)
class Argument:
    """An input of a Graph; `dtype` is TensorFlow's name of it ("float32", "resource")."""

    name: str
    dtype: str
    shape: Shape | None


@dataclass(frozen=True, eq=False)
class Node:
    """One operation. Attributes are Python values; those of Const and Variable hold arrays."""

    name: str
    op: str
    inputs: tuple[Edge, ...] = ()
    control_inputs: tuple[str, ...] = ()
    attrs: Mapping[str, object] = field(default_factory=dict)
    dtypes: tuple[str, ...] = ()
    shapes: tuple[Shape | None, ...] = ()
    stands_for: tuple[str, ...] = ()
    """The nodes of the GraphDef it takes the place of; (), if it is the one of its name."""
    results: tuple[Edge | None, ...] = ()
    """With `stands_for`, the edge in the GraphDef of each output; None where there is none."""

    @property
    def originals(self) -> tuple[str, ...]:
        """The nodes of the GraphDef that it is."""
        return self.stands_for or (self.name,)

    def attr_int(self, name: str) -> int:
        """An integer attribute."""
        value = self._attr(name, int)
        if isinstance(value, bool):
            raise self._mistyped(name, value, "int")
        return value

    def attr_float(self, name: str) -> float:
        """A float attribute."""
        return self._attr(name, float)

    def attr_bool(self, name: str) -> bool:
        """A boolean attribute."""
        return self._attr(name, bool)

    def attr_str(self, name: str) -> str:
        """A string attribute; also a dtype's or a function's name."""
        return self._attr(name, str)

    def attr_array(self, name: str = "value") -> np.ndarray[Any, Any]:
        """The array of a Const or a Variable."""
        return self._attr(name, np.ndarray)

    def attr_shape(self, name: str) -> Shape | None:
        """A shape attribute; None when it is of unknown rank."""
        if name in self.attrs and self.attrs[name] is None:
            return None
        return self._attr(name, tuple)

    def attr_ints(self, name: str) -> tuple[int, ...]:
        """A list of integers."""
        return self._items(name, int)

    def attr_strs(self, name: str) -> tuple[str, ...]:
        """A list of strings, dtype names or function names."""
        return self._items(name, str)

    def _items(self, name: str, kind: type[T]) -> tuple[T, ...]:
        values = self._attr(name, list)
        if not all(isinstance(value, kind) for value in values):
            raise self._mistyped(name, values, f"list of {kind.__name__}")
        return tuple(values)

    def _attr(self, name: str, kind: type[T]) -> T:
        if name not in self.attrs:
            raise SiriusError(f"node '{self.name}' ({self.op}) has no attribute '{name}'")
        value = self.attrs[name]
        if not isinstance(value, kind):
            raise self._mistyped(name, value, kind.__name__)
        return value

    def _mistyped(self, name: str, value: object, kind: str) -> SiriusError:
        return SiriusError(
            f"attribute '{name}' of node '{self.name}' ({self.op}) is "
            f"{type(value).__name__}, not {kind}"
        )


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in topological order (control inputs included), without the arguments."""

    name: str
    inputs: tuple[Argument, ...]
    outputs: tuple[tuple[str, Edge], ...]
    nodes: tuple[Node, ...]
    bodies: Mapping[str, Graph] = field(default_factory=dict)

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """The nodes under their names."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def arguments(self) -> Mapping[str, Argument]:
        """The arguments under their names."""
        return {argument.name: argument for argument in self.inputs}

    @cached_property
    def standing(self) -> Mapping[str, str]:
        """The node that stands for a node of the GraphDef, where that is one of another name."""
        return {original: node.name for node in self.nodes for original in node.stands_for}

    @cached_property
    def carried(self) -> Mapping[Edge, Edge]:
        """The edge that carries what one of the GraphDef does, where that is another one."""
        return {
            result: Edge(node.name, k)
            for node in self.nodes
            for k, result in enumerate(node.results)
            if result is not None
        }

    def original(self, edge: Edge) -> Edge:
        """The edge in the GraphDef of one in this graph."""
        node = self.by_name.get(edge.node)
        if node is None or not node.stands_for:
            return edge
        result = node.results[edge.output]
        if result is None:
            raise SiriusError(f"no node of TensorFlow has the result {edge}")
        return result

    def dtype(self, edge: Edge) -> str:
        """The dtype of what an edge carries."""
        if edge.node in self.arguments:
            return self.arguments[edge.node].dtype
        return self.by_name[edge.node].dtypes[edge.output]

    def shape(self, edge: Edge) -> Shape | None:
        """The static shape of what an edge carries."""
        if edge.node in self.arguments:
            return self.arguments[edge.node].shape
        return self.by_name[edge.node].shapes[edge.output]


def consumers(graph: Graph) -> dict[Edge, tuple[tuple[Node, int], ...]]:
    """For each edge the nodes that read it, and the number of the input; graph outputs do not
    count."""
    found: dict[Edge, list[tuple[Node, int]]] = {}
    for node in graph.nodes:
        for index, edge in enumerate(node.inputs):
            found.setdefault(edge, []).append((node, index))
    return {edge: tuple(readers) for edge, readers in found.items()}


def called(node: Node, bodies: Mapping[str, Graph]) -> dict[str, Graph]:
    """The bodies that attributes of a node name."""
    values = (v if isinstance(v, list) else [v] for v in node.attrs.values())
    return {v: bodies[v] for v in chain.from_iterable(values) if isinstance(v, str) and v in bodies}


def show(graph: Graph) -> str:
    """The graph as text, bodies indented below it."""
    lines = [f"graph {graph.name}"]
    for argument in graph.inputs:
        lines.append(f"  in {argument.name}: {_type(argument.dtype, argument.shape)}")
    for node in graph.nodes:
        lines.append("  " + _show_node(node))
    for name, edge in graph.outputs:
        lines.append(f"  out {name} = {edge}")
    for body in graph.bodies.values():
        lines.extend("    " + line for line in show(body).splitlines())
    return "\n".join(lines)


def _show_node(node: Node) -> str:
    types = ", ".join(_type(d, s) for d, s in zip(node.dtypes, node.shapes, strict=True))
    operands = [str(edge) for edge in node.inputs]
    operands += [f"^{name}" for name in node.control_inputs]
    attrs = ", ".join(f"{key}={_show_value(node.attrs[key])}" for key in sorted(node.attrs))
    return f"{node.name} = {node.op}({', '.join(operands)}) {{{attrs}}}: {types}"


def _show_value(value: object) -> str:
    if not isinstance(value, np.ndarray):
        return repr(value)
    if value.size <= 8:
        return repr(value.tolist())
    return f"<{value.dtype}{list(value.shape)}>"


def _type(dtype: str, shape: Shape | None) -> str:
    if shape is None:
        return f"{dtype}[...]"
    return f"{dtype}[{', '.join('?' if d is None else str(d) for d in shape)}]"
