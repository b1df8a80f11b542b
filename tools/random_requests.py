# SPDX-License-Identifier: Apache-2.0
"""Starts sirius_tf.tools.perf.random_requests."""

from sirius_tf.tools import start

start("perf.random_requests")
