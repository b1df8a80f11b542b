# SPDX-License-Identifier: Apache-2.0
"""A polyhedral whole-program inference compiler for TensorFlow SavedModels."""
