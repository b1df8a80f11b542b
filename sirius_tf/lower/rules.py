# SPDX-License-Identifier: Apache-2.0
"""All modules of rules: importing this one registers them."""

from sirius_tf.lower import (  # noqa: F401
    control,
    counting,
    elementwise,
    host,
    images,
    indexing,
    linalg,
    lists,
    loops,
    matrices,
    movement,
    scatter,
    selection,
    windows,
)
