# SPDX-License-Identifier: Apache-2.0
"""Every pass on small graphs: what it changes, as text, and that results stay what they are."""

import functools
import re

import pytest

from sirius_tf import observers, pipeline
from sirius_tf.ir import interp
from tests.support import ROOT, saved
from tests.support.arrays import assert_close

pytestmark = pytest.mark.ir

TARGETS = ("cpu", "cuda")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", saved.NAMES)
def test_the_changes_of_each_pass(golden, name, target):
    steps, *_ = saved.passed(name, target)
    golden(f"{name}.{target}", "\n\n".join(map(observers.changes, steps)) + "\n")


@pytest.mark.parametrize("name", saved.NAMES)
def test_results_stay_what_they_are(name):
    """Interpreted after each pass; what is the same on the way to both targets is run once."""
    for size in (1, 6):
        feeds = saved.inputs(saved.read(name), size)
        results = functools.cache(functools.partial(interp.run, inputs=feeds))
        for step in (step for target in TARGETS for step in saved.passed(name, target)[0]):
            tolerance = 1e-4 if step.rounding == "more" else 1e-5
            assert_close(results(step.after), results(step.before), tolerance)


def test_every_pass_has_something_to_do():
    """In some golden text."""
    texts = (path.read_text() for path in (ROOT / "testdata/golden/test_passes").iterdir())
    found = {name for text in texts for name in re.findall(r"^# (\w+): \d+ statements", text, re.M)}
    assert found == {p.name for p in pipeline.PASSES}
