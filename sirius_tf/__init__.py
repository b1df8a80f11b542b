# SPDX-License-Identifier: Apache-2.0
"""A polyhedral whole-program inference compiler for TensorFlow SavedModels.

Converting needs TensorFlow and the compiler; they are imported when it is first asked for, so that
`sirius_tf.runtime` runs bundles without them. Imported after TensorFlow, the package makes its op
known there, so that rewritten models load.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from sirius_tf.config import Options
from sirius_tf.errors import InvalidArgument, SiriusError, Unsupported, VerifyError
from sirius_tf.report import Result

if TYPE_CHECKING:
    from sirius_tf.driver import optimize, optimize_graph_def, refresh

__all__ = [
    "InvalidArgument",
    "Options",
    "Result",
    "SiriusError",
    "Unsupported",
    "VerifyError",
    "optimize",
    "optimize_graph_def",
    "refresh",
]
_LAZY = ("optimize", "optimize_graph_def", "refresh")


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'sirius_tf' has no attribute '{name}'")
    from sirius_tf import driver

    return getattr(driver, name)


if sys.modules.get("tensorflow"):
    from sirius_tf.runtime.op import register_with_tensorflow

    register_with_tensorflow()
