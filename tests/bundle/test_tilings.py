# SPDX-License-Identifier: Apache-2.0
"""Tile sizes that are kept: damaged, where nothing can be, and of other processors."""

import pytest

from sirius_tf.bundle import tilings
from sirius_tf.errors import SiriusError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "sirius_tf" / "tilings"


def test_the_store(folder) -> None:
    assert tilings.read() == {}
    tilings.write({"a": (1, 64), "b": ()})
    assert tilings.read() == {"a": (1, 64), "b": ()}
    tilings.write({"c": (3,)})
    assert tilings.read() == {"c": (3,)}
    assert len(list(folder.iterdir())) == 1


def test_a_damaged_store_is_an_empty_one(folder) -> None:
    tilings.write({"c": (3,)})
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes().replace(b"3", b"4"))
    assert tilings.read() == {}


def test_sizes_that_cannot_be_kept_are_an_error(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cannot = pytest.raises(SiriusError, match="cannot be kept")
    with cannot, pytest.warns(RuntimeWarning, match="without its cache"):
        tilings.write({})


@pytest.mark.parametrize("of", ["processor", "version"])
def test_what_another_processor_or_version_has_kept_is_not_read(of, monkeypatch) -> None:
    tilings.write({"a": (1,)})
    monkeypatch.setattr(f"sirius_tf.bundle.cache.{of}", lambda: "another")
    assert tilings.read() == {}
