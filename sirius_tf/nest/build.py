# SPDX-License-Identifier: Apache-2.0
"""Schedule tree -> isl AST -> LoopNest (isl manual, "AST Generation")."""

from __future__ import annotations

import islpy as isl

from sirius_tf.errors import VerifyError
from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.nest.nodes import Block, Bound, Guard, Loop, LoopNest, Phase, Run, Tile
from sirius_tf.poly.scop import Scop
from sirius_tf.schedule.tree import marked

_NODE = isl.ast_node_type
_EXPR = isl.ast_expr_type
_OP = isl.ast_expr_op_type


def build_loops(scop: Scop, schedule: isl.Schedule) -> LoopNest:
    """The loops that run `schedule`; the loops between a phase and its tile are parallel."""
    builder = isl.AstBuild.from_context(scop.context)
    return _node(builder.node_from_schedule(schedule), in_phase=False)


def _node(node: isl.AstNode, in_phase: bool) -> LoopNest:
    kind = _NODE(node.get_type())
    if kind == _NODE.for_:  # type: ignore[attr-defined]
        return _loop(node, in_phase)
    if kind == _NODE.if_:  # type: ignore[attr-defined]
        body = _node(node.if_get_then_node(), in_phase)
        has_else = node.if_has_else_node()
        otherwise = _node(node.if_get_else_node(), in_phase) if has_else else None
        return Guard(tuple(_conditions(node.if_get_cond())), body, otherwise)
    if kind == _NODE.block:
        children = node.block_get_children()
        parts = [children.get_at(k) for k in range(children.n_ast_node())]
        return Block(tuple(_node(part, in_phase) for part in parts))
    if kind == _NODE.mark:
        cluster = marked(node.mark_get_id().get_name())
        body = _node(node.mark_get_node(), in_phase=cluster is None)
        return Phase(body) if cluster is None else Tile(body, cluster)
    if kind == _NODE.user:
        call = node.user_get_expr()
        count = call.get_op_n_arg()
        iters = tuple(_affine(call.get_op_arg(k)) for k in range(1, count))
        return Run(call.get_op_arg(0).get_id().get_name(), iters)
    raise VerifyError(f"an AST node of an unexpected kind: {kind}")


def _loop(node: isl.AstNode, in_phase: bool) -> LoopNest:
    var = node.for_get_iterator().get_id().get_name()
    lower = node.for_get_init()
    body = _node(node.for_get_body(), in_phase)
    if node.for_is_degenerate():
        only = Bound((_affine(lower),))
        return Loop(var, only, Bound((only.terms[0] + 1,)), 1, False, body)
    step = _affine(node.for_get_inc()).const
    cond = node.for_get_cond()
    upper = Bound(tuple(_limits(cond.get_op_arg(1), _OP.min)))
    if _OP(cond.get_op_type()) == _OP.le:
        upper = Bound(tuple(u + 1 for u in upper.terms))
    starts = Bound(tuple(_limits(lower, _OP.max)))
    return Loop(var, starts, upper, step, in_phase, body)


def _limits(expr: isl.AstExpr, joined: isl.ast_expr_op_type) -> list[Affine]:
    """The arguments of a minimum or maximum, nested ones included."""
    if _EXPR(expr.get_type()) == _EXPR.op and _OP(expr.get_op_type()) == joined:
        return [
            limit
            for k in range(expr.get_op_n_arg())
            for limit in _limits(expr.get_op_arg(k), joined)
        ]
    return [_affine(expr)]


def _conditions(expr: isl.AstExpr) -> list[Affine]:
    """A conjunction of comparisons, each as an expression that is >= 0."""
    op = _OP(expr.get_op_type())
    if op in (_OP.and_, _OP.and_then):  # type: ignore[attr-defined]
        return [c for k in range(expr.get_op_n_arg()) for c in _conditions(expr.get_op_arg(k))]
    left, right = _affine(expr.get_op_arg(0)), _affine(expr.get_op_arg(1))
    if op == _OP.ge:
        return [left - right]
    if op == _OP.gt:
        return [left - right - 1]
    if op == _OP.le:
        return [right - left]
    if op == _OP.lt:
        return [right - left - 1]
    if op == _OP.eq:
        return [left - right, right - left]
    raise VerifyError(f"a guard that is no conjunction of comparisons: {expr.to_C_str()}")


def _affine(expr: isl.AstExpr) -> Affine:
    """An isl AST expression as an Affine; isl's fdiv_q and pdiv_q are floors on what it emits."""
    kind = _EXPR(expr.get_type())
    if kind == _EXPR.int:
        return affine(expr.get_val().to_python())
    if kind == _EXPR.id:
        return symbol(expr.get_id().get_name())
    op = _OP(expr.get_op_type())
    args = [_affine(expr.get_op_arg(k)) for k in range(expr.get_op_n_arg())]
    if op == _OP.minus:
        return -args[0]
    if op == _OP.add:
        return args[0] + args[1]
    if op == _OP.sub:
        return args[0] - args[1]
    if op == _OP.mul and args[0].is_const:
        return args[1] * args[0].const
    if op == _OP.mul and args[1].is_const:
        return args[0] * args[1].const
    if op in (_OP.fdiv_q, _OP.pdiv_q, _OP.div) and args[1].is_const:
        return args[0] // args[1].const
    if op == _OP.pdiv_r and args[1].is_const:
        return args[0] % args[1].const
    raise VerifyError(f"an expression that is not affine: {expr.to_C_str()}")
