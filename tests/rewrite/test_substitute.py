# SPDX-License-Identifier: Apache-2.0
"""Regions in GraphDefs: where edges go, and the order of effects."""

from pathlib import Path

import tensorflow as tf

from sirius_tf.frontend import savedmodel
from sirius_tf.rewrite import session
from sirius_tf.rewrite.regions import cut
from sirius_tf.rewrite.substitute import OP, Use, substitute

tf1 = tf.compat.v1


def rewritten(build, outputs=("y",)):
    """The GraphDef with its regions substituted, as {node: NodeDef}, and the regions."""
    inlined, graph, uses = used(build, outputs)
    result = substitute(inlined, graph, uses, "path:0")
    return {node.name: node for node in result.node}, tuple(use.region for use in uses)


def used(build, outputs=("y",)):
    """A GraphDef, the graph that it is, and the regions of this."""
    with tf.Graph().as_default() as made:
        build()
    graph_def = made.as_graph_def()
    names = [f"{name}:0" for name in outputs]
    inlined = savedmodel.inline(graph_def, ["x:0"], names)
    probes = {name: f"{savedmodel.PROBE}{k}:0" for k, name in enumerate(names)}
    graph = savedmodel.graph_of(inlined, "g", ["x:0"], probes, {})
    found = cut(graph, "g", {edge.node: "" for _, edge in graph.outputs})
    return inlined, graph, [Use(region, region.name) for region in found.regions]


def placeholder():
    return tf1.placeholder(tf.float32, [None, 3], name="x")


def test_a_region_is_one_op_behind_which_the_shape_is_stated() -> None:
    nodes, _ = rewritten(lambda: tf.exp(tf.nn.relu(placeholder()), name="y"))
    assert set(nodes) == {"x", "sirius/g_0", "y", "sirius_output_0"}
    op = nodes["sirius/g_0"]
    assert op.op == OP and list(op.input) == ["x:0", "path:0"]
    assert nodes["y"].op == "EnsureShape" and list(nodes["y"].input) == ["sirius/g_0:0"]
    assert [d.size for d in nodes["y"].attr["shape"].shape.dim] == [-1, 3]


def test_a_result_among_several_gets_a_node_of_its_own() -> None:
    def build():
        parts = tf.split(tf.exp(placeholder()), 3, axis=1)
        tf.identity(tf.py_function(lambda a: a, [parts[1]], tf.float32), name="y")

    nodes, regions = rewritten(build)
    assert regions[0].outputs[0].output == 1
    assert list(nodes["sirius/g_0"].attr["Tout"].list.type) == [1]
    assert any(name.endswith("/sirius_1") for name in nodes)


def test_the_region_waits_for_effects_that_do_not_depend_on_it() -> None:
    def build():
        x = placeholder()
        with tf.control_dependencies([tf1.Print(x, [x], name="effect")]):
            tf.exp(tf.nn.relu(x), name="y")

    nodes, _ = rewritten(build)
    assert list(nodes["sirius/g_0"].input) == ["x:0", "path:0", "^effect"]
    assert list(nodes["y"].input) == ["sirius/g_0:0"]


def test_results_wait_for_effects_that_depend_on_the_region() -> None:
    def build():
        a = tf.nn.relu(placeholder(), name="a")
        effect = tf1.Print(a, [a], name="effect")
        with tf.control_dependencies([effect]):
            tf.exp(a, name="y")

    nodes, regions = rewritten(build)
    assert len(regions) == 1
    assert list(nodes["sirius/g_0"].input) == ["x:0", "path:0"]
    assert list(nodes["y"].input) == ["sirius/g_0:0", "^effect"]
    assert list(nodes["a"].input) == ["sirius/g_0:1"]
    assert nodes["effect"].input[0] == "a:0"


def test_what_waited_for_a_region_waits_for_what_the_region_waited_for() -> None:
    def build():
        a = tf.nn.relu(placeholder(), name="a")
        first = tf1.Print(a, [a], name="first")
        with tf.control_dependencies([first]):
            b = tf.exp(a, name="b")
        with tf.control_dependencies([b]):
            second = tf1.Print(a, [a], name="second")
        tf.add(b, second, name="y")

    nodes, _ = rewritten(build)
    waits = {t for t in nodes["second"].input if t.startswith("^")}
    assert "^first" in waits and "^sirius/g_0" in waits


def test_a_result_waits_for_the_assertion_of_another_region() -> None:
    def build():
        a = tf.nn.relu(placeholder())
        fits = tf.debugging.Assert(tf.reduce_all(a < 9.0), ["large"])
        with tf.control_dependencies([fits]):  # so that it cannot be in the later region
            shown = tf1.Print(a, [a])
        with tf.control_dependencies([fits]):
            tf.exp(shown, name="y")

    nodes, regions = rewritten(build)
    (first,) = [r for r in regions if any("Assert" in node for node in r.nodes)]
    assert len(regions) == 2 and "y" not in first.nodes
    assert list(nodes["y"].input)[1:] == [f"^sirius/{first.name}"]


def test_what_the_outputs_do_not_need_is_dropped() -> None:
    def build():
        x = placeholder()
        tf.exp(x, name="y")
        tf.py_function(lambda a: a, [x], tf.float32)

    nodes, _ = rewritten(build)
    assert "EagerPyFunc" not in {node.op for node in nodes.values()}


def test_a_reference_is_read_by_tensorflow() -> None:
    def build():
        v = tf1.get_variable("v", [3], use_resource=False)
        tf.exp(placeholder() + v, name="y")

    nodes, regions = rewritten(build)
    assert [str(edge) for edge in regions[0].inputs] == ["x", "v/read"]
    assert nodes["v/read"].op == "Identity"


def test_control_flow_is_lowered_as_before() -> None:
    def build():
        x = placeholder()

        def body(i, a):
            return i + 1, tf.py_function(lambda b: b, [a], tf.float32)

        shapes = [tf.TensorShape([]), tf.TensorShape(None)]
        _, a = tf.while_loop(lambda i, a: i < 2, body, [0, x], shapes)
        tf.exp(tf.ensure_shape(a, [None, 3]), name="y")

    tf1.enable_control_flow_v2()
    nodes, _ = rewritten(build)
    loop = next(node for node in nodes.values() if "While" in node.op)
    assert loop.attr["_lower_using_switch_merge"].b


def test_what_a_region_is_timed_beside_is_lowered_as_before() -> None:
    def build():
        x = placeholder()
        rows = tf.while_loop(lambda i, a: i < 9, lambda i, a: (i + 1, a * 2), [0, x])[1]
        tf.exp(rows, name="y")

    tf1.enable_control_flow_v2()
    inlined, graph, uses = used(build)
    nodes = {node.name: node for node in inlined.node}
    made = session._timed(graph, uses, nodes, Path("model.sirius.so"))
    (loop,) = (node for node in made if "While" in node.op)
    assert loop.name.startswith("sirius_timed/g_0/copy/")
    assert loop.attr["_lower_using_switch_merge"].b


def test_what_waits_for_a_loop_of_tf1_waits_for_its_region() -> None:
    def build():
        tf1.disable_control_flow_v2()
        x = placeholder()
        rows = tf.while_loop(lambda i, a: i < 9, lambda i, a: (i + 1, a * 2.0), [0, x])[1]
        with tf.control_dependencies([rows]):
            late = tf.py_function(lambda a: a, [x], tf.float32)
        tf.add(tf.exp(rows), tf.ensure_shape(late, [None, 3]), name="y")
        tf1.enable_control_flow_v2()

    nodes, _ = rewritten(build)
    assert not [node.name for node in nodes.values() if node.op in ("Enter", "Exit", "Merge")]
    (late,) = (node for node in nodes.values() if "PyFunc" in node.op)
    assert [name for name in late.input if name.startswith("^")] == ["^sirius/g_0"]
