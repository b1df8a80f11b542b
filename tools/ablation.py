# SPDX-License-Identifier: Apache-2.0
"""Starts sirius_tf.tools.perf.ablation."""

from sirius_tf.tools import start

start("perf.ablation")
