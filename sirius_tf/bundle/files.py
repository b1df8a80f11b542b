# SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear whole or not at all, whenever the process or the power ends."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# renameat2(2); called by number, since glibc has had a function for it only since 2.28
_RENAMEAT2, _HERE = 316, -100  # of x86-64; AT_FDCWD
_NOREPLACE, _EXCHANGE = 1, 2
# what a kernel, a file system or a sandbox without these flags says. EPERM may be meant: then it is
# the answer of rename, too
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


def move(source: Path, target: Path) -> None:
    """Rename a file or folder; FileExistsError if there is something already."""
    if _renameat2(source, target, _NOREPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)


def exchange(one: Path, other: Path) -> bool:
    """Let two files or folders change places, at once; False where that cannot be done."""
    return _renameat2(one, other, _EXCHANGE)


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, to the disk."""
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    except OSError as error:  # some network file systems have no such call for folders
        if error.errno not in _UNSUPPORTED or not stat.S_ISDIR(os.fstat(opened).st_mode):
            raise
    finally:
        os.close(opened)


def sync_tree(folder: Path) -> None:
    """Write a folder, and all that is in it, to the disk."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


@contextlib.contextmanager
def written(target: Path, mode: int = 0o666, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a file that becomes `target` once it is whole: who has the old one open keeps it.

    `mode` is less the umask, as always. A `durable` one is whole after a loss of power, too.
    """
    made = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(made, flags, mode), "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        made.replace(target)
        if durable:
            sync(target.parent)
    finally:
        made.unlink(missing_ok=True)


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """Rename with flags; False where they are not supported."""
    names = os.fsencode(source), os.fsencode(target)
    if _libc().syscall(_RENAMEAT2, _HERE, names[0], _HERE, names[1], flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    path, number = ctypes.c_char_p, ctypes.c_long
    libc.syscall.argtypes = (number, number, path, number, path, number)
    libc.syscall.restype = number
    return libc
