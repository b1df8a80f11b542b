# SPDX-License-Identifier: Apache-2.0
"""Starts sirius_tf.tools.models.zoo."""

from sirius_tf.tools import start

start("models.zoo")
