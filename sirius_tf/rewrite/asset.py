# SPDX-License-Identifier: Apache-2.0
"""The bundle among the assets of a SavedModel, and the op that checks it when the model is loaded.

A session runs the op with those that initialize the model. Objects have it as a resource, which
TensorFlow's loader initializes: what the op finds wrong is an error of the load.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf import any_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.framework import op_def_library
from tensorflow.python.saved_model import function_serialization
from tensorflow.python.util import object_identity

from sirius_tf.bundle import cache
from sirius_tf.bundle.seal import crc32c
from sirius_tf.frontend.upstream import node_of
from sirius_tf.rewrite.nodedef import enum
from sirius_tf.rewrite.substitute import Use

ASSET = "sirius_bundle"
CHECK = "SiriusCheck"
INIT_OP = "__saved_model_init_op"
READ = f"{ASSET}/read:0"
"""The tensor that is the path of the bundle, once the model is initialized."""
_GRAPH = b"sirius graph "
_UNKNOWN = b"00000000"  # a checksum
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")
_ASSETS = "saved_model_assets"


def add_asset(meta_graph: Any, bundle: Path, uses: Collection[Use]) -> int | None:
    """Make a file an asset, and have it checked that it holds the regions of some uses.

    The result is its number in the object graph, if the model has one.
    """
    regions = "\n".join(sorted({f"{use.kernel} {use.region.digest}" for use in uses}))
    attributes = {"regions": regions.encode(), "graph": _GRAPH + _UNKNOWN}
    _add_nodes(meta_graph, bundle, attributes)
    asset = meta_graph_pb2.AssetFileDef(filename=bundle.name)
    asset.tensor_info.name = f"{ASSET}/path:0"
    if _ASSETS in meta_graph.collection_def:
        packed = any_pb2.Any()
        packed.Pack(asset)
        meta_graph.collection_def[_ASSETS].any_list.value.append(packed)
    if meta_graph.asset_file_def or _ASSETS not in meta_graph.collection_def:
        meta_graph.asset_file_def.append(asset)
    return _add_objects(meta_graph, attributes) if meta_graph.object_graph_def.nodes else None


def with_checksum(saved_model: bytes) -> bytes:
    """A serialized SavedModel whose ops know its checksum, with zeros where that is."""
    checksum = b"%08x" % crc32c(saved_model)
    return saved_model.replace(_GRAPH + _UNKNOWN, _GRAPH + checksum)


def _add_nodes(meta_graph: Any, bundle: Path, attributes: dict[str, bytes]) -> None:
    """To the main graph: a variable for the path, which is fed when the model is initialized."""
    string = enum("string")

    def add(name: str, op: str, *inputs: str) -> Any:
        node = meta_graph.graph_def.node.add(name=f"{ASSET}{name}", op=op)
        node.input.extend(inputs)
        if op != CHECK:
            node.attr["dtype"].type = string
        return node

    add("/path", "Placeholder").attr["shape"].shape.SetInParent()
    variable = add("", "VarHandleOp")
    variable.attr["shape"].shape.SetInParent()
    # In eager mode all models of a process share what has this name: those with the same bundle.
    variable.attr["shared_name"].s = f"{ASSET}_{cache.content(bundle)[:16]}".encode()
    variable.attr["container"].s = b""
    add("/assign", "AssignVariableOp", ASSET, f"{ASSET}/path")
    add("/read", "ReadVariableOp", ASSET)
    check = add("/check", CHECK, f"{ASSET}/path")
    for key, value in attributes.items():
        check.attr[key].s = value
    _initialize(meta_graph, f"{ASSET}/assign")
    _initialize(meta_graph, f"{ASSET}/check")


def _add_objects(meta_graph: Any, attributes: dict[str, bytes]) -> int:
    """The number of the asset as an object; another one is the resource that checks it."""
    objects = meta_graph.object_graph_def
    number = len(objects.nodes)
    objects.nodes.add().asset.asset_file_def_index = len(meta_graph.asset_file_def) - 1
    objects.nodes[0].children.add(node_id=number, local_name=f"_{ASSET}")
    path = tf.constant("")

    @tf.function(input_signature=[], autograph=False)  # type: ignore[untyped-decorator]
    def check() -> Any:
        op_def_library.apply_op(CHECK, bundle=path, **attributes)
        return tf.constant(1)

    @tf.function(input_signature=[], autograph=False)  # type: ignore[untyped-decorator]
    def create() -> Any:
        return tf.constant(1.0)

    functions = {"_initialize": check, "_create_resource": create}
    resource = objects.nodes.add()
    resource.resource.SetInParent()
    objects.nodes[0].children.add(node_id=number + 1, local_name=f"_{ASSET}_check")
    for name, function in functions.items():
        resource.children.add(node_id=len(objects.nodes), local_name=name)
        _add_function(meta_graph, f"__inference_{ASSET}{name}", function, path, number)
    return number


def _add_function(meta_graph: Any, name: str, function: Any, path: Any, asset: int) -> None:
    """A function without arguments as an object; the tensor `path` that it captures is an asset."""
    concrete = function.get_concrete_function()
    meta_graph.graph_def.library.function.add().CopyFrom(concrete.function_def)
    meta_graph.graph_def.library.function[-1].signature.name = name
    objects = meta_graph.object_graph_def
    captures = object_identity.ObjectIdentityDictionary()
    captures[path] = asset
    objects.concrete_functions[name].CopyFrom(
        function_serialization.serialize_concrete_function(concrete, captures)
    )
    saved = objects.nodes.add().function
    saved.CopyFrom(function_serialization.serialize_function(function, [concrete]))
    saved.concrete_functions[0] = name


def _initialize(meta_graph: Any, node: str) -> None:
    """Have an op run when the model is initialized."""
    nodes = {n.name: n for n in meta_graph.graph_def.node}
    if INIT_OP in meta_graph.signature_def:
        found = meta_graph.signature_def[INIT_OP].outputs[INIT_OP].name
        nodes[node_of(found)].input.append(f"^{node}")
        return
    for key in _INIT_COLLECTIONS:
        for name in meta_graph.collection_def[key].node_list.value if has(meta_graph, key) else ():
            nodes[node_of(name)].input.append(f"^{node}")
            return
    meta_graph.graph_def.node.add(name=f"{ASSET}/init", op="NoOp").input.append(f"^{node}")
    collection = meta_graph.collection_def[_INIT_COLLECTIONS[0]]
    collection.node_list.value.append(f"{ASSET}/init")


def has(meta_graph: Any, key: str) -> bool:
    """Whether a MetaGraphDef has a collection."""
    return key in meta_graph.collection_def
