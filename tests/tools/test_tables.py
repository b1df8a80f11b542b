# SPDX-License-Identifier: Apache-2.0
"""Tables of commands."""

import pytest

from sirius_tf.tools.tables import table

pytestmark = pytest.mark.ir


def test_a_table_has_a_line_for_each_row() -> None:
    assert table(("model", "ms"), [["lstm", "1.5"]]) == "| model | ms |\n|---|---|\n| lstm | 1.5 |"
    assert table(["a"], []) == "| a |\n|---|"
