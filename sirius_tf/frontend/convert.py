# SPDX-License-Identifier: Apache-2.0
"""From TensorFlow's graph objects to Graphs; they are only looked at, TensorFlow is not imported.

Variables whose value is known become Variable nodes here: their handles and whatever reads them
are replaced by an edge that carries the value, also into the bodies of While and If.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sirius_tf.errors import SiriusError
from sirius_tf.frontend.graph import Argument, Edge, Graph, Node, Shape

VARIABLES = ("VarHandleOp", "VariableV2", "Variable")
CALLS = {"PartitionedCall": 0, "StatefulPartitionedCall": 0, "While": 0, "StatelessWhile": 0}
CALLS |= {"If": 1, "StatelessIf": 1, "Case": 1, "StatelessCase": 1}
"""Ops with functions as bodies, and which of their inputs is the first the body takes."""
_COPIES = ("Identity", "ReadVariableOp")
_GUARDS = ("Enter", "RefEnter", "Switch", "RefSwitch")
"""Ops that hand a handle on into a loop or a branch of TF1."""
_PURE = ("DisableCopyOnRead", "VarIsInitializedOp")


@dataclass(frozen=True)
class Body:
    """A function as a graph: its argument tensors, its named results and its effects."""

    inputs: Sequence[Any]
    outputs: Sequence[tuple[str, Any]]
    effects: Sequence[Any]


@dataclass(frozen=True)
class Source:
    """The services that conversion asks of TensorFlow: values of variables, bodies, and decoded
    protos."""

    values: Mapping[str, np.ndarray[Any, Any]]
    body: Callable[[str, Sequence[Shape | None]], Body]
    array: Callable[[Any], np.ndarray[Any, Any]]
    dtype: Callable[[int], str]


def convert(
    source: Source,
    name: str,
    arguments: Mapping[str, Argument],
    outputs: Iterable[tuple[str, Any]],
    effects: Iterable[Any] = (),
    constants: Iterable[str] = (),
) -> Graph:
    """The Graph of what `outputs` and `effects` need, cut at the tensors in `arguments`.

    `constants` are those of `arguments` that are handles of variables with a known value.
    """
    outputs, effects = list(outputs), list(effects)
    converter = _Converter(source, arguments, constants)
    roots = [t.op for _, t in outputs if t.name not in arguments] + effects
    for op in _ordered(roots, arguments):
        converter.visit(op)
    results = tuple((key, converter.edge(tensor)) for key, tensor in outputs)
    needed = {edge.node for _, edge in results}
    needed.update(name for op in effects for name in converter.after(op))
    nodes = _needed(converter.nodes, needed)
    called = {name for node in nodes for name in _called(node)}
    bodies = {key: body for key, body in converter.bodies.items() if key in called}
    return Graph(name, tuple(arguments.values()), results, nodes, bodies)


def static_shape(tensor: Any) -> Shape | None:
    """The static shape of a TensorFlow tensor."""
    return None if tensor.shape.rank is None else tuple(tensor.shape.as_list())


def dtype_name(tensor: Any) -> str:
    """The name of the dtype of a TensorFlow tensor, of the value for a reference."""
    return str(tensor.dtype.base_dtype.name)


def _ordered(roots: Sequence[Any], cut: Mapping[str, Argument]) -> list[Any]:
    """The ops that `roots` need, each after what it needs itself."""
    order: list[Any] = []
    seen = {name.rpartition(":")[0] for name in cut if name.endswith(":0")}
    stack = [(op, False) for op in reversed(roots)]
    while stack:
        op, done = stack.pop()
        if done:
            order.append(op)
        elif op.name not in seen:
            seen.add(op.name)
            stack.append((op, True))
            needs = _awaited(op) + [t.op for t in op.inputs if t.name not in cut]
            stack.extend((need, False) for need in reversed(needs))
    return order


def _awaited(op: Any) -> list[Any]:
    """The control inputs of an op by name: TensorFlow has them in the order of its pointers."""
    return sorted(op.control_inputs, key=lambda awaited: awaited.name)


def _needed(nodes: Sequence[Node], needed: set[str]) -> tuple[Node, ...]:
    """The nodes, of some in topological order, that the needed ones need, these included."""
    kept = []
    for node in reversed(nodes):
        if node.name in needed:
            kept.append(node)
            needed.update(edge.node for edge in node.inputs)
            needed.update(node.control_inputs)
    return tuple(reversed(kept))


def _called(node: Node) -> Iterable[str]:
    for value in node.attrs.values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, _Function):
                yield item


class _Converter:
    def __init__(
        self, source: Source, arguments: Mapping[str, Argument], constants: Iterable[str]
    ) -> None:
        self.source = source
        self._arguments = arguments
        self.nodes: list[Node] = []
        self.bodies: dict[str, Graph] = {}
        self._made: dict[tuple[object, ...], _Function] = {}
        self._edges = {tensor: Edge(argument.name) for tensor, argument in arguments.items()}
        self._constants = set(constants)  # tensors that stand for a variable's value
        self._types = {Edge(a.name): (a.dtype, a.shape) for a in arguments.values()}
        self._guarded: set[Edge] = set()  # values inside of loops and branches of TF1
        self._folded: dict[str, tuple[str, ...]] = {}  # dropped op -> its control inputs

    def edge(self, tensor: Any) -> Edge:
        """The edge that carries the value of a tensor."""
        found = self._edges.get(tensor.name)
        return found if found is not None else Edge(tensor.op.name, tensor.value_index)

    def after(self, op: Any) -> tuple[str, ...]:
        """The nodes to wait for where an op is to be waited for."""
        if op.outputs and op.outputs[0].name in self._arguments:
            return ()
        return self._folded.get(op.name, (op.name,))

    def visit(self, op: Any) -> None:
        """Add the node of an op, or fold it away."""
        first = op.inputs[0] if len(op.inputs) else None
        constant = first is not None and first.name in self._constants
        if op.type in VARIABLES and op.name in self.source.values:
            self._variable(op)
        elif constant and op.type in _COPIES and not (op.control_inputs and _is_value(first)):
            self._alias(op.outputs[0], self.edge(first))
            self._folded[op.name] = self._controls(op)
        elif op.type == "NoOp" or (constant and op.type in _PURE and not op.outputs):
            self._folded[op.name] = self._controls(op)
        elif constant and op.type in ("ResourceGather", "ResourceGatherNd", "VariableShape"):
            self._read(op, self.edge(first))
        elif constant and op.type in _GUARDS:
            self._guard(op, self.edge(first))
        elif op.type in CALLS:
            self._call(op)
        elif op.type == "PlaceholderWithDefault":  # no input of the signature
            self._edges[op.outputs[0].name] = self.edge(first)
            self._folded[op.name] = self._controls(op)
        else:
            self._add(self._node(op))
            if op.type == "Const":
                self._folded[op.name] = self._controls(op)

    def _variable(self, op: Any) -> None:
        value = self.source.values[op.name]
        dtype = self.source.dtype(op.node_def.attr["dtype"].type)
        attrs = {"value": value, "dtype": dtype}
        self._add(Node(op.name, "Variable", (), (), attrs, (dtype,), (value.shape,)))
        self._alias(op.outputs[0], Edge(op.name))
        self._folded[op.name] = ()  # to wait for it is no wait

    def _alias(self, tensor: Any, edge: Edge) -> None:
        self._edges[tensor.name] = edge
        self._constants.add(tensor.name)

    def _guard(self, op: Any, variable: Edge) -> None:
        """The op on the value; what it hands on into a loop or a branch is the value too."""
        node, count = self._node(op), len(op.outputs)
        dtype, shape = self._types[variable]
        kind = op.type.removeprefix("Ref")
        self._add(replace(node, op=kind, dtypes=(dtype,) * count, shapes=(shape,) * count))
        for k, tensor in enumerate(op.outputs):
            self._alias(tensor, Edge(op.name, k))
            self._guarded.add(Edge(op.name, k))

    def _read(self, op: Any, params: Edge) -> None:
        """ResourceGather and its like become the op on values."""
        node = self._node(op)
        dtype, shape = self._types[params]
        attrs: dict[str, object]
        if op.type == "VariableShape" and params in self._guarded:
            attrs = {"T": dtype, "out_type": node.dtypes[0]}
            self._add(replace(node, op="Shape", attrs=attrs))  # a constant would be anywhere
            return
        if op.type == "VariableShape":
            array = np.array(shape, node.dtypes[0])
            attrs = {"value": array, "dtype": node.dtypes[0]}
            self._add(replace(node, op="Const", inputs=(), attrs=attrs))
            return
        attrs = dict(node.attrs, Tparams=dtype)
        if op.type == "ResourceGatherNd":
            self._add(replace(node, op="GatherNd", attrs=attrs))
            return
        axis = np.array(attrs.get("batch_dims", 0), np.int32)
        name = f"{op.name}/axis"
        self._add(Node(name, "Const", (), (), {"value": axis, "dtype": "int32"}, ("int32",), ((),)))
        attrs["Taxis"] = "int32"
        self._add(replace(node, op="GatherV2", inputs=(*node.inputs, Edge(name)), attrs=attrs))

    def _call(self, op: Any) -> None:
        """An op with bodies: they are converted for the inputs it passes them."""
        node, start = self._node(op), CALLS[op.type]
        passed = op.inputs[start:]
        constant = [t.name in self._constants for t in passed]
        dtypes, shapes = list(node.dtypes), list(node.shapes)
        attrs = dict(node.attrs)
        loop = op.type.endswith("While")
        inner = list(shapes) if loop else [static_shape(t) for t in passed]
        if loop:
            body = self.source.body(str(attrs["body"]), inner)
            for index, (_, result) in enumerate(body.outputs):
                if _origin(result) is body.inputs[index]:  # the loop does not change it
                    edge = node.inputs[index]
                    if constant[index]:
                        dtypes[index], shapes[index] = self._types[edge]
                        self._alias(op.outputs[index], edge)
                    else:
                        shapes[index] = inner[index] = static_shape(passed[index])
                elif constant[index]:
                    raise SiriusError(
                        f"loop '{op.name}' ({op.type}) replaces the handle of a variable; leave "
                        "its signature out"
                    )
        types = [self._types.get(edge) for edge in node.inputs[start:]]
        known = [t if c else None for t, c in zip(types, constant, strict=True)]
        for key, value in attrs.items():
            if isinstance(value, _Function):
                attrs[key] = self._body(value, inner, known)
            elif isinstance(value, list) and value and isinstance(value[0], _Function):
                attrs[key] = [self._body(function, inner, known) for function in value]
        key = "T" if loop else "Tin"
        attrs[key] = [k[0] if k else dtype_name(t) for k, t in zip(known, passed, strict=True)]
        self._add(replace(node, attrs=attrs, dtypes=tuple(dtypes), shapes=tuple(shapes)))

    def _body(
        self,
        function: str,
        shapes: Sequence[Shape | None],
        known: Sequence[tuple[str, Shape | None] | None],
    ) -> _Function:
        """The name under which the body for these argument types is in `bodies`."""
        key = (str(function), tuple(shapes), tuple(known))
        if key in self._made:
            return self._made[key]
        name = _Function(function)
        while name in self.bodies:
            name = _Function(name + "_")
        self._made[key] = name
        body = self.source.body(str(function), shapes)
        arguments, constants = {}, []
        for tensor, value in zip(body.inputs, known, strict=True):
            dtype, shape = value or (dtype_name(tensor), static_shape(tensor))
            arguments[tensor.name] = Argument(tensor.op.name, dtype, shape)
            if value:
                constants.append(tensor.name)
        self.bodies[name] = convert(
            self.source, name, arguments, body.outputs, body.effects, constants
        )
        return name

    def _add(self, node: Node) -> None:
        self.nodes.append(node)
        types = zip(node.dtypes, node.shapes, strict=True)
        self._types.update((Edge(node.name, i), pair) for i, pair in enumerate(types))

    def _controls(self, op: Any) -> tuple[str, ...]:
        """The nodes that an op waits for, those included that a folded or constant operand of it
        waits for."""
        waits = [name for c in _awaited(op) for name in self.after(c)]
        if op.type != "Merge":  # it waits for one operand only
            waits += [name for t in op.inputs for name in self._folded.get(t.op.name, ())]
        return tuple(dict.fromkeys(waits))

    def _node(self, op: Any) -> Node:
        attrs = {  # in order: that of a map of protobuf differs between runs
            key: _value(self.source, value)
            for key, value in sorted(op.node_def.attr.items())
            if not key.startswith("_")
        }
        return Node(
            op.name,
            op.type,
            tuple(self.edge(tensor) for tensor in op.inputs),
            self._controls(op),
            attrs,
            tuple(dtype_name(tensor) for tensor in op.outputs),
            tuple(static_shape(tensor) for tensor in op.outputs),
        )


class _Function(str):
    """The name of a function, as opposed to a string."""


def _is_value(tensor: Any) -> bool:
    return dtype_name(tensor) != "resource"


def _origin(tensor: Any) -> Any:
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor


def _value(source: Source, value: Any) -> object:
    """The Python value of an AttrValue."""
    kind = value.WhichOneof("value")
    if kind == "list":
        items = value.list
        for listed in ("s", "i", "f", "b", "type", "shape", "tensor", "func"):
            if len(getattr(items, listed)):
                return [_item(source, listed, item) for item in getattr(items, listed)]
        return []
    return _item(source, kind, getattr(value, kind)) if kind else None


def _item(source: Source, kind: str, item: Any) -> object:
    if kind == "s":
        try:
            return item.decode("utf-8")
        except UnicodeDecodeError:
            return item
    if kind == "type":
        return source.dtype(item)
    if kind == "tensor":
        return source.array(item)
    if kind == "func":
        return _Function(item.name)
    if kind == "shape":
        if item.unknown_rank:
            return None
        return tuple(None if d.size < 0 else int(d.size) for d in item.dim)
    return item
