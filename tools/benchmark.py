# SPDX-License-Identifier: Apache-2.0
"""Starts sirius_tf.tools.benchmark."""

from sirius_tf.tools import start

start("benchmark")
