# SPDX-License-Identifier: Apache-2.0
"""The op SiriusRegion in a Python process with TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_def_library, ops

from sirius_tf.errors import SiriusError
from sirius_tf.runtime import native


def register_with_tensorflow() -> None:
    """Make TensorFlow know the op. May be called any number of times."""
    # Not tf.load_op_library: it sees only ops that register while it loads, and the library may
    # have been loaded (or preloaded) before TensorFlow was.
    if native.library().sirius_tf_register() != 0:
        raise SiriusError(
            f"TensorFlow {tf.__version__} does not accept the op SiriusRegion: 2.19 to 2.21 do"
        )


@tf.RegisterGradient("SiriusResults")  # type: ignore[untyped-decorator]
def _gradient(results: Any, *gradients: Any) -> list[Any]:
    """The gradients of the inputs: those of the call of the original function.

    Nothing read that call until now. It has to give the results, too, wherever gradients are asked
    for: who trains assigns variables, which compiled code does not follow.
    """
    call = results.graph.get_operation_by_name(results.get_attr("original").decode())
    found = ops.get_gradient_function(call)(call, *gradients)
    for old, new in zip(results.outputs, call.outputs, strict=False):
        for reader in old.consumers():  # whose gradients are known already
            for k in [k for k, tensor in enumerate(reader.inputs) if tensor is old]:
                reader._update_input(k, new)
    return [None] * len(results.outputs) + list(found)


def sirius_region(
    inputs: Sequence[Any],
    bundle: str | os.PathLike[str] | Any,
    region: str,
    dtypes: Sequence[Any],
    digest: str = "",
) -> list[Any]:
    """Call a region, inside or outside a tf.function.

    `dtypes` are those of the outputs, `digest` is that of the graph which the region was made of.
    """
    register_with_tensorflow()
    path = bundle if tf.is_tensor(bundle) else tf.constant(os.fspath(bundle))
    tensors = [tf.convert_to_tensor(x) for x in inputs]

    def apply() -> list[Any]:
        result: list[Any] = op_def_library.apply_op(
            "SiriusRegion",
            inputs=tensors,
            bundle=path,
            Tout=list(dtypes),
            region=region,
            digest=digest,
        )
        return result

    return apply() if not tf.executing_eagerly() else list(tf.function(apply)())
