# SPDX-License-Identifier: Apache-2.0
"""Bisections in copies of the package that have a bug: by a run, by isl's verdict, by the code."""

import pytest

from tests.support import bugs

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("stage", ["hoist", "wavefront", "code"])
def test_a_stage_with_a_bug_is_named(tmp_path, stage) -> None:
    bug = next(bug for bug in bugs.BUGS if bug.stage == stage)
    assert bugs.said(bug, tmp_path).startswith(f"{stage}: ")
