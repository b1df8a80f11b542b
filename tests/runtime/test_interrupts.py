# SPDX-License-Identifier: Apache-2.0
"""What signal handlers raise arrives, wherever a call is; in processes of their own, which may hang
or crash."""

import subprocess
import sys

import numpy as np
import pytest

from sirius_tf.bundle.link import ISAS, link
from sirius_tf.compile import compile_program
from sirius_tf.runtime import native
from tests.support import programs

HANDLER = """
import random, signal, sys
import numpy as np
from sirius_tf.runtime import native

class Alarm(Exception): pass

def ring(*_):
    raise Alarm

signal.signal(signal.SIGALRM, ring)
path, name, arrays = sys.argv[1:]
region, feeds = native.Bundle(path).regions[name], list(np.load(arrays).values())
"""

OFTEN = (
    HANDLER
    + """
wanted = region(feeds)[0]
for _ in range(300):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 1e-3))
        for _ in range(100_000):
            region(feeds)
        sys.exit("an alarm did not arrive")
    except Alarm:
        assert np.array_equal(region(feeds)[0], wanted)
"""
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A child runs a text with a bundle of the program and its inputs; returns what it wrote."""

    def run_one(text, program, *feeds, timeout=60):
        folder = tmp_path_factory.mktemp("bundle")
        link([compile_program(program)], folder / "x.so", {}, isas=[ISAS[native.isa()]])
        np.savez(folder / "x.npz", *feeds)
        command = [sys.executable, "-c", text, folder / "x.so", program.name, folder / "x.npz"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run_one


@pytest.mark.parametrize(
    ("program", "feeds"),
    [
        (programs.dense(), [np.ones((4, 499), "f")]),
        (programs.growth(), [np.float32(1), np.zeros(2000, "f")]),  # allocates after its run
    ],
    ids=["early", "late"],
)
def test_what_a_signal_handler_raises_arrives(run, program, feeds):
    run(OFTEN, program, *feeds)
