# SPDX-License-Identifier: Apache-2.0
"""The directory, or file, that is written: whenever a conversion ends, the old one or the new one.

What is new is made in a hidden folder beside the target, and reaches the disk there. Then both
change places by one system call, and what was old is deleted. The folder is locked by the process
that uses it; those of conversions that were killed are deleted by the next one to the same target.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sirius_tf.bundle import files
from sirius_tf.errors import SiriusError
from sirius_tf.rewrite.asset import with_checksum

_PROTOS = ("saved_model.pb", "saved_model.pbtxt", "saved_model.cpb")
_OLD = "old"  # what was the target, while nothing is


def named(path: Path) -> Path:
    """A path that ends with a name: that of "." and ".." is looked up."""
    return path if path.name not in ("", "..") else path.resolve()


def prepare(source: Path, target: Path, replace: bool) -> None:
    """Raise SiriusError unless `target` may be written from what is read in `source`.

    Nothing is touched then. Or else, what killed conversions have left is cleared away.
    """
    if not source.is_dir():
        raise SiriusError(f"{source} is not a directory")
    if any(_is_within(place, target) for place in _places(source)):
        raise SiriusError(f"the output {target} is, or contains, the input {source}: name another")
    if _is_within(target.parent.resolve() / target.name, source):
        raise SiriusError(f"the output {target} is inside of the input {source}: name another")
    prepare_file(target, replace)
    if os.path.lexists(target) and not _is_model(target):
        raise SiriusError(f"{target} is no SavedModel: it is not replaced; name another output")


def prepare_file(target: Path, replace: bool) -> None:
    """Raise SiriusError if there is a target already, unless it may be replaced."""
    for folder in _hidden(target):
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(_lock(folder))
            except OSError:
                continue  # another process works there, or has just gone
            _discard(folder, target)
    if os.path.lexists(target) and not replace:
        raise SiriusError(f"{target} exists; name another output, or force it to be replaced")


@contextlib.contextmanager
def workplace(source: Path, target: Path) -> Iterator[Path]:
    """A copy of a directory beside the target; it is gone afterwards, unless it was published."""
    with _beside(target) as folder:
        work = folder / "model"
        shutil.copytree(source, work)
        for path in (work, *work.rglob("*")):
            path.chmod(path.stat().st_mode | (0o700 if path.is_dir() else 0o600))
        yield work


@contextlib.contextmanager
def written(target: Path, replace: bool) -> Iterator[Path]:
    """A file beside the target, which it becomes afterwards if it is there."""
    with _beside(target) as folder:
        work = folder / target.name
        yield work
        if not work.exists():
            return
        files.sync(work)
        if replace:
            work.replace(target)
        else:
            files.move(work, target)
        files.sync(target.parent)


def publish(work: Path, target: Path, replace: bool) -> None:
    """Put the finished directory of a workplace in place of the target, which is there instead."""
    files.sync_tree(work)
    if not (replace and os.path.lexists(target)):
        files.move(work, target)
    elif not files.exchange(work, target):
        target.rename(work.with_name(_OLD))  # until the next line, `_discard` would take it back
        work.rename(target)
    files.sync(target.parent)


def write_saved_model(work: Path, saved_model: Any) -> None:
    """Replace the SavedModel proto of a directory; its fingerprint would be wrong."""
    for name in (*_PROTOS, "fingerprint.pb"):
        (work / name).unlink(missing_ok=True)
    data = saved_model.SerializeToString(deterministic=True)
    (work / _PROTOS[0]).write_bytes(with_checksum(data))


def size(path: Path) -> int:
    """The bytes of the files in a directory."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _places(path: Path) -> Iterator[Path]:
    """The place to which a path that exists leads, and the links on the way, all by paths without
    links."""
    place, names = Path("/"), list(reversed(path.absolute().parts))
    while names:
        name = names.pop()
        entry = place.parent if name == ".." else place / name
        if name != ".." and entry.is_symlink():
            yield entry
            names += reversed(entry.readlink().parts)
        else:
            place = entry
    yield place


def _is_within(path: Path, folder: Path) -> bool:
    """Whether a path without links is that of a folder, or of what is inside of it."""
    around = (path, *path.parents)
    return folder.exists() and any(p.exists() and p.samefile(folder) for p in around)


def _is_model(path: Path) -> bool:
    """Whether a directory is a SavedModel, or else empty."""
    return path.is_dir() and (not any(path.iterdir()) or any((path / p).exists() for p in _PROTOS))


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A hidden folder beside the target, for this process alone, that is gone afterwards."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            yield _own(stack, target)
    except (OSError, shutil.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise SiriusError(f"cannot write {target}: {reason}") from error


def _own(stack: contextlib.ExitStack, target: Path) -> Path:
    """A new folder, locked until the stack is left, which discards it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
        try:
            stack.enter_context(_lock(folder))
        except (FileNotFoundError, BlockingIOError):
            continue  # another process took it for one that nobody uses
        except OSError:
            pass  # there are no locks here, so that nobody else will touch it
        stack.callback(_discard, folder, target)
        return folder


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Meanwhile no other process has the lock of a folder; OSError if one has it, or there is no
    such folder any more. The system unlocks those of a process that ends."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder.stat()
        yield
    finally:
        os.close(opened)


def _hidden(target: Path) -> list[Path]:
    """The folders of this user's conversions to a target, whether they run or were killed."""
    try:
        with os.scandir(target.parent) as entries:
            return [
                Path(entry)
                for entry in entries
                if entry.name.startswith(_prefix(target))
                and entry.is_dir(follow_symlinks=False)
                and entry.stat(follow_symlinks=False).st_uid == os.geteuid()
            ]
    except OSError:
        return []


def _prefix(target: Path) -> str:
    return f".{target.name}.sirius-"


def _discard(folder: Path, target: Path) -> None:
    """Delete a hidden folder; if what was the target is in there, and nothing came instead, it is
    the target again."""
    old = folder / _OLD
    if os.path.lexists(old):
        place = folder / "replaced" if os.path.lexists(target) else target
        try:
            old.rename(place)
        except OSError as error:
            raise SiriusError(
                f"{old}, which was {target}, cannot be put back: {error.strerror}; move it there"
            ) from error
    shutil.rmtree(folder, ignore_errors=True)
