# SPDX-License-Identifier: Apache-2.0
"""Starts sirius_tf.tools.perf.versions."""

from sirius_tf.tools import start

start("perf.versions")
