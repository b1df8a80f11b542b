# SPDX-License-Identifier: Apache-2.0
"""A coefficient is written in one header, so that targets cannot come to differ in it."""

import collections
import re

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.ir

DIGITS = 7  # from which on a number is no round one


def numbers(text: str) -> set[str]:
    """The numbers of a C source that somebody has fitted, or computed."""
    code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    found = re.findall(r"(?<![\w.])(\d+\.\d+(?:e[+-]?\d+)?|0x\d\.[0-9a-f]+p[+-]?\d+)", code)
    return {n for n in found if len(re.sub(r"[ep][+-]?\d+$|\W|^0x", "", n)) >= DIGITS}


def test_coefficients_are_written_once() -> None:
    headers = [p for p in (ROOT / "sirius_tf" / "native").iterdir() if p.suffix in (".h", ".cuh")]
    places = collections.defaultdict(list)
    for header in headers:
        for number in numbers(header.read_text()):
            places[number].append(header.name)
    assert places["0.0013864266220480204"] == ["sirius_coefficients.h"]
    assert {n: names for n, names in places.items() if len(names) > 1} == {}
