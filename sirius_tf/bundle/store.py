# SPDX-License-Identifier: Apache-2.0
"""Files that conversions leave for later ones, below ~/.cache: they may be deleted at any time.

An entry is a file <kind>/<name>: its content, and a SHA-256 of its name and content. What is
damaged, or may have been written by another user, is not there. A folder that cannot be used costs
time, and a warning: nothing that a conversion does depends on it. The standard library alone.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import os
import shutil
import stat
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from sirius_tf.bundle import files
from sirius_tf.errors import SiriusError

_SEAL_BYTES = 32
_BLOCK = 1 << 20
_LIMIT = 10_000_000_000  # bytes, unless SIRIUS_CACHE_LIMIT says otherwise
_FILLED = 0.9  # of the limit, after old entries were deleted to make room
_LASTING = ("native", "tilings", "zig")  # others' paths lead there, or minutes of measurements
_ABANDONED = 3600  # seconds after which nobody is still writing a file

_sizes: dict[Path, int] = {}  # about what is in a folder, as far as this process knows
_counting = threading.Lock()


class _File(NamedTuple):
    used: float
    size: int
    path: Path

    @property
    def is_being_made(self) -> bool:
        return self.path.name.startswith(".") and self.used > time.time() - _ABANDONED


class Sealed:
    """A file that is written, and a hash of what has been."""

    def __init__(self, file: BinaryIO, kind: str, name: str) -> None:
        self._file, self._hash = file, _seal(kind, name)

    def write(self, data: bytes | memoryview) -> None:
        """Write what comes next."""
        self._hash.update(data)
        self._file.write(data)

    def finish(self) -> None:
        """Write the seal."""
        self._file.write(self._hash.digest())


def directory() -> Path | None:
    """The user's folder, made if need be; None, with a warning, if it cannot be trusted or made."""
    try:
        return _directory()
    except SiriusError as error:
        _warn(f"works without its cache, and more slowly: {error}")
        return None


@functools.cache
def scratch() -> Path:
    """A folder of this process alone, which goes when it ends."""
    folder = tempfile.mkdtemp(prefix="sirius_tf-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def find(kind: str, name: str) -> BinaryIO | None:
    """An entry, open at its start; None unless it is there, whole, and this user's."""
    folder = directory()
    if folder is None:
        return None
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        file = stack.enter_context(open(folder / kind / name, "rb", opener=_opened))
        if _is_private(os.fstat(file.fileno())) and _is_whole(file, kind, name):
            with contextlib.suppress(OSError):
                os.utime(file.fileno())  # the last that is used is the last to be deleted
            file.seek(0)
            stack.pop_all()
            return file
    return None


def read(kind: str, name: str) -> bytes | None:
    """The content of an entry; None as `find` says."""
    file = find(kind, name)
    if file is None:
        return None
    with file, contextlib.suppress(OSError):
        return file.read()[:-_SEAL_BYTES]
    return None


def path(kind: str, name: str) -> Path | None:
    """The file of an entry, in which the seal is behind the content; None as `find` says."""
    file = find(kind, name)
    if file is None:
        return None
    file.close()
    return Path(file.name)


def keep(kind: str, name: str, write: Callable[[Sealed], object]) -> Path | None:
    """Make an entry of what `write` writes. If that fails there is none, and a warning."""
    folder = directory()
    if folder is None:
        return None
    target = folder / kind / name
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with files.written(target, mode=0o600) as file:
            sealed = Sealed(file, kind, name)
            write(sealed)
            sealed.finish()
            size = file.tell()
        _make_room(folder, size)
    except Exception as error:  # whatever it is, the conversion has what it wanted to keep
        why = getattr(error, "strerror", None) or error
        _warn(f"cannot write to its cache {folder}, and works more slowly: {why}")
        return None
    return target


def clear() -> int:
    """Delete all files; returns how many bytes they had. SiriusError if the folder is not one that
    `directory` would use. Who reads one goes on."""
    folder, deleted = _directory(), 0
    for file in list(_files(folder, ())):
        try:
            if not file.is_being_made:
                file.path.unlink(missing_ok=True)
                deleted += file.size
        except OSError as error:
            raise SiriusError(f"the cache cannot be cleared: {error}") from error
    _sizes.clear()
    return deleted


def _directory() -> Path:
    """The user's folder; SiriusError says what is wrong with it, and what to do."""
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise SiriusError("this user has no home; set XDG_CACHE_HOME to a folder") from None
    folder = root.absolute() / "sirius_tf"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise SiriusError(f"{error}; set XDG_CACHE_HOME to another folder") from error
    if not _is_private(found):
        raise SiriusError(
            f"{folder} belongs to another user, or others may write to it; delete it (a new one is "
            "made), or set XDG_CACHE_HOME to another folder"
        )
    return folder


def _is_private(found: os.stat_result) -> bool:
    """Whether this user has a file or folder, and nobody else may write to it."""
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # it may be a pipe


def _is_whole(file: BinaryIO, kind: str, name: str) -> bool:
    digest, left = _seal(kind, name), os.fstat(file.fileno()).st_size - _SEAL_BYTES
    while left > 0:
        block = file.read(min(left, _BLOCK))
        if not block:
            return False
        digest.update(block)
        left -= len(block)
    return file.read() == digest.digest()


def _seal(kind: str, name: str) -> hashlib._Hash:
    return hashlib.sha256(f"{kind}/{name}\0".encode())


def _make_room(folder: Path, added: int) -> None:
    """Delete the entries that nobody has used for longest, if all have more bytes than they may.

    Who reads one of them goes on. What other processes have added since this one looked is not
    known; the next one will see it.
    """
    with _counting:
        known = _sizes.get(folder)
        size = sum(f.size for f in _files(folder)) if known is None else known + added
        if size > _limit():
            found = sorted(_files(folder))
            size = sum(file.size for file in found)
            for file in found:
                if size > _FILLED * _limit() and not file.is_being_made:
                    with contextlib.suppress(OSError):
                        file.path.unlink()
                    size -= file.size
        _sizes[folder] = size


def _files(folder: Path, spared: Collection[str] = _LASTING) -> Iterator[_File]:
    """The files in a folder, but for some kinds; other processes may delete some meanwhile."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and entry.name not in spared:
                yield from _files(Path(entry), spared)
            elif entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    yield _File(found.st_mtime, found.st_size, Path(entry))


def _limit() -> int:
    """The most bytes that entries may have."""
    text = os.environ.get("SIRIUS_CACHE_LIMIT", "")
    if not text:
        return _LIMIT
    if not text.isdecimal():
        raise SiriusError(f"SIRIUS_CACHE_LIMIT={text} is no number of bytes: write digits only")
    return int(text)


@functools.cache
def _warn(text: str) -> None:
    """Warn, once."""
    warnings.warn(f"sirius_tf {text}", RuntimeWarning, stacklevel=2)
