# SPDX-License-Identifier: Apache-2.0
"""Starts sirius_tf.tools.gpu.check."""

from sirius_tf.tools import start

start("gpu.check")
