# SPDX-License-Identifier: Apache-2.0
"""Values that conversions leave for later ones: objects, kernels, times.

Each is an entry of the store, named by a hash of all that it depends on, so that none is ever out
of date.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from sirius_tf.bundle import cc, codec, store

T = TypeVar("T")


@functools.cache
def version() -> str:
    """A hash of the compiler: of the sources of this package and of its tools' versions."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for tool in ("islpy", "numpy", "ziglang"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # where GPUs are, say
            digest.update(importlib.metadata.version(tool).encode())
    for kind in ("*.py", "*.h", "*.cuh"):
        for source in sorted(package.rglob(kind)):
            digest.update(source.read_bytes())
    return digest.hexdigest()


def compiled(text: str, flags: Sequence[str], include: Path, command: str | None = None) -> bytes:
    """The object file of C source `text`."""
    digest = hashlib.sha256("\0".join([text, *flags, *cc.compiler_command(command)]).encode())
    digest.update(importlib.metadata.version("ziglang").encode())
    for header in sorted(include.glob("*.h")):
        digest.update(header.read_bytes())

    def make() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            source, made = Path(folder, "code.c"), Path(folder, "code.o")
            source.write_text(text)
            cc.compile_object(source, made, [*flags, f"-I{include}"], command)
            return made.read_bytes()

    return _remembered("objects", digest.hexdigest(), make)


def content(path: Path) -> str:
    """A hash of a file, or of a folder: of what its files are called, and hold."""
    digest = hashlib.sha256()
    for file in sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]:
        name = file.relative_to(path).as_posix()
        digest.update(f"{name} {file.stat().st_size}\n".encode())
        with file.open("rb") as data:
            while block := data.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def is_remembered(kind: str, key: object) -> bool:
    """Whether `remembered` has the value already."""
    return store.path(kind, _name(key)) is not None


def remembered(
    kind: str, key: object, make: Callable[[], T], holds: Callable[[T], bool] = lambda _: True
) -> T:
    """The value of `make()`, kept on disk under a key that says all it depends on, if it `holds`
    for later conversions, too."""
    return _remembered(kind, _name(key), make, holds)


def _name(key: object) -> str:
    return hashlib.sha256(f"{version()} {key!r}".encode()).hexdigest()


def _remembered(
    kind: str, name: str, make: Callable[[], T], holds: Callable[[T], bool] = lambda _: True
) -> T:
    file = store.find(kind, name)
    if file is not None:
        with file, contextlib.suppress(Exception):  # what cannot be read is made again
            value: T = codec.read(file)
            return value
    value = make()
    if holds(value):
        store.keep(kind, name, functools.partial(codec.write, value))
    return value


def processor() -> str:
    """The name of this machine's processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line for line in lines if line.startswith("model name")), "")
