# SPDX-License-Identifier: Apache-2.0
"""Regions of a graph, and the SavedModel in which one op stands for each."""
