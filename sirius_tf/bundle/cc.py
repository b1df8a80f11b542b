# SPDX-License-Identifier: Apache-2.0
"""The C compiler: clang, from the ziglang package unless the user names another one."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from sirius_tf.bundle import store
from sirius_tf.errors import SiriusError

#: glibc 2.17 is what the oldest supported TensorFlow wheels (manylinux2014) need.
TARGET = "x86_64-linux-gnu.2.17"


class CompilerError(SiriusError):
    """The C compiler failed; its output is in the message."""


class NoCompilerError(CompilerError):
    """The C compiler cannot be run at all."""


class CodeError(CompilerError):
    """The C compiler did not accept, or not survive, the code of the kernel `kernel`."""

    def __init__(self, kernel: str, message: str) -> None:
        super().__init__(message)
        self.kernel = kernel


def compiler_command(command: str | None = None) -> list[str]:
    """Split `command`, or else the value of SIRIUS_CC, into words; without both, zig's clang."""
    command = command or os.environ.get("SIRIUS_CC")
    if command:
        return shlex.split(command)
    return [sys.executable, "-m", "ziglang", "cc", "-target", TARGET]


def run_compiler(
    arguments: Sequence[str], command: str | None = None, folder: Path | None = None
) -> None:
    """Run the C compiler with `arguments`, in a folder."""
    words = [*compiler_command(command), *arguments]
    try:
        kept = (store.directory() or store.scratch()) / "zig"
        with tempfile.TemporaryDirectory() as cache:  # zig keeps all it ever made, if it may
            done = subprocess.run(
                words,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                cwd=folder,
                env={
                    "ZIG_LOCAL_CACHE_DIR": cache,
                    "ZIG_GLOBAL_CACHE_DIR": str(kept),  # libc's objects, a minute's work
                    **os.environ,
                },
            )
    except OSError as error:
        raise NoCompilerError(f"cannot run the C compiler {words[0]}: {error}") from error
    if done.returncode != 0:
        shown = shlex.join(words)
        raise CompilerError(f"{shown}\nfailed ({done.returncode}):\n{done.stderr.strip()}")


def compile_shared(
    sources: Sequence[Path],
    output: Path,
    flags: Sequence[str] = (),
    command: str | None = None,
) -> None:
    """Compile C sources (or objects) to the shared object `output`.

    The file appears complete or not at all, and as a new inode: a process that has the former
    object mapped is not disturbed.
    """
    temporary = output.with_name(f".{output.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        run_compiler(
            ["-shared", "-fPIC", "-o", str(temporary), *map(str, sources), *flags], command
        )
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


def compile_object(
    source: Path, output: Path, flags: Sequence[str] = (), command: str | None = None
) -> None:
    """Compile one C source to the object file `output`, which is the same wherever both are."""
    arguments = ["-c", "-fPIC", "-o", str(output.absolute()), source.name, *flags]
    run_compiler(arguments, command, source.parent)
