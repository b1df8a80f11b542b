# SPDX-License-Identifier: Apache-2.0
"""Failures at the n-th thing that is done to files below a folder, in this process.

Python reports most of that to audit hooks, which may raise; the rest is wrapped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sirius_tf.bundle import files

_EVENTS = ("fcntl.flock", "open", "os.", "shutil.", "tempfile.")


class _Faults:
    """What happens at the next event, if something does."""

    def __init__(self) -> None:
        self.act: Callable[[], None] | None = None
        self.folder = ""

    def event(self, name: str, arguments: tuple[object, ...]) -> None:
        if self.act is None or not name.startswith(_EVENTS):
            return
        act, self.act = self.act, None  # it may touch files, too
        if any(self._is_below(a) for a in arguments):
            act()
        self.act = act

    def _is_below(self, argument: object) -> bool:
        if isinstance(argument, int) and not isinstance(argument, bool):
            try:
                argument = os.readlink(f"/proc/self/fd/{argument}")
            except OSError:
                return False
        if isinstance(argument, str | bytes | os.PathLike):
            return os.path.abspath(os.fsdecode(argument)).startswith(self.folder)
        return False


_faults = _Faults()
sys.addaudithook(_faults.event)


@contextmanager
def at(folder: Path, number: int, act: Callable[[], None]) -> Iterator[list[int]]:
    """Meanwhile `act` is called in front of what is done to files of a folder for the n-th time,
    counted from 0; what is yielded counts how often that was."""
    count = [0]

    def acted() -> None:
        count[0] += 1
        if count[0] == number + 1:
            act()

    wrapped = {(os, "fsync"): os.fsync, (os, "sendfile"): os.sendfile}
    wrapped[files, "_renameat2"] = files._renameat2
    try:
        for (module, name), function in wrapped.items():
            setattr(module, name, _announced(name, function))
        _faults.folder, _faults.act = str(folder), acted
        yield count
    finally:
        _faults.act = None
        for (module, name), function in wrapped.items():
            setattr(module, name, function)


def _announced(name, function):
    def call(*arguments, **named):
        _faults.event(f"os.{name}", arguments)
        return function(*arguments, **named)

    return call
