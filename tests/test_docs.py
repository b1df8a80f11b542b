# SPDX-License-Identifier: Apache-2.0
"""The texts of stages in docs/*.md are what the compiler prints; --update-golden renews them."""

import pytest

from tests.support import ROOT
from tests.support.documents import renewed

PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_texts_are_those_of_the_compiler(page, request) -> None:
    now = renewed(page)
    if request.config.getoption("--update-golden"):
        page.write_text(now)
    assert page.read_text() == now, f"{page} has other texts: see --update-golden"
