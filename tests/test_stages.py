# SPDX-License-Identifier: Apache-2.0
"""The text of every stage of three small programs."""

import pytest

from sirius_tf.compile import compile_program
from tests.support import programs

pytestmark = pytest.mark.ir


@pytest.mark.parametrize("make", [programs.dense, programs.softmax, programs.lstm])
def test_stages(golden, make) -> None:
    program = make()
    stages: dict[str, str] = {}
    kernel = compile_program(program, 2, stages.__setitem__)
    assert stages.pop("c") == kernel.plan + kernel.runs["v3"]
    for stage, text in stages.items():
        golden(f"{program.name}.{stage}", text)
    golden(f"{program.name}.plan", kernel.plan)
    golden(f"{program.name}.run_v3", kernel.runs["v3"])
