# SPDX-License-Identifier: Apache-2.0
"""From a SavedModel or a GraphDef to Graphs."""
