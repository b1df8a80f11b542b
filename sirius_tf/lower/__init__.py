# SPDX-License-Identifier: Apache-2.0
"""From a TensorFlow Graph to a Program: one rule per op."""
