# SPDX-License-Identifier: Apache-2.0
"""Starts sirius_tf.tools.perf.machine."""

from sirius_tf.tools import start

start("perf.machine")
