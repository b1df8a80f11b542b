# SPDX-License-Identifier: Apache-2.0
"""Bugs of one line (tests/support/bugs.py) are still those that docs/testing.md tells of."""

import pytest

from sirius_tf.pipeline import PASSES
from tests.support import ROOT, bugs

pytestmark = pytest.mark.ir


@pytest.mark.parametrize("bug", bugs.BUGS, ids=lambda bug: bug.stage)
def test_the_line_is_in_the_file(bug) -> None:
    right = (ROOT / "sirius_tf" / bug.file).read_text()
    assert right.count(bug.line) == 1 and bug.wrong != bug.line


def test_each_pass_has_a_bug() -> None:
    assert {bug.stage for bug in bugs.BUGS} == {p.name for p in PASSES} | {"schedule", "code"}


def test_the_table_has_a_row_for_each() -> None:
    page = (ROOT / "docs" / "testing.md").read_text()
    for bug in bugs.BUGS:
        assert f"| `{bug.stage}` | {bug.mistake} | `{bug.file}` | yes |" in page
