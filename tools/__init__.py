# SPDX-License-Identifier: Apache-2.0
"""Commands around the library. Those that are installed import the library and no other tool."""

import runpy


def run_convert() -> None:
    """Run convert.py: the command sirius-convert."""
    _run("convert")


def run_benchmark() -> None:
    """Run benchmark.py: the command sirius-benchmark."""
    _run("benchmark")


def _run(name: str) -> None:
    # as the main module, whose text and flags are what --help prints
    runpy.run_module(f"{__name__}.{name}", run_name="__main__", alter_sys=True)
