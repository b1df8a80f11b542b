# SPDX-License-Identifier: Apache-2.0
"""Every pass on small graphs: what it changes, as text, and that results stay what they are."""

import re

import pytest

from sirius_tf import observers, pipeline
from sirius_tf.ir import interp
from sirius_tf.mapping.targets import machine_of
from sirius_tf.schedule.machine import cpu
from tests.support import ROOT, saved
from tests.support.arrays import assert_close

pytestmark = pytest.mark.ir

MACHINES = {"cpu": cpu(2), "cuda": machine_of("sm_90")}


@pytest.fixture(autouse=True)
def small_caches(monkeypatch):
    saved.slide_over_small_images(monkeypatch)


@pytest.mark.parametrize("target", MACHINES)
@pytest.mark.parametrize("name", saved.NAMES)
def test_results_stay_what_they_are(golden, name, target):
    program, steps = saved.read(name), []
    pipeline.run(program, MACHINES[target], watching=[steps.append, observers.check])
    changed = [step for step in steps if step.changed]
    golden(f"{name}.{target}", "\n\n".join(map(observers.changes, changed)) + "\n")
    for size in (1, 6):
        feeds = saved.inputs(program, size)
        expected = interp.run(program, feeds)
        for step in changed:
            tolerance = 1e-4 if step.rounding == "more" else 1e-5
            assert_close(interp.run(step.after, feeds), expected, tolerance)
            expected = interp.run(step.after, feeds)


def test_every_pass_has_something_to_do():
    """In some golden text."""
    texts = (path.read_text() for path in (ROOT / "testdata/golden/test_passes").iterdir())
    found = {name for text in texts for name in re.findall(r"^# (\w+): \d+ statements", text, re.M)}
    assert found == {p.name for p in pipeline.PASSES}
