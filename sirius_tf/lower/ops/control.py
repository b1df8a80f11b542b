# SPDX-License-Identifier: Apache-2.0
"""Rules of calls, branches and assertions.

The statements of a branch are guarded by its condition; what the branches leave is chosen by it:

    if p:  a[i] = ...      if not p:  b[i] = ...      y[i] = select(p, a[i], b[i])

An assertion is a check on entry, or a statement that fails the call:

    ok[] = demand(p, number of the message)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from sirius_tf.errors import Unsupported
from sirius_tf.frontend.graph import Graph, Node
from sirius_tf.ir.expr import Const, Expr, Load, call
from sirius_tf.ir.program import Guard
from sirius_tf.lower import entry_values
from sirius_tf.lower import value as values
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.rules import lowers, outer
from sirius_tf.lower.tensors import Carried, TensorList
from sirius_tf.lower.value import Indices, Value


@lowers("PartitionedCall", "StatefulPartitionedCall")
def _call(ctx: Lowering, node: Node) -> list[Carried]:
    body = _graph(ctx, node.attr_str("f"))
    try:
        return ctx.body(body, ctx.passed(0))
    except Unsupported as error:
        raise outer(node, error) from error


@lowers("If", "StatelessIf")
def _if(ctx: Lowering, node: Node) -> list[Carried]:
    bodies = [_graph(ctx, node.attr_str(f"{side}_branch")) for side in ("then", "else")]
    given = ctx.input(0)
    if given.rank:
        raise ctx.unsupported(f"its condition has rank {given.rank}: it must be a scalar")
    known = ctx.known(given)
    if known is not None and values.element(known, ()).is_const:
        return _taken(ctx, node, bodies[values.element(known, ()).const == 0])
    test = given.at(())
    if given.dtype != "bool":
        test = call("ne", test, Const(0, given.dtype), dtype="bool")
    return _branches(ctx, node, bodies, [test])


@lowers("Case", "StatelessCase")
def _case(ctx: Lowering, node: Node) -> list[Carried]:
    bodies = [_graph(ctx, name) for name in node.attr_strs("branches")]
    given, last = ctx.input(0), len(bodies) - 1
    known = ctx.known(given)
    if known is not None and values.element(known, ()).is_const:
        k = values.element(known, ()).const
        return _taken(ctx, node, bodies[k if 0 <= k < last else last])
    tests = [
        call("eq", given.at(()), Const(k, given.dtype), dtype="bool") for k in range(last)
    ]  # any other index takes the last branch
    return _branches(ctx, node, bodies, tests)


def _graph(ctx: Lowering, name: str) -> Graph:
    body = ctx.graph.bodies.get(name)
    if body is None:
        raise ctx.unsupported(f"its function '{name}' is not in the graph")
    return body


def _taken(ctx: Lowering, node: Node, body: Graph) -> list[Carried]:
    """The only branch that can be taken."""
    try:
        return ctx.body(body, ctx.passed(1))
    except Unsupported as error:
        raise outer(node, error) from error


def _branches(
    ctx: Lowering, node: Node, bodies: Sequence[Graph], tests: Sequence[Expr]
) -> list[Carried]:
    """The first branch whose test holds, or the last one, which has none."""
    arguments = ctx.passed(1)
    outside = ctx.guards
    results, conditions = list[list[Carried]](), list[Load]()
    try:
        for body, test in zip(bodies, tests, strict=False):
            condition = ctx.materialize(Value("bool", (), partial(_scalar, test))).at(())
            assert isinstance(condition, Load)
            conditions.append(condition)
            ctx.tests[condition.tensor] = test
            known = entry_values.to_condition(test, ctx.tensors)
            if known is not None and not ctx.params.vary(known):
                ctx.premises[condition.tensor] = known
            results.append(ctx.when([Guard(condition)], body, arguments))
            ctx.guards = (*ctx.guards, Guard(condition, False))
        results.append(ctx.when([], bodies[-1], arguments))
    except Unsupported as error:
        raise outer(node, error) from error
    finally:
        ctx.guards = outside
    merged = results[-1]
    for condition, taken in zip(reversed(conditions), reversed(results[:-1]), strict=True):
        merged = [_merge(ctx, condition, a, b) for a, b in zip(taken, merged, strict=True)]
    return merged


def _scalar(test: Expr, i: Indices) -> Expr:
    return test


def _merge(ctx: Lowering, condition: Load, a: Carried, b: Carried) -> Carried:
    """One result of two branches."""
    if isinstance(a, TensorList) or isinstance(b, TensorList):
        return _merge_lists(ctx, condition, a, b)
    if a.host is not None and b.host is not None and a.host.tolist() == b.host.tolist():
        return a
    if [values.extent(d) for d in a.dims] != [values.extent(d) for d in b.dims]:
        raise ctx.unsupported("the shape of a result depends on the branch that is taken")
    dims = tuple(values.refine(*pair).atoms for pair in zip(a.dims, b.dims, strict=True))
    left, right = (values.broadcast_to(x, dims, ctx.equal) for x in (a, b))
    return ctx.define(a.dtype, dims, lambda i: call("select", condition, left.at(i), right.at(i)))


def _merge_lists(ctx: Lowering, condition: Load, a: Carried, b: Carried) -> TensorList:
    """A list that no branch writes, or both do, at the same places."""
    if not isinstance(a, TensorList) or not isinstance(b, TensorList):
        raise ctx.unsupported("a result is a list on one branch only")
    same = replace(a, writes=()) == replace(b, writes=())
    if not same or [w.position for w in a.writes] != [w.position for w in b.writes]:
        raise ctx.unsupported("branches write a list at different places")
    writes = []
    for x, y in zip(a.writes, b.writes, strict=True):
        value = x.value if x.value is y.value else _merge(ctx, condition, x.value, y.value)
        assert isinstance(value, Value)
        writes.append(replace(x, value=value, grows=x.grows or y.grows))
    return replace(a, writes=tuple(writes))


@lowers("Assert")
def _assert(ctx: Lowering, node: Node) -> list[Value]:
    given = ctx.input(0)
    if given.rank:
        raise ctx.unsupported(f"its condition has rank {given.rank}: it must be a scalar")
    known = ctx.entry(given)
    if known is None:
        ctx.demand(given.at(()), _text(ctx, node))
        return []
    condition: Expr = known.item()
    if condition == Const(False, "bool") and not ctx.guards and not ctx.params.loops:
        raise ctx.unsupported("its condition never holds: each call would fail")
    if condition != Const(True, "bool"):
        ctx.check(condition, _text(ctx, node))
    return []


@lowers("CheckNumerics", "CheckNumericsV2")
def _check_numerics(ctx: Lowering, node: Node) -> Value:
    x = ctx.input(0)
    finite = ctx.map(lambda e: call("isfinite", e, dtype="bool"), x, dtype="bool")
    everywhere = ctx.reduce("and", finite, range(x.rank), keep=False)
    ctx.demand(everywhere.at(()), f"{node.attr_str('message')} : Tensor had Inf or NaN values")
    return x


def _text(ctx: Lowering, node: Node) -> str:
    """The message of an Assert, with dots for parts that are no constant strings."""
    parts = [ctx.graph.by_name.get(edge.node) for edge in node.inputs[1:]]
    return " ".join(["assertion failed:", *(f"[{_string(part)}]" for part in parts)])


def _string(node: Node | None) -> str:
    if node is None or node.op != "Const" or node.dtypes != ("string",):
        return "..."
    text = node.attr_array().item() if node.attr_array().size == 1 else b"..."
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)
