# SPDX-License-Identifier: Apache-2.0
"""Commands around the library: `python -m sirius_tf.tools.convert`, and so on."""

import runpy


def start(name: str) -> None:
    """Run a command as the main module, whose text and flags are what --help prints."""
    runpy.run_module(f"{__name__}.{name}", run_name="__main__", alter_sys=True)


def run_convert() -> None:
    """The command sirius-convert."""
    start("convert")


def run_inspect() -> None:
    """The command sirius-inspect."""
    start("inspect")


def run_benchmark() -> None:
    """The command sirius-benchmark."""
    start("benchmark")
