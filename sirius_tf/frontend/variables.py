# SPDX-License-Identifier: Apache-2.0
"""The variables of a MetaGraphDef that never change, and the place of their values in the
checkpoint.

Works on the protos alone. A variable is named by its node in the main graph. Its checkpoint key is
found by following the restore op: what a RestoreV2 reads ends in an assignment to the variable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sirius_tf.frontend.convert import CALLS, VARIABLES
from sirius_tf.frontend.upstream import node_of, upstream

_COPIES = {"Identity", "Enter", "RefEnter", "Switch", "RefSwitch"}
_READS = _COPIES | {"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape"}
_READS |= {"VarIsInitializedOp", "IsVariableInitialized", "DisableCopyOnRead"}
_ASSIGN = ("Assign", "AssignVariableOp")


@dataclass(frozen=True)
class Saved:
    """A checkpoint entry: its key and, of a partitioned variable, "shape start,length:..."."""

    key: str
    part: str


class Variables:
    """Looks through the main graph and the library of a MetaGraphDef."""

    def __init__(self, meta_graph: Any, has_reference: Callable[[str], bool]) -> None:
        self._main = {node.name: node for node in meta_graph.graph_def.node}
        self._library = {f.signature.name: f for f in meta_graph.graph_def.library.function}
        self._has_reference = has_reference  # does an op take reference arguments?
        self._assigned_arguments: dict[str, frozenset[int]] = {}
        self._handles = {n: n for n, node in self._main.items() if node.op in VARIABLES}

    def saved(self, restore_op: str) -> dict[str, Saved]:
        """The checkpoint entry of each variable that the restore op assigns."""
        name = restore_op.partition(":")[0]
        if name not in self._main:
            return {}
        return self._restored(upstream(self._main, [name]).values(), self._main, self._handles)

    def assigned(self, outputs: Iterable[str]) -> set[str]:
        """The variables that computing these tensors or running these ops may assign."""
        return self._assigned(upstream(self._main, outputs).values(), self._main, self._handles)

    def argument_count(self, function: str) -> int:
        """The number of arguments of a function; 0 if there is no such function."""
        return len(self._library[function].signature.input_arg) if function in self._library else 0

    def assigned_arguments(self, function: str) -> frozenset[int]:
        """The numbers of the arguments that a function may assign, restoring aside."""
        if function not in self._library:
            return frozenset()
        if function not in self._assigned_arguments:
            self._find_assigned(function)
        return self._assigned_arguments[function]

    def _find_assigned(self, function: str) -> None:
        """Fill in what a function, and those below it, may assign.

        They may call one another: their sets are the least that agree, and grow until they do.
        """
        below = list[str]()
        self._list_calls(function, below)
        grows = True
        while grows:
            grows = False
            for name in below:
                found = self._assigned_in(self._library[name])
                grows |= found != self._assigned_arguments[name]
                self._assigned_arguments[name] = found

    def _list_calls(self, function: str, below: list[str]) -> None:
        """Append a function that is not known yet, behind those that it calls."""
        self._assigned_arguments[function] = frozenset()
        for node in self._library[function].node_def:
            for name in _functions(node):
                if name in self._library and name not in self._assigned_arguments:
                    self._list_calls(name, below)
        below.append(function)

    def _assigned_in(self, definition: Any) -> frozenset[int]:
        nodes = {node.name: node for node in definition.node_def}
        handles = {a.name: i for i, a in enumerate(definition.signature.input_arg)}
        return frozenset(self._assigned(nodes.values(), nodes, handles))

    def _assigned(
        self, nodes: Iterable[Any], scope: Mapping[str, Any], handles: Mapping[str, Any]
    ) -> set[Any]:
        found: set[Any] = set()
        for node in nodes:
            if node.op in _READS or self._restores(node, scope):
                continue
            data = [tensor for tensor in node.input if not tensor.startswith("^")]
            for index, tensor in enumerate(data):
                root = _root(tensor, scope)
                if root not in handles:
                    continue
                if self._assigns(node, index, root in scope and scope[root].op):
                    found.add(handles[root])
        return found

    def _assigns(self, node: Any, index: int, op: str | bool) -> bool:
        functions = _functions(node)
        if functions:
            start = CALLS.get(node.op)
            if start is None:  # a call that is not understood
                return True
            return any(index - start in self.assigned_arguments(f) for f in functions)
        if op in ("VariableV2", "Variable"):
            return self._has_reference(node.op)
        return True

    def _restores(self, node: Any, scope: Mapping[str, Any]) -> bool:
        if node.op not in _ASSIGN:
            return False
        source = _root(node.input[1], scope)
        return source in scope and scope[source].op == "RestoreV2"

    def _restored(
        self, nodes: Iterable[Any], scope: Mapping[str, Any], handles: Mapping[str, Any]
    ) -> dict[Any, Saved]:
        found: dict[Any, Saved] = {}
        for node in nodes:
            if self._restores(node, scope):
                target = _root(node.input[0], scope)
                if target in handles:
                    found[handles[target]] = _entry(node.input[1], scope)
            elif node.op in CALLS:
                for function in _functions(node):
                    found.update(self._restored_by_call(node, function, scope, handles))
        return found

    def _restored_by_call(
        self, node: Any, function: str, scope: Mapping[str, Any], handles: Mapping[str, Any]
    ) -> dict[Any, Saved]:
        definition = self._library[function]
        passed = [t for t in node.input if not t.startswith("^")][CALLS[node.op] :]
        inner: dict[str, Any] = {}
        for argument, tensor in zip(definition.signature.input_arg, passed, strict=True):
            root = _root(tensor, scope)
            if root in handles:
                inner[argument.name] = handles[root]
        nodes = {n.name: n for n in definition.node_def}
        return self._restored(nodes.values(), nodes, inner)


@dataclass(frozen=True, eq=False)
class Tracked:
    """The objects of a SavedModel, and those of its checkpoint that they are, by number."""

    meta_graph: Any
    nodes: Any
    same: Mapping[int, int]

    @staticmethod
    def of(meta_graph: Any, tracked: Any) -> Tracked:
        """Objects that are the same are reached by the same path."""
        objects = meta_graph.object_graph_def
        same: dict[int, int] = {}
        stack = [(0, 0)]
        while stack:
            ours, theirs = stack.pop()
            if ours in same:
                continue
            same[ours] = theirs
            children = {c.local_name: c.node_id for c in tracked.nodes[theirs].children}
            for child in objects.nodes[ours].children:
                if child.local_name in children:
                    stack.append((child.node_id, children[child.local_name]))
        return Tracked(meta_graph, tracked.nodes, same)

    def keys(self, number: int) -> list[str]:
        """The checkpoint keys of an object."""
        if number not in self.same:
            return []
        return [entry.checkpoint_key for entry in self.nodes[self.same[number]].attributes]

    def saved(self) -> dict[str, Saved]:
        """The entries of the variables that calls in the main graph capture, by their nodes."""
        objects = self.meta_graph.object_graph_def
        found: dict[str, Saved] = {}
        for node in self.meta_graph.graph_def.node:
            name = node.attr["f"].func.name if node.op in CALLS and "f" in node.attr else ""
            if name in objects.concrete_functions:
                bound = objects.concrete_functions[name].bound_inputs
                data = [tensor for tensor in node.input if not tensor.startswith("^")]
                for tensor, number in zip(data[len(data) - len(bound) :], bound, strict=True):
                    if objects.nodes[number].HasField("variable") and self.keys(number):
                        found[node_of(tensor)] = Saved(self.keys(number)[0], "")
        return found

    def assigned(self, variables: Variables) -> set[str]:
        """Keys of what methods of the objects, signatures or not, assign."""
        objects = self.meta_graph.object_graph_def
        found: set[str] = set()
        training = _keras_functions(objects)
        for function, concrete in objects.concrete_functions.items():
            if function in training:
                continue
            count = len(concrete.bound_inputs)
            definition = variables.argument_count(function)
            for index in variables.assigned_arguments(function):
                position = index - (definition - count)
                if position >= 0:
                    found.update(self.keys(concrete.bound_inputs[position]))
        return found


def _keras_functions(objects: Any) -> set[str]:
    """The traces of Keras layers' calls; of these only training assigns, as does any optimizer.

    What a signature does not reach of them serving cannot run, so they fix no variable as assigned.
    """
    found: set[str] = set()
    for node in objects.nodes:
        if node.user_object.identifier.startswith("_tf_keras_"):
            for child in node.children:
                if child.local_name.startswith(("call_and_return_", "__call__")):
                    found.update(objects.nodes[child.node_id].function.concrete_functions)
    return found


def _functions(node: Any) -> list[str]:
    names = [value.func.name for value in node.attr.values() if value.HasField("func")]
    return names + [f.name for value in node.attr.values() for f in value.list.func]


def _copied(tensor: str, scope: Mapping[str, Any]) -> str:
    while node_of(tensor) in scope and scope[node_of(tensor)].op in _COPIES:
        tensor = scope[node_of(tensor)].input[0]
    return tensor


def _root(tensor: str, scope: Mapping[str, Any]) -> str:
    """The node or argument a tensor is a copy of."""
    return node_of(_copied(tensor, scope))


def _entry(tensor: str, scope: Mapping[str, Any]) -> Saved:
    """The entry of the checkpoint that an output of a RestoreV2 is."""
    tensor = _copied(tensor, scope)
    restore = scope[node_of(tensor)]
    number = tensor.rpartition(":")[2]
    index = int(number) if ":" in tensor and number.isdigit() else 0
    texts = [scope[_root(restore.input[i], scope)].attr["value"].tensor for i in (1, 2)]
    # One value in a string tensor may stand for all of them.
    key, part = (t.string_val[min(index, len(t.string_val) - 1)].decode() for t in texts)
    return Saved(key, part)
