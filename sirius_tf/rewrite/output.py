# SPDX-License-Identifier: Apache-2.0
"""The directory that is written: complete, or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sirius_tf.errors import SiriusError


def check_paths(source: Path, target: Path, force: bool) -> None:
    """Raise SiriusError unless `target` may be written from what is read in `source`."""
    if not source.is_dir():
        raise SiriusError(f"{source} is not a directory")
    inner, outer = target.resolve(), source.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise SiriusError(f"the output {target} and the input {source} must be apart")
    if target.exists() and not force:
        raise SiriusError(f"{target} exists; name another output, or force it to be replaced")


@contextlib.contextmanager
def workplace(source: Path, target: Path) -> Iterator[Path]:
    """A copy of a directory beside the target; it is gone afterwards, unless it was published."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            work = folder / "model"
            shutil.copytree(source, work)
            for path in (work, *work.rglob("*")):
                path.chmod(path.stat().st_mode | (0o700 if path.is_dir() else 0o600))
            yield work
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except (OSError, shutil.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise SiriusError(f"cannot write {target}: {reason}") from error


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """A file beside `path`, which it becomes afterwards if it is there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            work = Path(folder) / path.name
            yield work
            if work.exists():
                work.replace(path)
    except OSError as error:
        raise SiriusError(f"cannot write {path}: {error.strerror or error}") from error


def publish(work: Path, target: Path) -> None:
    """Move the finished directory to the target, and what was there out of the way."""
    if target.exists():
        target.rename(work.with_name("old"))
    work.rename(target)


def write_saved_model(work: Path, saved_model: Any) -> None:
    """Replace the SavedModel proto of a directory; its fingerprint would be wrong."""
    for name in ("saved_model.pbtxt", "saved_model.cpb", "fingerprint.pb"):
        (work / name).unlink(missing_ok=True)
    (work / "saved_model.pb").write_bytes(saved_model.SerializeToString(deterministic=True))


def size(path: Path) -> int:
    """The bytes of the files in a directory."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
