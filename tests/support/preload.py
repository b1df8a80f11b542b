# SPDX-License-Identifier: Apache-2.0
"""Libraries that stand before the C library in a command of tests/reliability."""

import ctypes
import os
import sys
import tempfile
from pathlib import Path

from sirius_tf.bundle import cc


def preload(module: Path, symbol: str) -> None:
    """Begin the command of a module anew with the library of its C source, which defines a symbol,
    preloaded; return if it is."""
    if hasattr(ctypes.CDLL(None), symbol):
        return
    library = Path(tempfile.mkdtemp()) / f"{module.stem}.so"
    cc.compile_shared([module.with_suffix(".c")], library, ["-O1", "-ldl"])
    os.environ |= {"LD_PRELOAD": str(library), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", f"tests.reliability.{module.stem}", *sys.argv[1:]]
    os.execv(sys.executable, command)
