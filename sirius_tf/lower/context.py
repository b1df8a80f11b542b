# SPDX-License-Identifier: Apache-2.0
"""Lowering: what rules read of the graph."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from sirius_tf.errors import Unsupported, defect
from sirius_tf.frontend.graph import Argument, Edge, Graph, Node
from sirius_tf.ir import program as ir
from sirius_tf.ir.affine import Affine, affine
from sirius_tf.ir.dtypes import HALF
from sirius_tf.ir.expr import Dim as DimExpr
from sirius_tf.ir.expr import Expr, Load
from sirius_tf.ir.polynomial import NotAffineError, poly
from sirius_tf.lower import entry_values
from sirius_tf.lower.builder import Emitter
from sirius_tf.lower.live import live_nodes
from sirius_tf.lower.tensors import Carried, Read, TensorList, load
from sirius_tf.lower.value import Host, Indices, Value

Rule = Callable[["Lowering", Node], Carried | list[Value] | list[Carried]]


class _LateError(Unsupported, NotAffineError):
    """A view has no affine subscripts in the expression that reads it."""


def _late(node: Node, reason: str) -> _LateError:
    return _LateError(node.name, node.op, reason)


@dataclass(kw_only=True)
class Lowering(Emitter):
    """One Graph being lowered. Rules read their inputs and define tensors through it."""

    graph: Graph
    hints: Mapping[str, Sequence[int]]
    rules: Mapping[str, Rule]
    reads: dict[str, list[Read]] = field(default_factory=dict)
    loop_numbers: Iterator[int] = field(default_factory=itertools.count)
    _values: dict[Edge, Carried] = field(default_factory=dict)

    # Inputs of the current node

    def input(self, k: int) -> Value:
        """Input `k` of the current node; sizes known to be equal have one name."""
        return self.read(self.node.inputs[k])

    def inputs(self) -> list[Value]:
        """All inputs of the current node."""
        return [self.read(edge) for edge in self.node.inputs]

    def read(self, edge: Edge) -> Value:
        """The tensor an edge carries."""
        value = self.carried(edge)
        if isinstance(value, TensorList):
            raise self.unsupported("a list is used as a tensor")
        return value

    def tensor_list(self, k: int) -> TensorList:
        """Input `k` of the current node, a TensorList."""
        value = self.carried(self.node.inputs[k])
        if not isinstance(value, TensorList):
            raise self.unsupported(f"input {k} is a list that is not made in this region")
        return value

    def carried(self, edge: Edge) -> Carried:
        """The tensor or list that an edge carries; sizes known to be equal have one name."""
        value = self._values[edge]
        if isinstance(value, TensorList):
            return value
        dims = tuple(tuple(a.substitute(self._same) for a in dim) for dim in value.dims)
        return Value(value.dtype, dims, value.at, value.host)

    def passed(self, start: int) -> list[Carried | None]:
        """The inputs of the current node from `start` on, None for one that no body reads."""
        edges = self.node.inputs[start:]
        return [self.carried(edge) if edge in self._values else None for edge in edges]

    def host(self, k: int) -> Host:
        """Input `k` as polynomials; elements of integer inputs of the region become parameters."""
        found = self.known(self.input(k), inputs=True)
        if found is None:
            raise self.unsupported(f"input {k} must be known before the region runs")
        return found

    def host_int(self, k: int) -> int:
        """Input `k`, a constant scalar."""
        return self.host_ints(k)[0]

    def host_ints(self, k: int) -> list[int]:
        """Input `k`, constants, flat."""
        elements = [poly(e) for e in self.host(k).reshape(-1)]
        if not all(e.is_const for e in elements):
            raise self.unsupported(f"input {k} must be constant")
        return [e.const for e in elements]

    def known(self, value: Value, inputs: bool = False) -> Host | None:
        """The elements as polynomials, or None. With `inputs`, define parameters for inputs."""
        if value.host is not None:
            return value.host
        params = self.params if inputs else None
        return entry_values.small(value, lambda e: entry_values.to_poly(e, self.tensors, params))

    def entry(self, value: Value) -> Host | None:
        """The elements as expressions that can be evaluated before the region runs, or None."""
        return entry_values.small(value, lambda e: entry_values.to_condition(e, self.tensors))

    # Branches

    @contextmanager
    def scope(self, guards: Sequence[ir.Guard] = ()) -> Iterator[None]:
        """Context manager: statements defined inside get the guards; equalities of sizes that are
        learned inside a branch are dropped at its end."""
        outside, same, fitted = self.guards, self._same, self.fitted
        self.guards = (*outside, *guards)
        try:
            yield
        finally:
            self.guards = outside
            self._same = same if self.fitted > fitted else self._same

    def when(
        self, guards: Sequence[ir.Guard], graph: Graph, arguments: Sequence[Carried | None]
    ) -> list[Carried]:
        """Lower a branch: what `graph` defines is defined where the guards hold.

        If sizes had to fit there, its results are tensors: a view may leave what it is of where
        they do not.
        """
        fitted = self.fitted
        with self.scope(guards):
            results = self.body(graph, arguments)
            return [self._stored(r) for r in results] if self.fitted > fitted else results

    def _stored(self, result: Carried) -> Carried:
        if isinstance(result, TensorList):
            writes = (replace(w, value=self._tensor(w.value)) for w in result.writes)
            return replace(result, writes=tuple(writes))
        return self._tensor(result)

    def _tensor(self, value: Value) -> Value:
        return replace(self.materialize(value), host=value.host)

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Rules may run inside, but what they define is forgotten."""
        tensors, same = dict(self.tensors), dict(self._same)
        statements, checks, context = self.statements[:], self.checks[:], self.context[:]
        messages, fitted = self.messages[:], self.fitted
        try:
            with self.scope():
                yield
        finally:
            self.messages, self.fitted = messages, fitted
            self.tensors, self._same = tensors, same
            self.statements, self.checks, self.context = statements, checks, context

    # The graph

    def argument(self, argument: Argument) -> None:
        """Declare an input of the region."""
        if argument.shape is None:
            raise Unsupported(
                argument.name, "Placeholder", "its rank is not known: give it a shape"
            )
        if len(argument.shape) > ir.MAX_RANK:
            raise Unsupported(argument.name, "Placeholder", f"its rank is above {ir.MAX_RANK}")
        name = self.fresh(argument.name)
        hints = self.hints.get(argument.name, (8,) * len(argument.shape))
        shape: list[Affine] = []
        for axis, size in enumerate(argument.shape):
            expr = DimExpr(name, axis)
            known = poly(size) if size is not None else None
            size_ = known or self.params.define(f"{name}_{axis}", expr, hints[axis])
            shape.append(affine(size) if size is not None else size_.to_affine())
        self.tensors[name] = ir.Tensor(name, tuple(shape), argument.dtype, "input")
        dims = [() if a == affine(1) else (a,) for a in shape]
        self._values[Edge(argument.name)] = load(name, argument.dtype, dims, shape)

    def lower_node(self, node: Node) -> None:
        """Apply the rule of one node."""
        self.node = node
        if node.op not in self.rules:
            raise self.unsupported("there is no rule for this op")
        try:
            result = self.rules[node.op](self, node)
        except Unsupported:
            raise
        except NotAffineError as error:
            raise self.unsupported(str(error)) from error
        except Exception as error:
            raise self.unsupported(defect(error)) from error
        for k, value in enumerate(result if isinstance(result, list) else [result]):
            if isinstance(value, Value):
                self._nonnegative(value)
                value = self._answerable(value)
            self._values[Edge(node.name, k)] = self._rounded(value, k)

    def _answerable(self, value: Value) -> Value:
        """The result of a node, for whose subscripts it answers where they are evaluated: views are
        evaluated late, when the rules of other nodes run."""
        node, names, given = self.node, self.graph.by_name, self._values
        if any(value.at is getattr(given.get(edge), "at", None) for edge in node.inputs):
            return value

        def at(i: Indices) -> Expr:
            try:
                return value.at(i)
            except _LateError as error:
                if error.node in names:
                    raise
                raise _late(node, f"inside: {error}") from error
            except NotAffineError as error:
                raise _late(node, str(error)) from error

        return replace(value, at=at)

    def _nonnegative(self, value: Value) -> None:
        """No rule makes a tensor of which nobody has looked at the sizes.

        Sizes that depend on the iteration of a loop, or on data, are its rule's own business.
        """
        for size in dict.fromkeys(
            atom for atom in value.atoms if not atom.is_const or atom.const < 0
        ):
            if not self.params.iterates(poly(size)) and not self.params.depends(size):
                self.nonnegative(size)

    def _rounded(self, value: Carried, k: int) -> Carried:
        """Output `k` of the current node, of which the rule may have left the sum in float32."""
        dtype = self.node.dtypes[k]
        if isinstance(value, TensorList) or dtype not in HALF or value.dtype == dtype:
            return value
        return self.map(lambda e: e, value, dtype=dtype)

    def body(self, graph: Graph, arguments: Sequence[Carried | None]) -> list[Carried]:
        """Lower a function's graph for given arguments, None for those that it does not read; what
        its outputs carry."""
        outer = self.graph, self.node, self._values
        named = zip(graph.inputs, arguments, strict=True)
        values = {Edge(a.name): value for a, value in named if value is not None}
        self.graph, self._values = graph, values
        try:
            for node in live_nodes(graph):
                self.lower_node(node)
            return [self.carried(edge) for _, edge in graph.outputs]
        finally:
            self.graph, self.node, self._values = outer

    def finish(self) -> ir.Program:
        """Define the outputs and put the Program together."""
        outputs = []
        for name, edge in self.graph.outputs:
            self.node = Node(name, "Output")
            value = self.read(edge)
            if value.rank > ir.MAX_RANK:
                raise self.unsupported(f"a result of a rank above {ir.MAX_RANK} stays inside")
            if not all(self.params.limited(atom) for atom in value.atoms):
                raise self.unsupported("nothing bounds the size of a result")
            stored = self.define(value.dtype, value.dims, value.at, "output")
            load = stored.at((affine(0),) * len(stored.atoms))
            assert isinstance(load, Load)
            outputs.append(ir.Output(load.tensor, tuple(s.to_expr() for s in value.shape)))
        return ir.Program(
            self.graph.name,
            tuple(self.params.defined),
            tuple(self.checks),
            tuple(self.context),
            tuple(self.tensors.values()),
            tuple(self.statements),
            tuple(t.name for t in self.tensors.values() if t.role == "input"),
            tuple(outputs),
            tuple(self.messages),
        )
