# SPDX-License-Identifier: Apache-2.0
"""What sirius_math.h has, as a library for each instruction set that this machine runs."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from sirius_tf.bundle.library import native_directory
from tests.support import ROOT
from tests.support.accuracy import UNARY

ISAS = {"x86_64_v3": (8, {"avx2", "fma"}), "x86_64_v4": (16, {"avx512f", "avx512dq"})}


def _cpu_flags():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.split(":")[1].split())
    return set()


@pytest.fixture(scope="module", params=ISAS)
def lib(request, tmp_path_factory):
    # Compiled even where it cannot run: the header must at least build, and import no symbol.
    path = tmp_path_factory.mktemp(request.param) / "math.so"
    names = " ".join(f"f({name})" for name in UNARY)
    command = f"""{sys.executable} -m ziglang cc -march={request.param} -O3 -Wall -Wextra -Werror
        -std=gnu11 -ffp-contract=on -fno-sanitize=all -nostdlib -shared -fPIC
        -Wl,-z,defs -I{native_directory()} {ROOT / "tests" / "native" / "math_table.c"} -o {path}"""
    words = [*command.split(), f"-DALL_UNARY(f)={names}"]
    result = subprocess.run(words, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    lanes, flags = ISAS[request.param]
    if not flags <= _cpu_flags():
        pytest.skip(f"this CPU does not run {request.param}")
    library = ctypes.CDLL(str(path))
    assert library.t_lanes() == lanes
    for name in ("add", "max", "min"):
        getattr(library, f"t_reduce_{name}").restype = ctypes.c_float
    return library
