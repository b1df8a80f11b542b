# SPDX-License-Identifier: Apache-2.0
"""Regions return the same bits whatever the workers, the instruction set and the batch beside a row
(tests/reliability/same_bits.py has all models of the zoo)."""

import pytest

from tests.reliability import same_bits
from tests.support.small_zoo import SIZES

MODELS = ("attn_decode", "bert_small", "dien", "greedy", "mmoe", "mobilenet")


@pytest.mark.parametrize("name", MODELS)
def test_the_same_bits(name):
    found = same_bits.of_model(name, **SIZES[name])
    assert found["outputs"] >= same_bits.MOST_ROWS
    assert (found["workers"], found["lanes"], found["rows"]) == (0, 0, 0)
