# SPDX-License-Identifier: Apache-2.0
"""Files and folders that take each other's places."""

import pytest

from sirius_tf.bundle import files


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder that is the working directory, with two files in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    return tmp_path


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_relative_paths_are_those_of_this_process(here):
    assert files.exchange(here.relative_to(here) / "a", here.relative_to(here) / "b")
    assert contents(here) == {"a": "b", "b": "a"}
    files.move(here.relative_to(here) / "a", here.relative_to(here) / "c")
    assert contents(here) == {"b": "a", "c": "b"}


def test_what_cannot_change_places_is_an_error_that_names_both(here):
    with pytest.raises(FileNotFoundError) as caught:
        files.exchange(here / "a", here / "missing")
    assert (caught.value.filename, caught.value.filename2) == (
        str(here / "a"),
        str(here / "missing"),
    )
    with pytest.raises(FileExistsError):
        files.move(here / "a", here / "b")
    assert contents(here) == {"a": "a", "b": "b"}
