# SPDX-License-Identifier: Apache-2.0
"""Some conversions in which something fails: each ends with a right model, or with a sentence."""

from sirius_tf.bundle import store
from sirius_tf.rewrite import measure
from tests.reliability import faults


def test_a_few_faults_of_each_kind(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "_SECONDS", 0.0)
    monkeypatch.setattr(store, "directory", store.directory)  # it is restored
    ends = list(faults.measured(tmp_path, 5, 6, list(faults.PLACES)))
    assert len({kind for kind, _ in ends}) >= 4
    assert [ended for _, ended in ends if not faults.is_known(ended)] == []
    assert any(ended == "right" for _, ended in ends)
