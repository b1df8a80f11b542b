# SPDX-License-Identifier: Apache-2.0
"""The schedules of small graphs, as texts: what each scheduler decides for CPUs and GPUs."""

import pytest

from sirius_tf.compile import schedule_program
from sirius_tf.mapping.targets import machine_of
from sirius_tf.schedule import overlap
from sirius_tf.schedule.machine import Machine
from sirius_tf.schedule.schedule import parse, show
from tests.support import saved

pytestmark = pytest.mark.ir

MACHINES = {"one": Machine(1), "cpu": Machine(2), "cuda": machine_of("sm_90")}
CASES = [
    *((name, target) for name in saved.NAMES for target in ("cpu", "cuda")),
    *((name, "one") for name in ("decided", "replaced", "two_layers")),  # updates in place
]
SLOW = "convolution"  # 24 statements, seconds for isl


@pytest.fixture(autouse=True)
def small_caches(monkeypatch):
    """The images that are slid over are small ones, too."""
    monkeypatch.setattr(overlap, "CACHE", 1 << 12)
    monkeypatch.setattr(overlap, "READ", 40)


@pytest.mark.parametrize(("name", "target"), [c for c in CASES if c[0] != SLOW])
def test_schedule(golden, name, target):
    texts: dict[str, str] = {}
    schedule_program(saved.read(name), MACHINES[target], texts.__setitem__)
    assert show(parse(texts["schedule"])) == texts["schedule"]
    golden(f"{name}.{target}", texts["schedule"])
