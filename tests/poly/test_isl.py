# SPDX-License-Identifier: Apache-2.0
"""Unions of isl, taken apart and put together."""

import islpy as isl
import pytest

from sirius_tf.poly.isl import example, maps, sets, union_map, union_set

pytestmark = pytest.mark.ir

MAPS = [isl.Map(f"{{ S{k}[i] -> [i + {k}] : 0 <= i < 4 }}") for k in range(5)]


@pytest.mark.parametrize("count", range(6))
def test_a_union_has_all_parts(count) -> None:
    made = union_map(MAPS[:count])
    assert len(maps(made)) == count
    for part in MAPS[:count]:
        assert isl.UnionMap.from_map(part).is_subset(made)


def test_maps_of_one_space_are_one() -> None:
    (one,) = maps(union_map([MAPS[0], isl.Map("{ S0[i] -> [7] : i = 9 }")]))
    assert one.domain().is_equal(isl.Set("{ S0[i] : 0 <= i < 4 or i = 9 }"))


def test_sets_of_any_spaces() -> None:
    parts = [isl.Set("{ A[i] : 0 <= i < 2 }"), isl.Set("{ B[i, j] : i = j }")]
    made = union_set(parts)
    assert sorted(s.get_tuple_name() for s in sets(made)) == ["A", "B"]
    assert sets(union_set([])) == []


def test_an_example_is_a_point_of_it() -> None:
    relation = isl.Map("[n] -> { S[i] -> [i] : 5 <= i < n }")
    assert isl.Map(example(relation)).is_subset(relation)
