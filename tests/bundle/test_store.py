# SPDX-License-Identifier: Apache-2.0
"""The cache's files: damaged, others', on a full disk, without a home, by many at once."""

import contextlib
import errno
import os
import pwd
import random
import signal
import stat
import time
import warnings
from functools import partial

import pytest

from sirius_tf.bundle import files, store
from sirius_tf.errors import SiriusError
from tests.support import faults


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(store, "_sizes", {})
    return tmp_path / "sirius_tf"


def keep(name, content, kind="kind"):
    return store.keep(kind, name, lambda entry: entry.write(content))


def test_an_entry_is_for_this_user_alone(folder) -> None:
    assert store.read("kind", "a") is None
    path = keep("a", b"content")
    assert store.read("kind", "a") == b"content" and store.path("kind", "a") == path
    with store.find("kind", "a") as file:
        assert file.read(7) == b"content"
    assert path == folder / "kind" / "a"
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (folder, folder / "kind", path)]
    assert modes == [0o700, 0o700, 0o600]
    assert os.listdir(folder / "kind") == ["a"]


def test_what_is_damaged_is_not_there() -> None:
    path = keep("a", b"some content")
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert store.read("kind", "a") is None
    for wrong in [whole[:n] for n in range(len(whole))] + [whole[1:], whole + b"\0", bytes(99)]:
        path.write_bytes(wrong)
        assert store.read("kind", "a") is None
    path.write_bytes(whole)
    assert store.read("kind", "a") == b"some content"
    path.rename(path.with_name("b"))  # that of another key
    assert store.read("kind", "b") is None
    keep("b", b"new")
    assert store.read("kind", "b") == b"new"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702])
def test_a_folder_that_others_may_write_to_is_not_used(folder, mode) -> None:
    path = keep("a", b"planted")
    folder.chmod(mode)
    with pytest.warns(RuntimeWarning, match="works without its cache.*others may write.*delete it"):
        assert store.find("kind", "a") is None
    assert store.find("kind", "a") is None  # one warning is enough
    assert keep("a", b"mine") is None
    with pytest.raises(SiriusError, match="others may write to it; delete it"):
        store.clear()
    folder.chmod(0o755)
    assert path.read_bytes().startswith(b"planted") and store.read("kind", "a") == b"planted"


def test_a_folder_of_another_user_is_not_used(monkeypatch) -> None:
    keep("a", b"planted")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.warns(RuntimeWarning, match="belongs to another user"):
        assert store.find("kind", "a") is None
    assert keep("a", b"mine") is None


def test_an_entry_of_others_is_not_used(folder, monkeypatch) -> None:
    path = keep("a", b"planted")
    path.chmod(0o622)
    assert store.find("kind", "a") is None
    path.chmod(0o600)
    path.with_name("link").symlink_to(path)
    os.mkfifo(path.with_name("pipe"))
    path.with_name("folder").mkdir()
    assert [store.find("kind", name) for name in ("link", "pipe", "folder")] == [None] * 3
    owner = folder.stat()
    monkeypatch.setattr(store, "_is_private", lambda found: found.st_ino == owner.st_ino)
    assert store.find("kind", "a") is None  # the file is looked at, too


def test_without_a_home(monkeypatch) -> None:
    def unknown(number):
        raise KeyError(number)

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.warns(RuntimeWarning, match="this user has no home; set XDG_CACHE_HOME"):
        assert store.directory() is None
    assert keep("a", b"") is None and store.find("kind", "a") is None


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="Not a directory.*set XDG_CACHE_HOME to another"):
        assert store.directory() is None


def test_what_cannot_be_written_is_not_kept(folder) -> None:
    def full(entry):
        entry.write(b"first")
        raise OSError(errno.ENOSPC, "No space left on device")

    keep("a", b"before")
    with pytest.warns(RuntimeWarning, match=f"cannot write to its cache {folder}.*: No space left"):
        assert store.keep("kind", "a", full) is None
    assert store.keep("kind", "b", full) is None  # one warning is enough
    assert store.read("kind", "a") == b"before" and os.listdir(folder / "kind") == ["a"]
    (folder / "other").touch()  # in place of a folder
    with pytest.warns(RuntimeWarning, match="File exists"):
        assert keep("a", b"", kind="other") is None


def age(path, seconds):
    os.utime(path, (time.time() - seconds, time.time() - seconds))


def test_what_was_not_used_for_longest_makes_room(folder, monkeypatch) -> None:
    monkeypatch.setenv("SIRIUS_CACHE_LIMIT", "5000")
    lasting = [keep("a", bytes(9000), kind) for kind in ("native", "tilings", "zig")]
    former = folder / "e87436dfbb46e132" / "file"  # a former version's
    made, left = folder / "kind" / ".a.tmp", folder / "kind" / ".b.tmp"
    for path in (former, made, left):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
    for path, seconds in ((former, 7000), (left, 6000), (made, 3500)):
        age(path, seconds)
    for number in range(8):
        if number == 4:
            assert store.path("kind", "0")  # used again
            reader = store.find("kind", "2")
            age(folder / "kind" / "2", 3400)
        path = keep(str(number), bytes(968))
        age(path, 100 - number)
    assert {p.name for p in (folder / "kind").iterdir()} == {".a.tmp", "0", "5", "6", "7"}
    assert not former.exists() and all(path.exists() for path in lasting)
    with reader:
        assert len(reader.read()) == 1000  # who reads one goes on
    assert keep("large", bytes(6000)) is not None and store.find("kind", "large") is None


def test_a_limit_that_is_none(monkeypatch) -> None:
    monkeypatch.setenv("SIRIUS_CACHE_LIMIT", "10G")
    with pytest.warns(RuntimeWarning, match="SIRIUS_CACHE_LIMIT=10G is no number of bytes"):
        keep("a", b"")
    monkeypatch.setenv("SIRIUS_CACHE_LIMIT", "0")
    keep("b", b"")
    assert store.find("kind", "b") is None


def test_all_is_cleared(folder) -> None:
    for kind in ("kind", "native", "zig"):
        keep("a", bytes(68), kind)
    made = folder / "kind" / ".b.tmp"  # by another process
    made.touch()
    assert store.clear() == 300
    assert [path for path in folder.rglob("*") if path.is_file()] == [made]
    keep("a", b"again")
    assert store.read("kind", "a") == b"again"


def test_many_at_once(monkeypatch) -> None:
    """Each entry that is found is whole, and nobody notices that others delete it."""
    monkeypatch.setenv("SIRIUS_CACHE_LIMIT", "30000")

    def work(number):
        warnings.simplefilter("error")
        choose, end = random.Random(number), time.monotonic() + 0.5
        while time.monotonic() < end:
            name = choose.choice("abcdefgh")
            content = name.encode() * 5000
            if choose.random() < 0.5:
                assert keep(name, content) is not None
            elif choose.random() < 0.02:
                store.clear()
            else:
                assert store.read("kind", name) in (None, content)

    children = [forked(partial(work, number)) for number in range(4)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4


def forked(work):
    """A process that does some work, and succeeds if that does."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return child


@pytest.mark.parametrize("before", [b"before", None])
def test_killed_anywhere(folder, before) -> None:
    """The entry is what it was, or what it was to be."""
    seen, number, status = [], 0, signal.SIGKILL
    while status != 0:
        with contextlib.suppress(OSError):
            (folder / "kind" / "a").unlink()
        if before:
            keep("a", before)

        def work(number=number):
            kill = partial(os.kill, os.getpid(), signal.SIGKILL)
            with faults.at(folder, number, kill):
                keep("a", b"after")

        _, status = os.waitpid(forked(work), 0)
        assert status in (0, signal.SIGKILL)
        seen.append(store.read("kind", "a"))
        number += 1
    assert number > 3 and seen == sorted(seen, key=[before, b"after"].index)
    assert set(seen) == {before, b"after"}


def test_a_durable_file_is_whole_before_it_has_its_name(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def watched(opened):
        synced.append((os.fstat(opened).st_size, (tmp_path / "file").exists()))
        fsync(opened)

    monkeypatch.setattr(os, "fsync", watched)
    with files.written(tmp_path / "file", durable=True) as file:
        file.write(b"0123456789")
    assert synced[0] == (10, False)
    assert len(synced) == 2 and synced[1][1]  # the folder, which knows the name
