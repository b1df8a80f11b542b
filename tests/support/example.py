# SPDX-License-Identifier: Apache-2.0
"""The bundle of native_example.c, and what else a C compiler makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sirius_tf.bundle import cc, seal
from sirius_tf.bundle.library import native_directory

SOURCE = Path(__file__).with_name("native_example.c")
FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{native_directory()}"]


def build_example(folder: Path, name: str = "example.so", defines: Sequence[str] = ()) -> Path:
    """Compile the bundle."""
    objects = []
    for isa, march in (("v3", "x86_64_v3"), ("v4", "x86_64_v4")):
        objects.append(folder / f"{isa}.o")
        cc.compile_object(SOURCE, objects[-1], [*FLAGS, f"-march={march}", f"-DISA=run_{isa}"])
    objects.append(folder / "tables.o")
    cc.compile_object(SOURCE, objects[-1], [*FLAGS, "-DTABLES", *defines])
    cc.compile_shared(objects, folder / name, ["-nostdlib"])
    return sealed(folder / name)


def sealed(path: Path) -> Path:
    """Put a seal behind a shared object."""
    seal.write_sealed(path, [path.read_bytes()])
    return path


def renamed(path: Path, name: bytes, output: Path) -> Path:
    """Write the bundle with another name in its manifest."""
    data = path.read_bytes()
    assert len(name) == len(b"example")
    content = data[: seal.content_size(data, path)].replace(b'"example"', b'"%s"' % name)
    seal.write_sealed(output, [content])
    return output
