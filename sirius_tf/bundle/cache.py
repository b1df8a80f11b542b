# SPDX-License-Identifier: Apache-2.0
"""What conversions leave for later ones: objects, kernels, times. May be deleted at any time.

Each entry is a file named by a hash of all that it depends on, so that none is ever out of date.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import importlib.metadata
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

from sirius_tf.bundle import cc

T = TypeVar("T")


def directory() -> Path:
    """The folder of the cache; one for this process alone where the user's cannot be written."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with contextlib.suppress(OSError):
        (root / "sirius_tf").mkdir(parents=True, exist_ok=True)
    if os.access(root / "sirius_tf", os.W_OK):
        return root / "sirius_tf"
    return _own_directory()


@functools.cache
def _own_directory() -> Path:
    # not under a name that others could have taken: what is in there is trusted
    folder = tempfile.mkdtemp(prefix="sirius_tf-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


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


def compiled(text: str, flags: Sequence[str], include: Path, command: str | None = None) -> Path:
    """The object file of C source `text`."""
    digest = hashlib.sha256("\0".join([text, *flags, *cc.compiler_command(command)]).encode())
    digest.update(importlib.metadata.version("ziglang").encode())
    for header in sorted(include.glob("*.h")):
        digest.update(header.read_bytes())
    target = directory() / "objects" / f"{digest.hexdigest()}.o"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            source, made = Path(folder, "code.c"), Path(folder, "code.o")
            source.write_text(text)
            cc.compile_object(source, made, [*flags, f"-I{include}"], command)
            made.replace(target)
    return target


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


def _entry(kind: str, key: object) -> Path:
    digest = hashlib.sha256(f"{version()} {key!r}".encode()).hexdigest()
    return directory() / kind / f"{digest}.pickle"


def is_remembered(kind: str, key: object) -> bool:
    """Whether `remembered` has the value already."""
    return _entry(kind, key).exists()


def remembered(
    kind: str, key: object, make: Callable[[], T], holds: Callable[[T], bool] = lambda _: True
) -> T:
    """The value of `make()`, kept on disk under a key that says all it depends on, if it `holds`
    for later conversions, too."""
    target = _entry(kind, key)
    try:
        with target.open("rb") as file:
            value: T = pickle.load(file)
        return value
    except (OSError, EOFError, pickle.UnpicklingError):
        value = make()
    if not holds(value):
        return value
    with contextlib.suppress(OSError), written(target) as file:  # a full disk costs time later
        pickle.dump(value, file, pickle.HIGHEST_PROTOCOL)  # to a file, arrays are not copied
    return value


def write(target: Path, data: bytes) -> None:
    """Write a file at once: who reads it meets all of the old content, or of the new."""
    with written(target) as file:
        file.write(data)


@contextlib.contextmanager
def written(target: Path) -> Iterator[BinaryIO]:
    """A file that becomes `target` once it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder, "made")
        with made.open("wb") as file:
            yield file
        made.replace(target)


def processor() -> str:
    """The name of this machine's processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line for line in lines if line.startswith("model name")), "")
