# SPDX-License-Identifier: Apache-2.0
"""TensorArrays of TF1 become TensorLists: the flow of an array is the value of the list.

    TensorArrayWriteV3(handle, k, x, flow)    becomes    TensorListSetItem(flow, k, x)

An element of an array is written once, so that a flow tells all that its reader can see. An array
of which a handle or a flow goes where that is not known stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sirius_tf.frontend.graph import Argument, Edge, Graph, Node, Shape

_FLOW = {
    "TensorArrayWriteV3": 3,
    "TensorArrayReadV3": 2,
    "TensorArrayGatherV3": 2,
    "TensorArrayScatterV3": 3,
    "TensorArraySizeV3": 1,
    "TensorArrayConcatV3": 1,
}
"""The number of the input that is the flow, by op; input 0 is the handle."""
_WHILE = ("While", "StatelessWhile")
_IF = ("If", "StatelessIf")


@dataclass(frozen=True)
class _Array:
    """A TensorArrayV3, by its graph and node."""

    graph: str
    node: str
    dtype: str
    shape: Shape | None
    grows: bool


@dataclass(frozen=True)
class _Tag:
    """The part of a TensorArray that an edge carries: its handle, or else a flow."""

    array: _Array
    handle: bool


class _MisfitError(Exception):
    """Arrays are used in a way that a list cannot be."""

    def __init__(self, tags: Sequence[_Tag | None]) -> None:
        super().__init__()
        self.arrays = {tag.array for tag in tags if tag is not None}


def lists(graph: Graph) -> Graph:
    """The graph with lists in place of its TensorArrays, as far as that can be."""
    left: set[_Array] = set()
    while _has_arrays(graph):
        rewriter = _Rewriter(left)
        try:
            made, tags = rewriter.graph(graph, [None] * len(graph.inputs))
            if any(tags):
                raise _MisfitError(tags)
        except _MisfitError as misfit:
            left |= misfit.arrays
            continue
        return made if rewriter.changed else graph
    return graph


def _has_arrays(graph: Graph) -> bool:
    return any(node.op == "TensorArrayV3" for node in graph.nodes) or any(
        map(_has_arrays, graph.bodies.values())
    )


class _Rewriter:
    def __init__(self, left: set[_Array]) -> None:
        self._left = left
        self.changed = False

    def graph(self, graph: Graph, given: Sequence[_Tag | None]) -> tuple[Graph, list[_Tag | None]]:
        """A graph whose arguments are tagged like this, without the handles; tags of its outputs.

        An output that is a handle is dropped too.
        """
        scope = _Scope(graph)
        inputs = []
        for argument, tag in zip(graph.inputs, given, strict=True):
            scope.tags[Edge(argument.name)] = tag
            if tag is None:
                inputs.append(argument)
            elif not tag.handle:
                inputs.append(Argument(argument.name, "variant", ()))
        for node in graph.nodes:
            scope.nodes += self._node(scope, node)
        tags = [scope.tags.get(edge) for _, edge in graph.outputs]
        pairs = zip(graph.outputs, tags, strict=True)
        outputs = [(key, scope.edge(e)) for (key, e), t in pairs if t is None or not t.handle]
        nodes = tuple(scope.nodes)
        return Graph(graph.name, tuple(inputs), tuple(outputs), nodes, scope.bodies), tags

    def _node(self, scope: _Scope, node: Node) -> list[Node]:
        """Rewrite a node, and note the tags of its outputs; the nodes that take its place."""
        tags = [scope.tags.get(edge) for edge in node.inputs]
        handle = tags[0] if tags else None
        if node.op == "TensorArrayV3" and not any(tags):
            return self._reserve(scope, node)
        if node.op in _FLOW and handle is not None and handle.handle:
            flow = _Tag(handle.array, handle=False)
            if any(
                tag != (flow if k == _FLOW[node.op] else None) for k, tag in enumerate(tags[1:], 1)
            ):
                raise _MisfitError(tags)
            return _list_op(scope, node, flow)
        if node.op in _WHILE or node.op in _IF:
            return [self._call(scope, node, tags)]
        if node.op == "Identity" and handle is not None and not handle.handle:
            scope.tags[Edge(node.name)] = handle
            return [_typed(scope, node, ["variant"])]
        if any(tags):
            raise _MisfitError(tags)
        return [replace(node, inputs=tuple(map(scope.edge, node.inputs)))]

    def _reserve(self, scope: _Scope, node: Node) -> list[Node]:
        shape = node.attr_shape("element_shape")
        grows = node.attr_bool("dynamic_size")
        array = _Array(scope.graph.name, node.name, node.attr_str("dtype"), shape, grows)
        if array in self._left:
            return [replace(node, inputs=tuple(map(scope.edge, node.inputs)))]
        self.changed = True
        scope.tags[Edge(node.name, 0)] = _Tag(array, handle=True)
        scope.tags[Edge(node.name, 1)] = _Tag(array, handle=False)
        scope.moved[Edge(node.name, 1)] = Edge(node.name)
        constant = _shape_constant(scope, node, shape)
        inputs = (Edge(constant.name), scope.edge(node.inputs[0]))
        attrs = {"element_dtype": array.dtype, "shape_type": "int32"}
        made = replace(node, op="TensorListReserve", inputs=inputs, attrs=attrs)
        return [constant, replace(made, dtypes=("variant",), shapes=((),))]

    def _call(self, scope: _Scope, node: Node, tags: Sequence[_Tag | None]) -> Node:
        """A While or an If, whose bodies take lists, and no handles."""
        loop = node.op in _WHILE
        keys = ("cond", "body") if loop else ("else_branch", "then_branch")
        given = tags if loop else tags[1:]
        names = [node.attr_str(key) for key in keys]
        bodies = [scope.graph.bodies.get(name) for name in names]
        if (not loop and tags[0] is not None) or None in bodies:
            raise _MisfitError(tags)
        results = list[list[_Tag | None]]()
        for name, body in zip(names, bodies, strict=True):
            assert body is not None
            if scope.shares(name) and any(given):
                raise _MisfitError(given)
            scope.bodies[name], made = self.graph(body, given)
            results.append(made)
        outputs = results[1]
        wanted = given if loop else results[0]
        wrong = [t for a, b in zip(wanted, outputs, strict=True) if a != b for t in (a, b)]
        if not loop:
            wrong += [tag for tag in outputs if tag is not None and tag.handle]
        if wrong or (loop and any(results[0])):
            raise _MisfitError([*wrong, *results[0]])
        return _retyped(scope, node, given, outputs)


class _Scope:
    """A graph being rewritten: the tags of its edges, and where edges are now."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.bodies = dict(graph.bodies)
        self.tags: dict[Edge, _Tag | None] = {}
        self.moved: dict[Edge, Edge] = {}

    def edge(self, edge: Edge) -> Edge:
        """An edge of the graph in what becomes of it."""
        return self.moved.get(edge, edge)

    def shares(self, body: str) -> bool:
        """Whether several nodes have a body."""
        values = [v for node in self.graph.nodes for v in node.attrs.values()]
        return sum(isinstance(value, str) and value == body for value in values) > 1


def _retyped(
    scope: _Scope, node: Node, given: Sequence[_Tag | None], outputs: Sequence[_Tag | None]
) -> Node:
    """A While or an If without the handles among its inputs and outputs."""
    first = len(node.inputs) - len(given)
    taken = [k for k, tag in enumerate(given) if tag is None or not tag.handle]
    inputs = [*node.inputs[:first], *(node.inputs[first + k] for k in taken)]
    left = [k for k, tag in enumerate(outputs) if tag is None or not tag.handle]
    for new, old in enumerate(left):
        scope.moved[Edge(node.name, old)] = Edge(node.name, new)
        scope.tags[Edge(node.name, old)] = outputs[old]
    key = "Tin" if first else "T"
    types = node.attr_strs(key)
    attrs: dict[str, object] = {
        **node.attrs,
        key: ["variant" if given[k] else types[k] for k in taken],
    }
    dtypes = ["variant" if outputs[k] else node.dtypes[k] for k in left]
    if first:
        attrs["Tout"] = dtypes
    return replace(
        node,
        inputs=tuple(map(scope.edge, inputs)),
        attrs=attrs,
        dtypes=tuple(dtypes),
        shapes=tuple(() if outputs[k] else node.shapes[k] for k in left),
        results=tuple(node.results[k] for k in left) if node.results else (),
    )


def _list_op(scope: _Scope, node: Node, flow: _Tag) -> list[Node]:
    """An op on a list in place of one on an array."""
    array = flow.array
    held, *rest = (scope.edge(node.inputs[k]) for k in (_FLOW[node.op], *range(1, _FLOW[node.op])))
    attrs: dict[str, object] = {"element_dtype": array.dtype}
    made = replace(node, inputs=(held, *rest), attrs=attrs)
    match node.op:
        case "TensorArrayWriteV3":
            attrs["resize_if_index_out_of_bounds"] = array.grows
            return [_written(scope, replace(made, op="TensorListSetItem"), flow)]
        case "TensorArrayScatterV3":
            made = replace(made, op="TensorListScatterIntoExistingList", inputs=(held, *rest[::-1]))
            return [_written(scope, made, flow)]
        case "TensorArraySizeV3":
            return [replace(made, op="TensorListLength", attrs={})]
    shape = _known_shape(node.attrs, array)
    constant = _shape_constant(scope, node, shape)
    inputs = (held, *rest, Edge(constant.name))
    match node.op:
        case "TensorArrayReadV3":
            return [constant, replace(made, op="TensorListGetItem", inputs=inputs)]
        case "TensorArrayGatherV3":
            return [constant, replace(made, op="TensorListGather", inputs=inputs)]
    attrs["shape_type"] = "int32"
    name = f"{node.name}/leading_dims"
    dims = Node(name, "Const", (), (), {"value": np.zeros(0, np.int64)}, ("int64",), ((0,),))
    made = replace(made, op="TensorListConcatV2", inputs=(*inputs, Edge(name)))
    return [constant, dims, made]


def _known_shape(attrs: Mapping[str, object], array: _Array) -> Shape | None:
    """The shape of an element, as far as the array or its reader tells; None if its rank is not."""
    given = attrs.get("element_shape")
    own = given if isinstance(given, tuple) else None
    return own if array.shape is None or (own and None not in own) else array.shape


def _written(scope: _Scope, node: Node, flow: _Tag) -> Node:
    scope.tags[Edge(node.name)] = flow
    return replace(node, dtypes=("variant",), shapes=((),))


def _typed(scope: _Scope, node: Node, dtypes: Sequence[str]) -> Node:
    inputs = tuple(map(scope.edge, node.inputs))
    attrs = {**node.attrs, "T": dtypes[0]}
    return replace(node, inputs=inputs, attrs=attrs, dtypes=tuple(dtypes), shapes=((),))


def _shape_constant(scope: _Scope, node: Node, shape: Shape | None) -> Node:
    """A shape as an operand; -1 is what is not known."""
    sizes = -1 if shape is None else [-1 if size is None else size for size in shape]
    value = np.array(sizes, np.int32)
    attrs = {"value": value, "dtype": "int32"}
    name = f"{node.name}/element_shape"
    while name in scope.graph.by_name or name in scope.graph.arguments:
        name += "_"
    return Node(name, "Const", (), (), attrs, ("int32",), (value.shape,))
