# SPDX-License-Identifier: Apache-2.0
"""What a loop carries, and what it becomes within an iteration, are versions of one array."""

import pytest

from sirius_tf.schedule.versions import number_versions
from tests.support.saved import parsed, statements

pytestmark = pytest.mark.ir

TEXT = """program text(a, b)
params:
  B = dim(a, 0)   # >= 0, hint 8
tensors:
  input a[B]: int32
  input b[B]: int32
  temp c[]: bool
  temp x[B + 1, 4]: float32
  temp y[B, 4]: float32
  temp v[B, 4]: float32
  output z[4]: float32
statements:
  C: c[] = a[0] > 0
  X: x[0, i] = 0.0   for i < 4
  Y: y[t, i] = select(a[t] == i, 1.0, x[t, i])   for t < B in order, i < 4
  S: x[t + 1, i] = select(b[t] == i, 2.0, y[t, i])   for t < B in order, i < 4
  Z: z[i] = x[B, i]   for i < 4
outputs:
  z: [4]
"""


KEPT = "V: v[t, i] = y[t, i]   for t < B in order, i < 4\n  Z: z[i] = x[B, i] + v[0, i]"


def test_versions_are_numbered() -> None:
    made = number_versions(parsed(TEXT))
    assert statements(made) == [
        "C: c[] = a[0] > 0",
        "X: x[0, i] = 0.0   for i < 4",
        "Y: x[2*t + 1, i] = select(a[t] == i, 1.0, x[2*t, i])   for t < B in order, i < 4",
        "S: x[2*t + 2, i] = select(b[t] == i, 2.0, x[2*t + 1, i])   for t < B in order, i < 4",
        "Z: z[i] = x[2*B, i]   for i < 4",
    ]
    assert str(made.tensor["x"].shape[0]) == "2*B + 1" and "y" not in made.tensor


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2.0, y[t, i])", "2.0, y[t, 3 - i])"),  # not the same element
        ("2.0, y[t, i])", "2.0, y[t, i] * 2.0)"),  # nor left as it is
        ("Z: z[i] = x[B, i]", KEPT),  # all versions are needed
        ("a[t] == i, 1.0, x[t, i]", "x[t, i] > 0.0, 1.0, x[t, i]"),  # which decides itself
        ("x[t, i])   for", "x[t, i]) if c[]   for"),  # a version that there may not be
    ],
)
def test_others_stay(old, new) -> None:
    assert old in TEXT
    given = parsed(TEXT.replace(old, new))
    assert number_versions(given) == given
