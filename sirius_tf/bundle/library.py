# SPDX-License-Identifier: Apache-2.0
"""libsirius_tf.so: the op, the thread team and the host of bundles, compiled from native/.

setup.py runs this before the package's dependencies are there: the standard library alone.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
from pathlib import Path

from sirius_tf.bundle import cc, store

NAME = "libsirius_tf.so"
SOURCES = (
    "environment.c",
    "isa.c",
    "crc32c.c",
    "sha256.c",
    "bundle_file.c",
    "team.c",
    "request.c",
    "cuda_device.c",
    "cuda_kernels.c",
    "cuda_graph.c",
    "cuda.c",
    "workspace.c",
    "call.c",
    "open.c",
    "python.c",
    "tf_cancel.c",
    "tf_op.c",
    "tf_check.c",
    "tf_results.c",
    "tf_register.c",
)
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-lpthread", "-ldl", "-Wl,-z,nodelete")


def native_directory() -> Path:
    """Return the folder of the C sources and headers."""
    return Path(__file__).resolve().parent.parent / "native"


def build_library(output: Path) -> None:
    """Compile the library to the file `output`."""
    sources = [native_directory() / name for name in SOURCES]
    flags = [*_FLAGS, f"-Wl,--build-id=0x{digest()}"]
    cc.compile_shared(sources, output, flags, os.environ.get("SIRIUS_CC"))


def is_current(library: Path) -> bool:
    """Tell whether the file `library` was built from the sources as they are now."""
    return library.exists() and bytes.fromhex(digest()) in library.read_bytes()


def digest() -> str:
    """Name the library's text: another one for other sources or flags. It is the ELF's build id."""
    result = hashlib.sha256(repr(_FLAGS).encode())
    for source in sorted(native_directory().glob("*.[ch]")):
        result.update(source.name.encode() + b"\0" + source.read_bytes())
    return result.hexdigest()[:16]


@functools.cache
def library_path() -> Path:
    """Find libsirius_tf.so: the packaged one, or else one that is built once into the cache."""
    packaged = native_directory() / NAME
    if is_current(packaged):
        return packaged
    entry = "native", f"{digest()}-{NAME}"
    path = store.path(*entry)
    if path is not None:
        return path
    built = store.scratch() / NAME
    build_library(built)
    return store.keep(*entry, lambda file: file.write(built.read_bytes())) or built


@functools.cache
def load() -> ctypes.CDLL:
    """Load the library, of which a caller declares the functions that it calls."""
    return ctypes.CDLL(str(library_path()))
