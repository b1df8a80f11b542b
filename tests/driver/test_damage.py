# SPDX-License-Identifier: Apache-2.0
"""Damaged files of a rewritten model are refused by the load, or make no difference.

A short run of tests/reliability/damaged_models.py, which has ten thousand.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from sirius_tf.rewrite import measure
from tests.reliability import damaged_models


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_SECONDS", 0.01)
        return damaged_models.export(tmp_path_factory.mktemp("damaged"))


def test_damage_is_found_by_the_load(models) -> None:
    kinds = damaged_models.damages(models, 2)
    few = {label: given[: len(given) // 20 + 2] for label, given in kinds.items()}
    by_loader = {"runtime": kinds, "objects": few, "session": few}

    def run(loader):
        given = by_loader[loader]
        everything = [damage for damages in given.values() for damage in damages]
        labels = [label for label, damages in given.items() for _ in damages]
        return labels, damaged_models.outcomes(loader, models["model"], everything)

    with ThreadPoolExecutor() as pool:
        for loader, (labels, results) in zip(by_loader, pool.map(run, by_loader), strict=True):
            assert len(labels) == len(results) > 60
            for label, (kind, error) in zip(labels, results, strict=True):
                of_bundle = "bundle" in label or "other" in label
                assert kind == "refused" or (kind == "right" and not of_bundle), (loader, label)
                if loader == "runtime":
                    assert error in ("SiriusError", ""), (label, error)
                elif of_bundle:
                    assert error in damaged_models.ERRORS, (loader, label, error)


def test_outcomes_have_names(tmp_path) -> None:
    def raising(*_):
        raise KeyError

    of = damaged_models.outcome
    assert of(raising, tmp_path, [1]) == ("refused", "KeyError")
    assert of(lambda _: raising, tmp_path, [1]) == ("late", "KeyError")
    assert of(lambda _: lambda: [1], tmp_path, [1]) == ("right", "")
    assert of(lambda _: lambda: [2], tmp_path, [1]) == ("wrong", "")
