# SPDX-License-Identifier: Apache-2.0
"""From a model to a model in which compiled regions replace TensorFlow's ops."""

from sirius_tf.driver.conversion import optimize
from sirius_tf.driver.frozen_graph import optimize_graph_def
from sirius_tf.driver.new_weights import refresh
from sirius_tf.driver.sampled import programs

__all__ = ["optimize", "optimize_graph_def", "programs", "refresh"]
