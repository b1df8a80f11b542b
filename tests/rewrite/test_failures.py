# SPDX-License-Identifier: Apache-2.0
"""Where the compiler fails, a node is left to TensorFlow, and the others are compiled."""

import pytest
import tensorflow as tf

from sirius_tf.frontend.graphdef import from_graph_def
from sirius_tf.lower.graph import RULES
from sirius_tf.rewrite.regions import cut


def traced(fn, *specs):
    concrete = tf.function(fn, input_signature=specs).get_concrete_function()
    names = [t.name for t in concrete.inputs]
    outputs = [t.name for t in concrete.outputs]
    return from_graph_def(concrete.graph.as_graph_def(), names, outputs)


def test_a_view_that_is_not_affine_where_it_is_read_is_blamed_on_its_node():
    def fn(x, a, b):
        y = tf.exp(x) * 2.0
        return tf.repeat(y, a, axis=0)[:64] * b, tf.tanh(y) + 1.0

    specs = tf.TensorSpec([None, 4]), tf.TensorSpec([], tf.int32), tf.TensorSpec([64, 4])
    found = cut(traced(fn, *specs), "f")
    assert found.left == {"strided_slice": "positions in (x_0)*(a_at) are not affine"}
    assert {"Exp", "Tanh", "mul_1"} <= {n for region in found.regions for n in region.nodes}


def test_so_is_one_inside_of_a_loop():
    def body(i, x):
        return i + 1, tf.ensure_shape(tf.repeat(x, i + 1, axis=0)[:8], [8, 4]) * 1.5

    def fn(x):
        y = tf.exp(x)
        return tf.while_loop(lambda i, x: i < 3, body, [0, tf.ensure_shape(y, [8, 4])])[1] + y

    found = cut(traced(fn, tf.TensorSpec([8, 4])), "f")
    assert "while" in found.left
    assert "Exp" in {n for region in found.regions for n in region.nodes}


@pytest.mark.parametrize("error", [KeyError("k"), AssertionError(), RecursionError("deep")])
def test_a_defect_of_a_rule_leaves_its_node_to_tensorflow(monkeypatch, error):
    def fails(ctx, node):
        raise error

    monkeypatch.setitem(RULES, "Tanh", fails)
    fn = lambda x: (tf.tanh(tf.exp(x) * 2.0) * 3.0, tf.sqrt(tf.exp(x)))
    found = cut(traced(fn, tf.TensorSpec([None, 4])), "f")
    kind = type(error).__name__
    assert found.left == {"Tanh": f"the compiler failed: {kind}: {error}"}
    assert {"Exp", "Sqrt"} <= {n for region in found.regions for n in region.nodes}
