# SPDX-License-Identifier: Apache-2.0
"""Loops, branches and TensorArrays of TF1 as While, If and TensorLists."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.saved_model import loader_impl

import sirius_tf
from sirius_tf.frontend import savedmodel
from sirius_tf.frontend.functional import functional
from sirius_tf.frontend.graph import Argument, Edge, Graph, Node
from sirius_tf.frontend.graphdef import from_graph_def
from sirius_tf.lower.graph import lower
from sirius_tf.rewrite import measure
from tests.support.graphs import check, ops

tf1 = tf.compat.v1
X = np.random.default_rng(0).standard_normal((4, 3)).astype("f") * np.float32(0.5)
RAW = {"Enter", "Exit", "Switch", "Merge", "NextIteration", "LoopCond", "TensorArrayV3"}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(measure, "_SECONDS", 0.01)


@contextmanager
def tf1_graph():
    """A graph in which loops and branches are those of TF1."""
    with tf.Graph().as_default() as graph:
        tf1.disable_control_flow_v2()
        try:
            yield graph
        finally:
            tf1.enable_control_flow_v2()


def placeholder(name="x", shape=(None, 3), dtype=tf.float32):
    return tf1.placeholder(dtype, shape, name=name)


def result(tensor):
    """The output, of a shape that TensorFlow knows."""
    return tf.exp(tf.ensure_shape(tensor, [None, 3]) * 0.1, name="y")


def loop(cond, body, start):
    return tf1.while_loop(cond, body, start)


# Models: each builds a graph from x (and k, p) to y


def swapping():
    x, k = placeholder(), placeholder("k", [], tf.int32)
    _, a, b = loop(
        lambda i, a, b: i < k, lambda i, a, b: (i + 1, b * 0.5, a + 1.0), (0, x, tf.exp(x))
    )
    result(tf.ensure_shape(a, [None, 3]) - b)


def nested():
    def outer(i, a):
        return i + 1, 1.5 * loop(lambda j, b: j < 3, lambda j, b: (j + 1, tf.tanh(b)), (0, a))[1]

    result(loop(lambda i, a: i < 4, outer, (0, placeholder()))[1])


def uneven():
    def outer(i, a):
        return i + 1, 1.5 * loop(lambda j, b: j < i, lambda j, b: (j + 1, tf.tanh(b)), (0, a))[1]

    result(loop(lambda i, a: i < 4, outer, (0, placeholder()))[1])


def branch_in_loop():
    def step(i, a):
        return i + 1, tf1.cond(i > 1, lambda: tf.tanh(a), lambda: a * 2.0)

    result(loop(lambda i, a: i < 4, step, (0, placeholder()))[1])


def loop_in_branch():
    x, p = placeholder(), placeholder("p", [], tf.bool)
    y = tf1.cond(
        p,
        lambda: loop(lambda i, a: i < 4, lambda i, a: (i + 1, tf.tanh(a)), (0, x))[1],
        lambda: x * 2.0,
    )
    result(y)


def branches():
    x, p = placeholder(), placeholder("p", [], tf.bool)
    q = tf.reduce_sum(x) > 0.0
    a = tf1.cond(p, lambda: tf1.cond(q, lambda: tf.exp(x), lambda: x * 3.0), lambda: x * 2.0)
    b, c = tf1.cond(p, lambda: (a + 1.0, x), lambda: (x, tf.cast(p, tf.float32) + a))
    result(b * c)


def until_data():
    x = tf.abs(placeholder())
    result(loop(lambda i, a: tf.reduce_sum(a) < 100.0, lambda i, a: (i + 1, a + 1.0), (0, x))[1])


def printing():
    def step(i, a):
        with tf.control_dependencies([tf1.debugging.Assert(i < 9, [i])]):
            return i + 1, tf.tanh(tf1.Print(a, [i], first_n=1))

    result(loop(lambda i, a: i < 3, step, (0, placeholder()))[1])


def recurrent():
    """A network over time, with its sequences in arrays."""
    x = placeholder()
    steps = tf.shape(x)[0]
    w = tf.constant(np.eye(3, dtype="f") * np.float32(0.5))
    read = tf.TensorArray(tf.float32, steps).unstack(x)
    made = tf.TensorArray(tf.float32, steps)

    def step(t, h, out):
        h = tf.tanh(read.read(t)[None] + tf.matmul(h, w))
        return t + 1, h, out.write(t, h[0])

    _, h, made = tf1.while_loop(
        lambda t, *_: t < steps, step, (0, tf.zeros([1, 3]), made), maximum_iterations=9
    )
    result(made.stack() + h)


def nested_arrays():
    x = placeholder()
    rows = tf.shape(x)[0]
    read = tf.TensorArray(tf.float32, rows).unstack(x)

    def row(i, out):
        inner = tf.TensorArray(tf.float32, 3).unstack(tf.ensure_shape(read.read(i), [3]))
        _, made = loop(
            lambda j, o: j < 3,
            lambda j, o: (j + 1, o.write(j, tf.exp(inner.read(j)))),
            (0, tf.TensorArray(tf.float32, 3)),
        )
        return i + 1, out.write(i, made.stack())

    result(loop(lambda i, o: i < rows, row, (0, tf.TensorArray(tf.float32, rows)))[1].stack())


def growing():
    array = tf.TensorArray(tf.float32, 0, dynamic_size=True)
    _, made, _ = loop(
        lambda i, o, a: i < 5,
        lambda i, o, a: (i + 1, o.write(i, a), tf.tanh(a) + 1.0),
        (0, array, placeholder()),
    )
    result(made.read(made.size() - 1))


def mapped():
    x = placeholder()
    result(tf.map_fn(lambda row: tf.exp(row) * 2.0, x) + tf.scan(lambda a, r: a * 0.5 + r, x))


def joined():
    x = placeholder()
    array = tf.TensorArray(tf.float32, 2, infer_shape=False)
    _, made = loop(lambda i, o: i < 2, lambda i, o: (i + 1, o.write(i, x)), (0, array))
    result(made.concat())


def longer():
    """An array with an element that nothing writes."""
    x = placeholder()
    array = tf.TensorArray(tf.float32, tf.shape(x)[0] + 1, element_shape=[3]).unstack(x)
    result(x + tf.cast(array.size(), tf.float32) * array.read(0))


def gradient():
    x = placeholder()
    read = tf.TensorArray(tf.float32, tf.shape(x)[0]).unstack(x)
    _, a = loop(lambda i, a: i < 3, lambda i, a: (i + 1, tf.tanh(a * read.read(i))), (0, x))
    result(tf1.gradients(tf.reduce_sum(a), x)[0])


def gradient_of_branch():
    x, p = placeholder(), placeholder("p", [], tf.bool)
    result(tf1.gradients(tf1.cond(p, lambda: tf.tanh(x), lambda: x * 2.0), x)[0])


def guarded():
    x = placeholder()
    with tf.control_dependencies([tf1.assert_less(x, 100.0)]):
        result(x * 2.0)


def graph_def(build):
    with tf1_graph() as graph:
        build()
    return graph.as_graph_def()


def read(build) -> Graph:
    definition = graph_def(build)
    names = {node.name for node in definition.node}
    graph = from_graph_def(definition, sorted(names & {"x", "k", "p"}), ["y"])
    check(graph)
    return graph


def all_ops(graph: Graph) -> Counter[str]:
    return sum((all_ops(body) for body in graph.bodies.values()), ops(graph))


def training():
    x, flag = placeholder(), tf1.placeholder_with_default(False, [], "training")
    kept = tf1.cond(flag, lambda: tf.nn.dropout(x, 0.5), lambda: tf.identity(x))
    mean = tf1.cond(flag, lambda: tf.reduce_mean(kept, 0), lambda: tf.constant([1.0, 2.0, 3.0]))
    result((kept - mean) * tf1.placeholder_with_default(2.0, [], "scale"))


def test_a_default_that_nobody_feeds_is_a_constant() -> None:
    graph = read(training)
    assert "PlaceholderWithDefault" not in all_ops(graph)
    condition = {node.inputs[0] for node in graph.nodes if node.op == "If"}
    assert {graph.by_name[edge.node].op for edge in condition} == {"Const"}
    ops = {op for s in lower(graph).statements for op in s.origin}
    assert not any("dropout" in name or "Mean" in name for name in ops)


@pytest.mark.parametrize(
    ("build", "loops", "conditions"),
    [
        (swapping, 1, 0),
        (nested, 2, 0),
        (uneven, 2, 0),
        (branch_in_loop, 1, 1),
        (loop_in_branch, 1, 1),
        (branches, 0, 3),
        (until_data, 1, 0),
        (printing, 1, 0),
        (recurrent, 1, 0),
        (nested_arrays, 2, 0),
        (growing, 1, 0),
        (mapped, 2, 0),
        (joined, 1, 0),
        (longer, 0, 0),
        (guarded, 0, 1),
    ],
)
def test_nothing_of_tf1_is_left(build, loops, conditions) -> None:
    found = all_ops(read(build))
    assert not RAW & set(found)
    assert (found["While"], found["If"]) == (loops, conditions)


def test_a_loop() -> None:
    graph = read(swapping)
    (node,) = (node for node in graph.nodes if node.op == "While")
    exits = {edge.node for edge in node.results if edge}
    assert exits == {"while/Exit_1", "while/Exit_2"}  # nothing reads the counter
    for k, edge in enumerate(node.results):
        if edge is not None:
            assert graph.original(Edge(node.name, k)) == edge
            assert graph.carried[edge] == Edge(node.name, k)
    assert {"while/Merge", "while/LoopCond", "while/mul/y"} <= set(node.stands_for)
    assert graph.standing["while/Switch_1"] == node.name
    cond, body = (graph.bodies[node.attr_str(key)] for key in ("cond", "body"))
    assert cond.inputs == body.inputs and len(body.outputs) == len(node.inputs) == 4
    assert ops(cond)["Less"] == 1 and ops(body)["Mul"] == 1
    assert body.outputs[3][1] == Edge(body.inputs[3].name)  # the limit


def test_a_branch() -> None:
    graph = read(guarded)
    (node,) = (node for node in graph.nodes if node.op == "If")
    assert node.results == (Edge("assert_less/Assert/AssertGuard/Merge"),)
    taken, other = (graph.bodies[node.attr_str(k)] for k in ("then_branch", "else_branch"))
    assert taken.inputs == other.inputs and len(node.inputs) == 1 + len(taken.inputs)
    assert ops(other)["Assert"] == 1 and not ops(taken)["Assert"]
    assert any(node.name in n.control_inputs for n in graph.nodes if n.op == "Mul")


def test_arrays_are_lists() -> None:
    graph = read(recurrent)
    (node,) = (node for node in graph.nodes if node.op == "While")
    body = graph.bodies[node.attr_str("body")]
    assert {"TensorListReserve", "TensorListScatterIntoExistingList"} <= set(ops(graph))
    assert ops(body)["TensorListSetItem"] == ops(body)["TensorListGetItem"] == 1
    assert "resource" not in (*node.dtypes, *node.attr_strs("T"))
    assert node.dtypes.count("variant") == 2
    assert [a.dtype for a in body.inputs] == list(node.dtypes)


@pytest.mark.parametrize("build", [gradient, gradient_of_branch])
def test_arrays_and_branches_with_gradients_stay(build) -> None:
    found = all_ops(read(build))
    assert found["TensorArrayGradV3"] + found["Switch"]
    assert not found["TensorListReserve"] and not found["If"]


def node(name, op, *inputs, outputs=1, dtype="float32", **attrs):
    edges = tuple(Edge(i) if isinstance(i, str) else i for i in inputs)
    return Node(name, op, edges, (), attrs, (dtype,) * outputs, ((),) * outputs)


def loop_nodes():
    return [
        node("enter", "Enter", "x", frame_name="f", is_constant=False),
        node("merge", "Merge", "enter", "next", outputs=2),
        node("less", "Less", "merge", "limit", dtype="bool"),
        node("limit", "Enter", "x", frame_name="f", is_constant=True),
        node("cond", "LoopCond", "less", dtype="bool"),
        node("switch", "Switch", "merge", "cond", outputs=2),
        node("body", "Exp", Edge("switch", 1)),
        node("next", "NextIteration", "body"),
        node("exit", "Exit", "switch"),
        node("y", "Neg", "exit"),
    ]


def changed(name, **fields):
    return [Node(**{**vars(n), **fields}) if n.name == name else n for n in loop_nodes()]


def made(nodes) -> Graph:
    x = Argument("x", "float32", ())
    return Graph("g", (x,), (("y", Edge("y")),), tuple(nodes))


def test_a_loop_by_hand() -> None:
    graph = functional(made(loop_nodes()))
    check(graph)
    assert [n.op for n in graph.nodes] == ["While", "Neg"]


@pytest.mark.parametrize(
    "nodes",
    [
        changed("y", inputs=(Edge("exit"), Edge("body"))),  # a value leaves past the Exit
        changed("y", inputs=(Edge("merge"),)),
        changed("body", inputs=(Edge("merge"),)),  # it runs once more than the loop
        changed("body", inputs=(Edge("switch", 1), Edge("x"))),  # a value enters past an Enter
        changed("enter", attrs={"frame_name": "f", "is_constant": True}),
        changed("limit", attrs={"frame_name": "f", "is_constant": False}),
        changed("merge", inputs=(Edge("enter"), Edge("next"), Edge("next"))),
        changed("exit", inputs=(Edge("switch", 1),)),
        changed("switch", op="RefSwitch"),
        changed("exit", control_inputs=("body",)),
    ],
)
def test_what_is_no_loop_stays_as_it_is(nodes) -> None:
    graph = made(nodes)
    assert functional(graph) is graph


def branch_nodes():
    return [
        node("p", "Greater", "x", "x", dtype="bool"),
        node("pred", "Identity", "p", dtype="bool"),
        node("switch", "Switch", "x", "pred", outputs=2),
        node("exp", "Exp", Edge("switch", 1)),
        node("merge", "Merge", "switch", "exp", outputs=2),
        node("y", "Neg", "merge"),
    ]


def test_a_branch_by_hand() -> None:
    graph = functional(made(branch_nodes()))
    check(graph)
    assert [n.op for n in graph.nodes] == ["Greater", "If", "Neg"]
    taken, other = (graph.bodies[graph.nodes[1].attr_str(f"{k}_branch")] for k in ("then", "else"))
    assert [n.op for n in taken.nodes] == ["Exp"] and not other.nodes


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("y", (Edge("merge"), Edge("merge", 1))),  # which branch ran
        ("y", (Edge("merge"), Edge("exp"))),  # a value leaves past the Merge
        ("merge", (Edge("x"), Edge("exp"))),  # no matter what the predicate is
        ("merge", (Edge("exp"), Edge("exp"))),
    ],
)
def test_what_is_no_branch_stays_as_it_is(name, inputs) -> None:
    graph = made(
        Node(**{**vars(n), "inputs": inputs}) if n.name == name else n for n in branch_nodes()
    )
    assert functional(graph) is graph


# Numbers


def run(definition, feeds):
    with tf.Graph().as_default(), tf1.Session() as session:
        tf.import_graph_def(definition, name="")
        return session.run("y:0", feeds)


@pytest.mark.parametrize(
    ("build", "whole"),
    [
        (swapping, True),
        (nested, True),
        (uneven, True),
        (branch_in_loop, None),
        (loop_in_branch, None),
        (branches, None),
        (until_data, None),
        (recurrent, True),
        (nested_arrays, True),
        (growing, True),
        (mapped, True),
        (joined, True),
        (longer, False),
        (gradient, False),
        (gradient_of_branch, False),
        (guarded, None),
    ],
)
def test_a_graph_def_computes_what_it_did(build, whole, tmp_path) -> None:
    """`whole` says whether all of it is compiled, where that is for sure."""
    definition = graph_def(build)
    names = {node.name for node in definition.node}
    arrays = {"x": X, "k": np.int32(3), "p": np.bool_(True)}
    feeds = {name: arrays[name] for name in sorted(names & arrays.keys())}
    options = sirius_tf.Options(keep_slow=True, bundle=tmp_path / "b.so")
    made = sirius_tf.optimize_graph_def(
        definition, list(feeds), ["y"], samples=feeds, options=options
    )
    found = {node.op for node in made.node}
    if whole is not None:
        computed = found - {"Const", "EnsureShape", "Identity", "Placeholder", "SiriusRegion"}
        assert whole == (not computed)
    for count, holds, rows in [(3, True, 4), (0, False, 4), (1, True, 1)]:
        given = {"x:0": X[:rows], "k:0": np.int32(count), "p:0": np.bool_(holds)}
        if build in (gradient, nested_arrays) and rows == 1:
            continue
        given = {name: given[name] for name in given if name[0] in feeds}
        want, got = run(definition, given), run(made, given)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_loop_with_effects_stays_whole(tmp_path) -> None:
    definition = graph_def(printing)
    options = sirius_tf.Options(keep_slow=True, bundle=tmp_path / "b.so")
    made = sirius_tf.optimize_graph_def(definition, ["x"], ["y"], options=options)
    before, after = ({n.name: n for n in d.node} for d in (definition, made))
    inside = {name for name in before if name.startswith("while/")} - {"while/Exit"}
    assert inside <= after.keys()
    assert all(after[name].input[:] == before[name].input[:] for name in inside)


def save(path, build, resource):
    """A model of TF1 with a signature for each output."""
    with tf1_graph(), tf1.Session() as session:
        x = placeholder()
        with tf1.variable_scope("net", use_resource=resource):
            w = tf1.get_variable("w", initializer=np.eye(3, dtype="f") * np.float32(0.5))
            rows = tf1.get_variable("rows", initializer=np.arange(12, dtype="f").reshape(4, 3))
            count = tf1.get_variable("count", initializer=np.float32(0), trainable=False)
        outputs = build(x, w, rows, count)
        session.run(tf1.global_variables_initializer())
        make = tf1.saved_model.signature_def_utils.predict_signature_def
        signatures = {name: make({"x": x}, tensors) for name, tensors in outputs.items()}
        builder = tf1.saved_model.builder.SavedModelBuilder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()
    return list(outputs)


def weighted(x, w, rows, count):
    def step(i, a):
        return i + 1, tf.tanh(tf.matmul(a, w) + tf.gather(rows, i))

    i, a = loop(lambda i, a: i < 3, step, (0, x))
    return {"exit": {"i": i, "a": a}}


def shared(x, w, rows, count):
    return {"loop": weighted(x, w, rows, count)["exit"], "other": {"y": tf.exp(x) * 2.0}}


def ordered(x, w, rows, count):
    """Effects before and after a loop, and one that only a constant waits for."""
    with tf.control_dependencies([tf1.assign_add(count, 1.0)]):
        _, a = loop(lambda i, a: i < 3, lambda i, a: (i + 1, tf.tanh(a) + 1.0), (0, x))
    with tf.control_dependencies([a]):
        again = tf1.assign_add(count, 10.0)
    with tf.control_dependencies([again]):
        y = tf.exp(x * 2.0)
        read = tf.identity(count.read_value() if hasattr(count, "read_value") else count)
    return {"serve": {"a": a, "y": y, "count": read}}


def counting(x, w, rows, count):
    def step(i, a):
        with tf.control_dependencies([tf1.assign_add(count, 1.0)]):
            return i + 1, tf.tanh(tf.matmul(a, w))

    _, a = loop(lambda i, a: i < 3, step, (0, x))
    return {"serve": {"a": a, "y": tf.exp(x)}}


def fetched(path, signature):
    """What two calls of a signature return."""
    with tf.Graph().as_default(), tf1.Session() as session:
        loader = loader_impl.SavedModelLoader(str(path))
        found = loader.load(session, ["serve"]).signature_def[signature]
        tensors = {key: info.name for key, info in found.outputs.items()}
        return [session.run(tensors, {found.inputs["x"].name: X}) for _ in range(2)]


@pytest.mark.parametrize("resource", [False, True])
@pytest.mark.parametrize("build", [weighted, shared, ordered, counting])
def test_a_saved_model_computes_what_it_did(build, resource, tmp_path) -> None:
    signatures = save(tmp_path / "model", build, resource)
    options = sirius_tf.Options(keep_slow=True)
    sirius_tf.optimize(tmp_path / "model", tmp_path / "out", samples={"x": X}, options=options)
    for signature in signatures:
        want, got = (fetched(tmp_path / name, signature) for name in ("model", "out"))
        for before, after in zip(want, got, strict=True):
            for key in before:
                np.testing.assert_allclose(after[key], before[key], rtol=1e-5, atol=1e-6)
    nodes = savedmodel.load_meta_graph(tmp_path / "out").graph_def.node
    assert any(node.op == "SiriusRegion" for node in nodes)
    # TensorFlow hands the reference that comes before the loop into it.
    left = build is counting or (build is ordered and not resource)
    assert left == any(node.op == "LoopCond" for node in nodes)
