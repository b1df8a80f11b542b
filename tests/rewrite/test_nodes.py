# SPDX-License-Identifier: Apache-2.0
"""Nodes, functions, assets and manifests, each made by hand; no model is needed."""

from dataclasses import replace

import numpy as np
import pytest
from tensorflow.core.framework import graph_pb2, node_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from sirius_tf.bundle import cache
from sirius_tf.bundle.seal import crc32c
from sirius_tf.errors import SiriusError
from sirius_tf.frontend.graph import Argument, Edge, Graph, Node
from sirius_tf.frontend.savedmodel import PROBE, Signature, Tensor
from sirius_tf.frontend.upstream import node_of
from sirius_tf.rewrite.asset import ASSET, CHECK, INIT_OP, add_asset, with_checksum
from sirius_tf.rewrite.function import with_body
from sirius_tf.rewrite.hollow import hollow, hollow_region
from sirius_tf.rewrite.manifest import manifest
from sirius_tf.rewrite.nodedef import enum, full, restore_lowering, tensor_name
from sirius_tf.rewrite.original import original
from sirius_tf.rewrite.regions import Region
from sirius_tf.rewrite.substitute import Use


def node(name, op, *inputs, wait=(), **attrs):
    edges = tuple(map(Edge, inputs))
    return Node(name, op, edges, tuple(wait), attrs, ("float32",), ((3,),))


def region(name, *nodes, inputs=("x",), outputs=("b",)):
    arguments = tuple(Argument(key, "float32", (3,)) for key in inputs)
    graph = Graph(name, arguments, tuple((key, Edge(key)) for key in outputs), nodes)
    edges = tuple(map(Edge, inputs)), tuple(map(Edge, outputs))
    return Region(name, graph, *edges, frozenset(n.name for n in nodes))


def graph_def(*nodes):
    """Nodes of float32 as (name, op, input...)."""
    made = graph_pb2.GraphDef()
    for name, op, *inputs in nodes:
        added = made.node.add(name=name, op=op, input=inputs)
        added.attr["T"].type = enum("float32")
    return made


def test_names_of_nodes_and_tensors() -> None:
    assert [node_of(t) for t in ("a/b:1", "^a/b", "a/b")] == 3 * ["a/b"]
    assert [full(t) for t in ("a", "a:1", "^a")] == ["a:0", "a:1", "^a"]
    graph = Graph("g", (Argument("x:1", "float32", ()), Argument("y", "float32", ())), (), ())
    edges = (Edge("x:1"), Edge("y"), Edge("n", 2))
    assert [tensor_name(e, graph) for e in edges] == ["x:1", "y:0", "n:2"]


def test_lowering_is_restored_of_calls_that_had_it() -> None:
    key = "_lower_using_switch_merge"
    for op, had, has in (("While", True, True), ("While", False, False), ("Add", True, False)):
        given = node_def_pb2.NodeDef(op=op)
        if had:
            given.attr[key].b = False
        restore_lowering(given)
        assert (key in given.attr and given.attr[key].b) is has


def test_a_hollow_graph_keeps_types_and_takes_no_memory() -> None:
    values = np.arange(6, dtype=np.int16).reshape(2, 3)
    inner = Graph("body", (), (), (node("d", "Const", value=values),))
    outer = Graph("g", (), (), (node("c", "Const", value=values, axis=1),), {"body": inner})
    made = hollow(outer)
    for graph in (made, made.bodies["body"]):
        array = graph.nodes[0].attr_array()
        assert (array.dtype, array.shape, array.strides) == (values.dtype, (2, 3), (0, 0))
        assert not array.any()
    assert made.nodes[0].attr_int("axis") == 1
    assert values.any() and outer.nodes[0].attr_array() is values


def test_hollow_regions_still_have_different_digests() -> None:
    """Regions with other constants share no kernel, when these are gone, too."""
    one, two = (
        region("r", node("b", "Const", value=np.full(3, k, np.float32)), inputs=()) for k in (1, 2)
    )
    assert hollow_region(one).digest == one.digest != two.digest == hollow_region(two).digest
    assert not hollow_region(two).graph.nodes[0].attr_array().any()


@pytest.mark.parametrize("wait", [(), ("^t",)])
def test_a_function_of_the_nodes_of_a_region(wait) -> None:
    """A constant comes into it; what another op computes is an argument, by the op's own name."""
    nodes = graph_def(
        ("x", "Placeholder"), ("k", "Const"), ("t", "TopK", "x:0"), ("b", "AddV2", "t:1", "k")
    )
    nodes.node[2].attr["T"].type = enum("int32")
    nodes.node[1].attr["_class"].list.s.append(b"loc:@x")
    nodes.node[1].input.extend(wait)
    graph = Graph(
        "g",
        (Argument("x", "float32", (3,)),),
        (("b", Edge("b")),),
        (
            replace(node("t", "TopK", "x"), dtypes=("float32", "int32"), shapes=((3,), (3,))),
            node("k", "Const", value=np.zeros(3, np.float32)),
            Node("b", "AddV2", (Edge("t", 1), Edge("k")), (), {}, ("int32",), ((3,),)),
        ),
    )
    inner = region("r", graph.by_name["b"])
    given = replace(inner, inputs=(Edge("t", 1),))
    made = original(given, graph, {n.name: n for n in nodes.node}, nodes.library)
    assert made.arguments == ("t:1",)
    (argument,) = made.function.signature.input_arg
    (result,) = made.function.signature.output_arg
    assert argument.type == result.type == enum("int32")
    assert not any("_class" in n.attr for n in made.function.node_def)  # there is no x there
    found = {n.name: list(n.input) for n in made.function.node_def}
    assert found.pop("b") == [argument.name, "k:output:0"]
    assert made.function.ret[result.name] == "sirius_result_0:output:0"
    assert found.pop("sirius_result_0") == ["b:z:0"]
    assert found.pop("k") == [] and not found  # it waits for nothing there
    call = made.call("called", ["t:1"])
    assert call.op == "PartitionedCall" and list(call.attr["Tin"].list.type) == [enum("int32")]
    assert call.attr["f"].func.name == made.function.signature.name


def test_the_checksum_is_of_the_model_without_it() -> None:
    blank = b"head sirius graph 00000000 and sirius graph 00000000 tail"
    checksum = b"%08x" % crc32c(blank)
    assert with_checksum(blank) == blank.replace(b"00000000", checksum)
    assert with_checksum(b"without ops") == b"without ops"


@pytest.mark.parametrize("how", ["signature", "collection", "nothing"])
def test_the_bundle_is_checked_when_a_model_is_initialized(how, tmp_path) -> None:
    """Whatever a model does then waits for the path and the check."""
    bundle = tmp_path / "b.sirius.so"
    bundle.write_text("code")
    given = meta_graph_pb2.MetaGraphDef(graph_def=graph_def(("init", "NoOp")))
    if how == "signature":
        given.signature_def[INIT_OP].outputs[INIT_OP].name = "init:0"
    if how == "collection":
        given.collection_def["legacy_init_op"].node_list.value.append("init")
    use = Use(region("r", node("b", "Exp", "x")), "kernel")
    assert add_asset(given, bundle, [use, use]) is None  # there are no objects
    nodes = {n.name: n for n in given.graph_def.node}
    last = "init"
    if how == "nothing":
        (last,) = given.collection_def["saved_model_main_op"].node_list.value
    assert list(nodes[last].input) == [f"^{ASSET}/assign", f"^{ASSET}/check"]
    check = nodes[f"{ASSET}/check"]
    assert check.op == CHECK
    assert check.attr["regions"].s.decode() == f"kernel {use.region.digest}"
    assert cache.content(bundle)[:16] in nodes[ASSET].attr["shared_name"].s.decode()
    (asset,) = given.asset_file_def
    assert (asset.filename, asset.tensor_info.name) == (bundle.name, f"{ASSET}/path:0")


X = Argument("x", "float32", (3,))
TYPES = {"dtype": "float32", "shape": [None, 3]}


def described(*nodes, uses, results=("b",), wait=()):
    """The entry of a signature in the manifest; its results wait for some nodes."""
    probes = [
        node(f"{PROBE}{k}", "Identity", source, wait=wait) for k, source in enumerate(results)
    ]
    outputs = {
        f"out{k}": Tensor(f"{name}:0", "float32", (None, 3)) for k, name in enumerate(results)
    }
    ends = tuple((key, Edge(p.name)) for key, p in zip(outputs, probes, strict=True))
    graph = Graph("g", (X,), ends, (*nodes, *probes))
    inputs = {"in": Tensor("x:0", "float32", None)}
    signature = Signature("s", inputs, outputs, graph, None)
    return manifest(None, None, {"s": (signature, uses)})["signatures"]["s"]


B = node("b", "Exp", "copy")
COPY = node("copy", "Identity", "x")


def test_a_signature_that_is_one_region() -> None:
    """Arguments and results are found behind Identity ops."""
    whole = Use(region("r", B, inputs=("copy",)), "kernel")
    found = described(COPY, B, uses=[whole], results=("b", "copy"))
    assert found["inputs"] == {"in": {"dtype": "float32", "shape": None}}
    assert found["outputs"] == {"out0": TYPES, "out1": TYPES}
    assert (found["uses"], found["region"]) == ({"r": "kernel"}, "kernel")
    assert found["arguments"] == [{"input": "in"}]
    assert found["results"] == {"out0": {"output": 0}, "out1": {"input": "in"}}


@pytest.mark.parametrize(
    ("nodes", "uses", "results", "reason"),
    [
        ((COPY, B), [], ("b",), "0 regions and TensorFlow compute it together"),
        (
            (node("copy", "NoRule", "x"), B),
            [Use(region("r", B, inputs=("copy",)), "kernel")],
            ("b",),
            r"TensorFlow computes copy (NoRule) for it",
        ),
        (
            (COPY, B, node("c", "NoRule", "b")),
            [Use(region("r", B, inputs=("copy",)), "kernel")],
            ("b", "c"),
            "TensorFlow computes its result c",
        ),
    ],
)
def test_a_signature_that_needs_tensorflow_says_why(nodes, uses, results, reason) -> None:
    found = described(*nodes, uses=uses, results=results)
    assert (found["region"], found["reason"], found["results"]) == (None, reason, {})


def test_effects_of_others_need_tensorflow() -> None:
    whole = Use(region("r", B, inputs=("copy",)), "kernel")
    assert described(COPY, B, uses=[whole], wait=["b"])["region"] == "kernel"
    found = described(COPY, B, node("e", "Print", "x"), uses=[whole], wait=["b", "e"])
    assert found["reason"] == "it has effects, which TensorFlow carries out"


def test_the_body_of_a_function() -> None:
    """Arguments take the place of tensors, outputs have names, and what is waited for is kept."""
    made = graph_def(
        ("x", "Placeholder"),
        ("dim", "Const"),
        ("parts", "Split", "dim", "x"),
        ("effect", "NoOp", "^x"),
        ("r", "Identity", "parts:1", "^effect", "^x"),
    )
    made.node[2].attr["num_split"].i = 3
    function = made.library.function.add()
    function.signature.input_arg.add(name="a")
    function.signature.output_arg.add(name="out")
    function.ret["out"] = "old"
    function.node_def.add(name="old", op="NoOp")
    body = with_body(function, made, ["x"], ["r"], {})
    assert {n.name: list(n.input) for n in body.node_def} == {
        "dim": [],
        "parts": ["dim:output:0", "a"],
        "effect": [],
        "r": ["parts:output:1", "^effect"],
    }
    assert dict(body.ret) == {"out": "r:output:0"}
    assert dict(body.control_ret) == {"effect": "effect"}
    assert list(body.signature.control_output) == ["effect"]
    assert dict(function.ret) == {"out": "old"}


def test_a_function_cannot_reach_beyond_its_nodes() -> None:
    made = graph_def(("b", "Exp", "elsewhere:0"))
    function = meta_graph_pb2.MetaGraphDef().graph_def.library.function.add()
    function.signature.name = "f"
    with pytest.raises(SiriusError, match="function 'f' cannot reach node 'elsewhere'"):
        with_body(function, made, [], [], {})
