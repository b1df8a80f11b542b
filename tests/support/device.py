# SPDX-License-Identifier: Apache-2.0
"""Processes that find tests/emulator/driver.cpp as the driver of a GPU."""

import os
import subprocess
import sys

from sirius_tf.runtime import native
from tests.emulator import emulator
from tests.support import ROOT

#: What every child starts with; its arguments are the folder of the bundle.
PRELUDE = """
import ctypes, sys, threading
import numpy as np
from sirius_tf.errors import InvalidArgument, SiriusError
from sirius_tf.runtime import native

bundle = native.Bundle(sys.argv[1] + "/bundle.so")
arrays = np.load(sys.argv[1] + "/arrays.npz")

def numbered(prefix):
    return [arrays[f"{prefix}.{k}"] for k in range(sum(n.startswith(prefix) for n in arrays))]

def check(case):
    results = bundle.call(case.partition("-")[0], numbered(case + ".in"))
    for result, want in zip(results, numbered(case + ".out"), strict=True):
        assert result.shape == want.shape and result.dtype == want.dtype
        np.testing.assert_allclose(result, want, rtol=2e-5, atol=2e-5)

def launches():
    return native.cuda_counters().launches
"""


def add_kernels(bundle, folder):
    """Emulated kernels of all regions of a bundle."""
    for region in native.Bundle(bundle).regions.values():
        first, *others = (folder / f"{name}.so" for name in region.cuda.kernels)
        emulator.build_library(region.cuda.source, first)
        for other in others:
            other.symlink_to(first)


def child(folder, body, prelude=PRELUDE, driver=True, **environment):
    """Run Python in a process of its own, which must end well; what it writes to stderr."""
    env = {
        k: v for k, v in os.environ.items() if k not in ("CUDA_VISIBLE_DEVICES", "SIRIUS_DEVICE")
    }
    env |= {"PYTHONPATH": str(ROOT), "EMU_KERNELS": str(folder), "SIRIUS_DEVICE": "cuda"}
    env |= {"LD_LIBRARY_PATH": str(emulator.driver())} if driver else {}
    done = subprocess.run(
        [sys.executable, "-c", prelude + body, str(folder)],
        env=env | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr
