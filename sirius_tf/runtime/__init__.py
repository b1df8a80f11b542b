# SPDX-License-Identifier: Apache-2.0
"""Running bundles, with or without TensorFlow."""
