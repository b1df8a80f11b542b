# SPDX-License-Identifier: Apache-2.0
"""CUDA for GPUs."""
