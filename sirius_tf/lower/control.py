# SPDX-License-Identifier: Apache-2.0
"""Rules of control flow: counted loops, calls, and assertions.

A While becomes an iterator t in [0, T). Of its variables, some stay as they are, some are counters
`start + step * t`, some are lists that iteration t writes (see lists.py), and the others are
carried: such a variable h is one tensor with a slice per iteration,

    h[0] = its initial value       h[t + 1] = its new value, from h[t]      after the loop: h[T]

T follows from the condition, which must hold until the counters reach limits known on entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sirius_tf.errors import Unsupported
from sirius_tf.frontend.graph import Edge, Graph, Node
from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import Const, Expr, Load
from sirius_tf.ir.program import Iter
from sirius_tf.lower import value as values
from sirius_tf.lower.boxes import scalar
from sirius_tf.lower.expand import expand_statement, expand_tensor, forward, varying
from sirius_tf.lower.lists import conform, settled, written
from sirius_tf.lower.registry import Lowering, lowers
from sirius_tf.lower.symbolic import Poly, poly
from sirius_tf.lower.tensors import Carried, TensorList, iterators
from sirius_tf.lower.value import Indices, Value

_SLACK: Mapping[str, Callable[[Poly, Poly], Poly]] = {
    "Less": lambda a, b: b - a - 1,
    "LessEqual": lambda a, b: b - a,
    "Greater": lambda a, b: a - b - 1,
    "GreaterEqual": lambda a, b: a - b,
}
"""What is >= 0 exactly if the comparison holds."""

_ON_DATA = "the exit depends on data"


@lowers("While", "StatelessWhile")
def _while(ctx: Lowering, node: Node) -> list[Carried]:
    try:
        return _Loop(ctx, node, [ctx.carried(edge) for edge in node.inputs]).lower()
    except Unsupported as error:
        raise _outer(node, error) from error


@lowers("PartitionedCall", "StatefulPartitionedCall")
def _call(ctx: Lowering, node: Node) -> list[Carried]:
    body = ctx.graph.bodies.get(node.attr_str("f"))
    if body is None:
        raise ctx.unsupported("its function is not in the graph")
    try:
        return ctx.body(body, [ctx.carried(edge) for edge in node.inputs])
    except Unsupported as error:
        raise _outer(node, error) from error


def _outer(node: Node, error: Unsupported) -> Unsupported:
    """The error of a node of a body as one of the node that has the body."""
    if error.node == node.name:
        return error
    return Unsupported(node.name, node.op, f"{error.node} ({error.op}) inside: {error.reason}")


def _source(graph: Graph, edge: Edge) -> Edge:
    """The edge behind ops that pass their input on."""
    node = graph.by_name.get(edge.node)
    while node is not None and node.op in ("Identity", "StopGradient"):
        edge = node.inputs[0]
        node = graph.by_name.get(edge.node)
    return edge


@dataclass
class _Loop:
    """One While being lowered; `initial` are its variables on entry."""

    ctx: Lowering
    node: Node
    initial: Sequence[Carried]
    steps: dict[int, int] = field(default_factory=dict)  # of counters; 0 is a fixed variable
    tensors: dict[int, str] = field(default_factory=dict)  # of carried variables

    def lower(self) -> list[Carried]:
        """What the variables are after the loop."""
        ctx, params = self.ctx, self.ctx.params
        body = ctx.graph.bodies[self.node.attr_str("body")]
        cond = ctx.graph.bodies[self.node.attr_str("cond")]
        self.steps = {
            k: s for k in range(len(self.initial)) if (s := self._step(body, k)) is not None
        }
        name = f"t{next(ctx.loop_numbers)}"
        params.loops[name] = None
        trips = self._trips(cond, name)
        params.loops[name] = trips
        loop = Iter(name, trips.to_affine(), loop=True)
        before = [self._enter(k, trips) for k in range(len(self.initial))]
        mark, outside = len(ctx.statements), set(ctx.tensors)
        after = ctx.body(
            body, [self._argument(k, symbol(name), before) for k in range(len(before))]
        )
        arrays = self._carry(before, after, loop, trips)
        self._expand(mark, set(ctx.tensors) - outside, loop)
        del params.loops[name]
        return [
            arrays[k] if k in arrays else self._argument(k, trips.to_affine(), before)
            for k in range(len(before))
        ]

    # The variables

    def _name(self, k: int) -> str:
        return f"{self.node.name}_{k}"

    def _step(self, body: Graph, k: int) -> int | None:
        """What an iteration adds to a variable, if that is a constant."""
        own = Edge(body.inputs[k].name)
        result = _source(body, body.outputs[k][1])
        if result == own:
            return 0
        node, first = body.by_name.get(result.node), self.initial[k]
        if node is None or node.op not in ("Add", "AddV2", "Sub") or isinstance(first, TensorList):
            return None
        a, b = (_source(body, edge) for edge in node.inputs)
        if b == own and node.op != "Sub":
            a, b = b, a
        step = self._constant(body, b)
        if a != own or step is None or first.rank or self.ctx.known(first, inputs=True) is None:
            return None
        return -step if node.op == "Sub" else step

    def _constant(self, body: Graph, edge: Edge) -> int | None:
        """A constant scalar of the body, also one that comes in through a fixed variable."""
        node = body.by_name.get(edge.node)
        if node is not None:
            value = node.attr_array() if node.op == "Const" else None
            return int(value) if value is not None and value.ndim == 0 else None
        k = next(k for k, argument in enumerate(body.inputs) if argument.name == edge.node)
        given = self.initial[k]
        if _source(body, body.outputs[k][1]) != edge or isinstance(given, TensorList):
            return None
        host = self.ctx.known(given)
        constant = host is not None and not given.rank and values.element(host, ()).is_const
        return values.element(host, ()).const if host is not None and constant else None

    def _counter(self, k: int, position: Affine) -> Value:
        first = self.initial[k]
        assert isinstance(first, Value)
        host = self.ctx.known(first, inputs=True)
        assert host is not None
        now = values.element(host, ()) + self.steps[k] * poly(position)
        return self.ctx.from_host(scalar(now), first.dtype)

    def _enter(self, k: int, trips: Poly) -> Carried:
        """A variable as the loop starts from it; what is carried gets a tensor."""
        ctx, first = self.ctx, self.initial[k]
        if k in self.steps:
            return first
        if isinstance(first, TensorList):
            if first.carrier:
                raise ctx.unsupported("nested loops write one list")
            return settled(ctx, first)
        shape = (trips.to_affine() + 1, *first.atoms)
        name = ctx.new_tensor(first.dtype, shape, stem=self._name(k))
        i = iterators("i", first.atoms)
        ctx.write(name, first.atoms, (affine(0), *i), first.at(i))
        self.tensors[k] = name
        return first

    def _argument(self, k: int, position: Affine, before: Sequence[Carried]) -> Carried:
        """A variable at the start of iteration `position`."""
        first = before[k]
        if self.steps.get(k) == 0:
            return first
        if k in self.steps:
            return self._counter(k, position)
        if isinstance(first, TensorList):
            return TensorList(first.dtype, first.length, carrier=self._name(k))
        name, dtype = self.tensors[k], first.dtype
        return Value(dtype, first.dims, lambda i: Load(name, (position, *i), dtype))

    # The condition

    def _trips(self, cond: Graph, name: str) -> Poly:
        """How often the condition holds: the least count of its conjuncts."""
        ctx, params = self.ctx, self.ctx.params
        counts, slacks = [], list[Poly]()
        for slack in self._slacks(cond, symbol(name)):
            first = slack.substitute({name: 0})
            slope = (slack - first).exact_div(symbol(name))
            if slope is None or not slope.is_const or slope.const >= 0:
                raise ctx.unsupported("the exit is not where a counter reaches a limit")
            step = -slope.const
            count = params.opaque("floordiv", first + step, step)
            counts.append(params.opaque("max", count, 0))
            if params.at_least(first + step, 0):  # T is the least count, so that it bounds T
                slacks.append(slack)
        trips = counts[0]
        for count in counts[1:]:
            trips = params.opaque("min", trips, count)
        if trips.degree > 1:
            hint = trips.evaluate(params.hints)
            trips = params.define("trips", trips.to_expr(), hint, params.lower_bound(trips) or 0)
        for slack in slacks:
            last = slack.substitute({name: trips - 1})
            if last.degree <= 1 and not params.at_least(last, 0):
                ctx.context.append(last.to_affine())
        return trips

    def _slacks(self, cond: Graph, t: Affine) -> list[Poly]:
        """Of every conjunct, what is >= 0 exactly while it holds."""
        ctx = self.ctx
        comparisons = self._conjuncts(cond, cond.outputs[0][1])
        operands = [edge for node in comparisons for edge in node.inputs]
        needed = {edge.node for edge in operands}
        for node in reversed(cond.nodes):
            if node.name in needed:
                needed |= {edge.node for edge in node.inputs}
        nodes = tuple(node for node in cond.nodes if node.name in needed)
        outputs = tuple((str(edge), edge) for edge in operands)
        part = Graph(cond.name, cond.inputs, outputs, nodes, cond.bodies)
        arguments = [self._known(k, t) for k in range(len(self.initial))]
        hosts = []
        for operand in ctx.body(part, arguments):
            host = ctx.known(operand, inputs=True) if isinstance(operand, Value) else None
            if host is None or host.ndim:
                raise ctx.unsupported(_ON_DATA)
            hosts.append(values.element(host, ()))
        pairs = zip(comparisons, hosts[::2], hosts[1::2], strict=True)
        return [_SLACK[node.op](a, b) for node, a, b in pairs]

    def _conjuncts(self, cond: Graph, edge: Edge) -> list[Node]:
        node = cond.by_name.get(_source(cond, edge).node)
        if node is not None and node.op == "LogicalAnd":
            return [n for edge in node.inputs for n in self._conjuncts(cond, edge)]
        if node is None or node.op not in _SLACK:
            raise self.ctx.unsupported(_ON_DATA)
        return [node]

    def _known(self, k: int, t: Affine) -> Carried:
        """A variable in the condition, where the elements of what is carried are not known."""
        first = self.initial[k]
        if self.steps.get(k):
            return self._counter(k, t)
        if k in self.steps or isinstance(first, TensorList):
            return first

        def unknown(i: Indices) -> Expr:
            raise Unsupported(self.node.name, self.node.op, _ON_DATA)

        return Value(first.dtype, first.dims, unknown)

    # The body

    def _carry(
        self, before: Sequence[Carried], after: Sequence[Carried], loop: Iter, trips: Poly
    ) -> dict[int, TensorList]:
        """Write what an iteration leaves to the next one; the arrays that lists have become."""
        ctx, arrays = self.ctx, dict[int, TensorList]()
        for k, result in enumerate(after):
            first = before[k]
            if k in self.steps:
                continue
            if isinstance(first, Value) and isinstance(result, Value):
                i = iterators("i", first.atoms)
                new = conform(ctx, result, first.dims).at(i)
                next_ = symbol(loop.name) + 1
                ctx.write(self.tensors[k], first.atoms, (next_, *i), new, None, (loop,))
                continue
            assert isinstance(first, TensorList)
            if not isinstance(result, TensorList) or result.carrier != self._name(k):
                raise ctx.unsupported("the loop replaces a list")
            if len(result.writes) != 1:
                raise ctx.unsupported("an iteration writes more than one element of a list")
            base = replace(first, carrier=result.carrier)
            arrays[k] = written(ctx, base, result.writes[0], loop, trips)
        return arrays

    def _expand(self, mark: int, local: set[str], loop: Iter) -> None:
        """Subscript what the body defines, the `local` tensors, by the iteration.

        Tensors that already have the iterator, because the loop writes them as a whole, stay.
        """
        ctx = self.ctx
        local -= {s.target for s in ctx.statements[mark:] if loop in s.iters}
        expanded = varying(ctx.statements[mark:], local, loop)
        for name in expanded:
            ctx.tensors[name] = expand_tensor(ctx.tensors[name], loop)
        inside = [expand_statement(s, expanded, loop) for s in ctx.statements[mark:]]
        ctx.statements[mark:] = forward(inside, set(self.tensors.values()), expanded)


@lowers("Assert")
def _assert(ctx: Lowering, node: Node) -> list[Value]:
    exprs = ctx.entry(ctx.input(0))
    if exprs is None:
        raise ctx.unsupported("the condition depends on data")
    condition: Expr = exprs.item()
    if not isinstance(condition, Const):
        ctx.check(condition, _text(ctx, node) or "the assertion does not hold")
    elif not condition.value:
        raise ctx.unsupported("the condition never holds")
    return []


def _text(ctx: Lowering, node: Node) -> str:
    """The constant strings among what an Assert would print."""
    nodes = (ctx.graph.by_name.get(edge.node) for edge in node.inputs[1:])
    given = [
        n.attr_array().item() for n in nodes if n and n.op == "Const" and n.dtypes == ("string",)
    ]
    return " ".join(text.decode(errors="replace") for text in given if isinstance(text, bytes))
