# SPDX-License-Identifier: Apache-2.0
"""From a GraphDef to a GraphDef in which compiled regions replace TensorFlow's ops."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorflow.core.protobuf import meta_graph_pb2

from sirius_tf.bundle import tilings
from sirius_tf.config import Options
from sirius_tf.driver import bundles
from sirius_tf.driver.comparison import compare_and_time, with_exact
from sirius_tf.driver.failures import told
from sirius_tf.driver.garbage import rarely_collected
from sirius_tf.driver.kernels import compile_parts
from sirius_tf.driver.parts import cut
from sirius_tf.driver.steps import (
    check_options,
    strictly_if_needed,
    threads_of,
)
from sirius_tf.frontend import savedmodel
from sirius_tf.rewrite import graphdef, output
from sirius_tf.rewrite import samples as sampling
from sirius_tf.rewrite.metagraph import Edit
from sirius_tf.runtime import native
from sirius_tf.runtime.op import register_with_tensorflow


@told
@native.on_cpu()
@rarely_collected()
def optimize_graph_def(
    graph_def: Any,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    samples: Mapping[str, Any] | None = None,
    options: Options = Options(),  # noqa: B008  it is frozen
) -> Any:
    """A GraphDef that computes the same outputs, with regions compiled to `options.bundle`.

    Inputs and outputs are tensors of a frozen GraphDef ("x" or "x:0") and keep their names. Without
    a path the bundle goes to the working directory; the constant `sirius_bundle` says where it is.
    """
    bundle = options.bundle or _unused()
    output.prepare_file(bundle, options.force)
    check_options(options)
    register_with_tensorflow()
    signature = graphdef.as_signature(graph_def, inputs, outputs)
    made, _ = strictly_if_needed(
        lambda o: _optimize_graph_def(graph_def, signature, bundle, samples, o), options
    )
    return made


def _unused() -> Path:
    """A path in the working directory where nothing is yet: other graphs need their bundles."""
    names = map("graph.sirius.{}.so".format, itertools.count())
    return next(path for path in map(Path, names) if not os.path.lexists(path))


def _optimize_graph_def(
    graph_def: Any,
    signature: savedmodel.Signature,
    bundle: Path,
    samples: Mapping[str, Any] | None,
    options: Options,
) -> Any:
    meta_graph = meta_graph_pb2.MetaGraphDef(graph_def=graph_def)
    choice = sampling.of_signatures({signature.name: signature}, samples)[signature.name]
    kept = graphdef.named_parts(signature)
    content = hashlib.sha256(graph_def.SerializeToString(deterministic=True)).hexdigest()
    part = cut(None, content, meta_graph, signature, signature.name, choice, kept)
    parts, kernels = compile_parts([part], threads_of(options), options, tilings.read())
    parts = with_exact(parts, kernels)
    with output.written(bundle, options.force) as work:
        parts, kernels = bundles.link_what_compiles(None, meta_graph, parts, kernels, work)
        timed = compare_and_time(None, meta_graph, parts[0], kernels, work, {}, options)
        if timed.uses != parts[0].uses:
            bundles.link(None, meta_graph, [timed], kernels, work)
        bundles.note_accuracy([timed], work)
    if not timed.uses:
        return graph_def
    return graphdef.rewrite(graph_def, Edit(signature, timed.uses), bundle)
