# SPDX-License-Identifier: Apache-2.0
"""The registry of rules, and errors of nodes in bodies."""

import pytest

from sirius_tf.errors import SiriusError, Unsupported
from sirius_tf.frontend.graph import Edge, Graph, Node
from sirius_tf.lower.live import has_effect
from sirius_tf.lower.rules import RULES, lowers, outer

pytestmark = pytest.mark.ir


def node(name, op, **attrs):
    return Node(name, op, (Edge("x"),), (), attrs, ("float32",), ((),))


def graph(*nodes, **bodies):
    return Graph("g", (), (), nodes, bodies)


def test_an_op_has_one_rule(monkeypatch) -> None:
    monkeypatch.setitem(RULES, "Once", None)
    with pytest.raises(SiriusError, match="two rules lower Once"):
        lowers("Once")(lambda ctx, node: None)


def test_a_rule_is_known_by_all_its_ops(monkeypatch) -> None:
    for op in ("One", "Other"):
        monkeypatch.setitem(RULES, op, None)
        monkeypatch.delitem(RULES, op)
    rule = lowers("One", "Other")(lambda ctx, node: None)
    assert RULES.pop("One") is rule and RULES.pop("Other") is rule


def test_an_error_inside_of_a_body_names_both_nodes() -> None:
    error = Unsupported("inner", "Foo", "its shape is not known")
    assert outer(node("inner", "Foo"), error) is error
    found = outer(node("loop", "While"), error)
    assert str(found) == "loop (While): inner (Foo) inside: its shape is not known"


def test_effects_are_those_of_bodies_too() -> None:
    body = graph(node("must", "Assert"))
    assert has_effect(graph(), node("must", "Assert"))
    assert has_effect(graph(body=body), node("loop", "While", body="body"))
    assert not has_effect(graph(body=graph()), node("loop", "While", body="body"))
    assert not has_effect(graph(body=body), node("loop", "While", body="other"))
