# SPDX-License-Identifier: Apache-2.0
"""Starts sirius_tf.tools.perf.roofline."""

from sirius_tf.tools import start

start("perf.roofline")
