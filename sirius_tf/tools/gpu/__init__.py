# SPDX-License-Identifier: Apache-2.0
"""CUDA code, with a GPU and without one."""
