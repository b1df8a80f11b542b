# SPDX-License-Identifier: Apache-2.0
"""Rules of loops.

A While becomes an iterator t in [0, T). Of its variables, some stay as they are, some are counters
`start + step * t`, and some are lists that iteration t writes (see lists.py). The others are
carried: such a variable h is one tensor with a slice per iteration,

    h[0] = its initial value       h[t + 1] = its new value, from h[t]      after the loop: h[T]

T is known on entry if the condition says that counters have not reached limits known on entry. Else
the condition is computed, go[t] before iteration t, and T is the first t for which it is false;
what counters say about T is an upper bound, which sizes arrays.

Inside of another loop that T would be another one in every iteration of it. There T is the bound
itself, and what is carried, counters included, stays as it is once the loop is over:

    h[t + 1] = select(go[t], its new value, h[t])       go[t + 1] = select(go[t], condition, false)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sirius_tf.errors import Unsupported
from sirius_tf.frontend.graph import Edge, Graph, Node
from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import Const, Expr, Load, call
from sirius_tf.ir.polynomial import Poly, poly
from sirius_tf.ir.program import Guard, Iter
from sirius_tf.lower import value as values
from sirius_tf.lower.boxes import scalar
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.expand import expand_statement, expand_tensor, forward, varying
from sirius_tf.lower.list_arrays import conform, read, settled, written
from sirius_tf.lower.live import has_effect
from sirius_tf.lower.rules import lowers, outer
from sirius_tf.lower.tensors import Carried, TensorList, iterators
from sirius_tf.lower.value import Indices, Value

_SLACK: Mapping[str, Callable[[Poly, Poly], Poly]] = {
    "Less": lambda a, b: b - a - 1,
    "LessEqual": lambda a, b: b - a,
    "Greater": lambda a, b: a - b - 1,
    "GreaterEqual": lambda a, b: a - b,
}
"""For each comparison an expression that is >= 0 exactly if it holds."""


@lowers("While", "StatelessWhile")
def _while(ctx: Lowering, node: Node) -> list[Carried]:
    try:
        with ctx.scope():
            return _Loop(ctx, node, [ctx.carried(edge) for edge in node.inputs]).lower()
    except Unsupported as error:
        raise outer(node, error) from error


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
    frozen: Load | None = None  # go[t], without which iteration t of T changes nothing

    def lower(self) -> list[Carried]:
        """The variables after the loop."""
        ctx, params = self.ctx, self.ctx.params
        self._all = range(len(self.initial))
        body = ctx.graph.bodies[self.node.attr_str("body")]
        cond = ctx.graph.bodies[self.node.attr_str("cond")]
        self.steps = {k: s for k in self._all if (s := self._step(body, k)) is not None}
        name = f"t{next(ctx.loop_numbers)}"
        params.loops[name] = None
        bound, whole = self._bound(cond, name)
        go = None if whole else self._decided(cond, name, bound)
        fixed = bound is not None and (whole or self.frozen is not None)
        trips = bound if bound is not None and fixed else poly(symbol(f"{name}_trips"))
        params.loops[name] = trips
        loop = Iter(name, trips.to_affine(), loop=True)
        before = [self._enter(k, trips) for k in self._all]
        mark, outside = len(ctx.statements), set(ctx.tensors)
        after = self._running(body, [self._argument(k, symbol(name), before) for k in self._all])
        arrays = self._carry(before, after, loop, trips)
        if go:
            self._go_on(cond, go, before, loop)
        self._expand(mark, set(ctx.tensors) - outside, loop)
        del params.loops[name]
        return [
            arrays[k] if k in arrays else self._left(k, trips.to_affine(), before)
            for k in self._all
        ]

    # The variables

    def _name(self, k: int) -> str:
        return f"{self.node.name}_{k}"

    def _step(self, body: Graph, k: int) -> int | None:
        """The constant that an iteration adds to a variable; None if it does something else."""
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
        if not self.steps.get(k, 1) or (k in self.steps and not self.frozen):
            return first
        if isinstance(first, TensorList):
            if first.carrier:
                raise ctx.unsupported("a loop and one inside of it write the same list")
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
            return replace(first, writes=(), carrier=self._name(k))
        return self._slice(k, position, first)

    def _slice(self, k: int, position: Affine, first: Value) -> Value:
        name, dtype = self.tensors[k], first.dtype
        return Value(dtype, first.dims, lambda i: Load(name, (position, *i), dtype))

    def _left(self, k: int, end: Affine, before: Sequence[Carried]) -> Carried:
        """A variable after the loop."""
        first = before[k]
        if k in self.tensors and isinstance(first, Value):
            return self._slice(k, end, first)
        return self._argument(k, end, before)

    # The condition

    def _bound(self, cond: Graph, name: str) -> tuple[Poly | None, bool]:
        """The number of iterations for which the conjuncts hold that counters decide, and whether
        those are all."""
        ctx, params = self.ctx, self.ctx.params
        counts, slacks = list[Poly](), list[Poly]()
        whole = not any(has_effect(cond, node) for node in cond.nodes)  # then it is computed
        for node in self._conjuncts(cond, cond.outputs[0][1]):
            slack = self._slack(cond, node, symbol(name))
            first = slack.substitute({name: 0}) if slack else poly(0)
            slope = (slack - first).exact_div(symbol(name)) if slack else None
            if slack is None or slope is None or not slope.is_const or slope.const >= 0:
                whole = False
                continue
            room = first - slope.const
            if params.iterates(room):  # another bound in every iteration around
                most, whole = params.greatest(room), False
                counts += [] if most is None else [self._fits(most, -slope.const)]
                continue
            counts.append(self._fits(room, -slope.const))
            if params.at_least(room, 0):  # T is the least count, so that it bounds T
                slacks.append(slack)
        if not counts:
            return None, False
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
        if trips == poly(0) and not whole:  # whatever data says; but is what it says computed?
            if any(has_effect(cond, node) for node in cond.nodes):
                raise ctx.unsupported("its condition may fail, and is never true")
            whole = True
        return trips, whole

    def _fits(self, room: Poly, step: int) -> Poly:
        """The number of steps that fit into some room, at least 0."""
        params = self.ctx.params
        return params.opaque("max", params.opaque("floordiv", room, step), 0)

    def _slack(self, cond: Graph, node: Node | None, t: Affine) -> Poly | None:
        """An expression that is >= 0 exactly while a comparison holds; None if that depends on
        data."""
        if node is None or node.op not in _SLACK:
            return None
        needed = {edge.node for edge in node.inputs}
        for other in reversed(cond.nodes):
            if other.name in needed:
                needed |= {edge.node for edge in other.inputs}
        nodes = tuple(other for other in cond.nodes if other.name in needed)
        outputs = tuple((str(edge), edge) for edge in node.inputs)
        part = Graph(cond.name, cond.inputs, outputs, nodes, cond.bodies)
        hosts = []
        try:
            with self.ctx.trial():
                for operand in self.ctx.body(part, [self._known(k, t) for k in self._all]):
                    assert isinstance(operand, Value)
                    hosts.append(self.ctx.known(operand, inputs=True))
        except Unsupported:
            return None
        left, right = (None if h is None or h.ndim else values.element(h, ()) for h in hosts)
        return None if left is None or right is None else _SLACK[node.op](left, right)

    def _conjuncts(self, cond: Graph, edge: Edge) -> list[Node | None]:
        node = cond.by_name.get(_source(cond, edge).node)
        if node is not None and node.op == "LogicalAnd":
            return [n for edge in node.inputs for n in self._conjuncts(cond, edge)]
        return [node]

    def _known(self, k: int, t: Affine) -> Carried:
        """A variable in the condition, where the elements of what is carried are not known."""
        first = self.initial[k]
        if self.steps.get(k):
            return self._counter(k, t)
        if k in self.steps or isinstance(first, TensorList):
            return first

        def unknown(i: Indices) -> Expr:
            raise self.ctx.unsupported("its elements are carried by the loop")

        return Value(first.dtype, first.dims, unknown)

    def _decided(self, cond: Graph, name: str, bound: Poly | None) -> Load:
        """go[t], for a condition that depends on data; go[0] is defined from what is known."""
        ctx, guards = self.ctx, self.ctx.guards
        stem = f"{self.node.name}_go"
        go = Load(ctx.fresh(stem), (symbol(name),), "bool")
        if len(ctx.params.loops) == 1:
            if bound is not None and bound.is_const:  # isl has no loop where there is one iteration
                bound = poly(max(bound.const, 2))
            trips = ctx.params.define_trips(name, go, bound)
            if bound is not None:
                ctx.context.append((bound - trips).to_affine())
        elif bound is not None:
            trips, self.frozen = bound, go
            ctx.running.add(go.tensor)
        else:
            raise ctx.unsupported("data decides when a loop inside a loop ends, nothing bounds it")
        ctx.new_tensor("bool", (trips.to_affine() + 1,), stem=stem)
        (first,) = ctx.when([], cond, self.initial)
        assert isinstance(first, Value)
        element = first.at(())
        for guard in reversed(guards):  # a loop on a branch that is not taken does not begin
            test = guard.condition if guard.holds else call("not", guard.condition)
            element = call("and", test, element)
        ctx.guards = ()
        ctx.write(go.tensor, (), (affine(0),), element)
        ctx.guards = guards
        return go

    def _go_on(self, cond: Graph, go: Load, before: Sequence[Carried], loop: Iter) -> None:
        """go[t + 1] from what iteration t leaves."""
        ctx, next_ = self.ctx, symbol(loop.name) + 1
        (again,) = self._running(cond, [self._argument(k, next_, before) for k in self._all])
        assert isinstance(again, Value)
        guards, ctx.guards = ctx.guards, () if self.frozen else ctx.guards
        goes = self._unless_over(again.at(()), Const(False, "bool"))
        ctx.write(go.tensor, (), (next_,), goes, None, (loop,))
        ctx.guards = guards

    # The body

    def _running(self, graph: Graph, arguments: Sequence[Carried]) -> list[Carried]:
        """Lower `graph` for an iteration that is run: the variables that it returns."""
        guards = [] if self.frozen is None else [Guard(self.frozen)]
        return self.ctx.when(guards, graph, arguments)

    def _unless_over(self, new: Expr, old: Expr) -> Expr:
        return new if self.frozen is None else call("select", self.frozen, new, old)

    def _carry(
        self, before: Sequence[Carried], after: Sequence[Carried], loop: Iter, trips: Poly
    ) -> dict[int, TensorList]:
        """Write what an iteration leaves to the next one; the arrays that lists have become."""
        ctx, arrays = self.ctx, dict[int, TensorList]()
        for k, result in enumerate(after):
            first = before[k]
            if k in self.steps and k not in self.tensors:
                continue
            if isinstance(first, Value) and isinstance(result, Value):
                i, t = iterators("i", first.atoms), symbol(loop.name)
                new = conform(ctx, result, first.dims).at(i)
                new = self._unless_over(new, self._slice(k, t, first).at(i))
                ctx.write(self.tensors[k], first.atoms, (t + 1, *i), new, None, (loop,))
                continue
            assert isinstance(first, TensorList)
            if not isinstance(result, TensorList) or result.carrier != self._name(k):
                raise ctx.unsupported("an iteration replaces a list that the loop carries")
            if len(result.writes) != 1:
                raise ctx.unsupported("an iteration writes more than one element of a list")
            base = replace(first, carrier=result.carrier)
            arrays[k] = written(ctx, base, result.writes[0], loop, trips, self.frozen)
            reads = ctx.reads.pop(self._name(k), [])
            read(ctx, first, arrays[k], result.writes[0], reads)
        return arrays

    def _expand(self, mark: int, local: set[str], loop: Iter) -> None:
        """Subscript what the body defines, the `local` tensors, by the iteration.

        Tensors that already have the iterator, because the loop writes them as a whole, stay.
        """
        ctx = self.ctx
        trips = ctx.params.most(loop.extent)
        local -= {s.target for s in ctx.statements[mark:] if loop in s.iters}
        expanded = varying(ctx.statements[mark:], local, loop)
        for name in expanded:
            ctx.tensors[name] = expand_tensor(ctx.tensors[name], trips)
        inside = [expand_statement(s, expanded, loop) for s in ctx.statements[mark:]]
        ctx.statements[mark:] = forward(inside, set(self.tensors.values()), expanded)
