# SPDX-License-Identifier: Apache-2.0
"""Strongly connected components."""

from sirius_tf.ir.scc import components


def test_components_are_in_topological_order_whatever_the_order_of_nodes() -> None:
    edges = [("a", "b"), ("b", "c"), ("c", "b"), ("c", "d"), ("e", "d")]
    for nodes in ("abcde", "edcba", "dbeca"):
        found = components(list(nodes), edges)
        where = {n: k for k, members in enumerate(found) for n in members}
        assert where["b"] == where["c"] and len(found) == 4
        assert where["a"] < where["b"] < where["d"] > where["e"]
