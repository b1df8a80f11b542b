# SPDX-License-Identifier: Apache-2.0
"""Which nodes of a graph are compiled, and the SavedModel in which one op stands for them."""
