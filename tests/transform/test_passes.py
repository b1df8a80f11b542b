# SPDX-License-Identifier: Apache-2.0
"""Every pass on ten small graphs: what it changes, as text, and that results stay what they are."""

import pytest

from sirius_tf import observers, pipeline
from sirius_tf.ir import interp
from sirius_tf.mapping.targets import machine_of
from sirius_tf.schedule.machine import Machine
from tests.support import saved
from tests.support.arrays import assert_close

pytestmark = pytest.mark.ir

MACHINES = {"cpu": Machine(2), "cuda": machine_of("sm_90")}


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


def test_most_passes_have_something_to_do():
    """The others have programs that are theirs alone, in modules of their own."""
    idle = {p.name for p in pipeline.PASSES}
    for name in saved.NAMES:
        for machine in MACHINES.values():
            steps = []
            pipeline.run(saved.read(name), machine, watching=[steps.append])
            idle -= {step.name for step in steps if step.changed}
    assert idle == {"reroll", "split_dims", "winograd", "overlap", "versions", "split_k"}
