# SPDX-License-Identifier: Apache-2.0
"""Calls end at their deadline, when they are cancelled, and for what signal handlers raise; in
processes of their own, which may hang or crash."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from sirius_tf.bundle.link import ISAS, link
from sirius_tf.compile import compile_program
from sirius_tf.errors import DeadlineExceeded
from sirius_tf.runtime import limited, native
from tests.support import programs

HANDLER = """
import os, random, signal, sys, threading, time
import numpy as np
from sirius_tf.errors import Cancelled, DeadlineExceeded
from sirius_tf.runtime import limited, native

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


LATE = (
    HANDLER
    + """
event, handled = threading.Event(), []

def raises(error, call, *arguments):
    try:
        call(*arguments)
    except error as e:
        return str(e)
    sys.exit(f"no {error.__name__}")

def within(seconds=float("inf"), event=None):
    with limited(seconds, event):
        region(feeds)

for workers in (1, 2, 3, 8):
    with native.exactly(workers):
        begin = time.monotonic()
        told = raises(DeadlineExceeded, within, 0.02)
        assert f"the call of region {name} reached its deadline after" in told, told
        assert 0.02 <= time.monotonic() - begin < 2  # the CPUs have others to serve, too
        raises(TimeoutError, within, -1)
        event.clear()
        threading.Timer(0.02, event.set).start()
        assert "was cancelled after" in raises(Cancelled, within, 60, event)
        raises(Cancelled, within, 60, event)
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        raises(Alarm, within)
        with limited(60, threading.Event()), limited(0.02):
            raises(DeadlineExceeded, region, feeds)
        signal.signal(signal.SIGALRM, lambda *_: handled.append(1))
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        raises(DeadlineExceeded, within, 0.05)  # a handler that returns ends nothing
        assert handled.pop()
        signal.signal(signal.SIGALRM, ring)
"""
)

INTERRUPTED = (
    HANDLER
    + """
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it
threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    region(feeds)
except KeyboardInterrupt:
    pass
"""
)

LIMITED = (
    HANDLER
    + """
for arrays in (feeds, feeds):
    try:
        region(arrays)
    except DeadlineExceeded:
        continue
    sys.exit("no limit")
with limited(60):
    try:
        region(feeds)
    except DeadlineExceeded:
        sys.exit()
sys.exit("a later deadline is no reason")
"""
)

IN_TENSORFLOW = """
import sys, threading
import numpy as np, tensorflow as tf
from tensorflow.python.eager import cancellation
from sirius_tf.runtime.op import sirius_region
path, name, arrays = sys.argv[1:]
feeds = list(np.load(arrays).values())

@tf.function(input_signature=[tf.TensorSpec(x.shape, x.dtype) for x in feeds])
def run(*inputs):
    return sirius_region(inputs, path, name, [tf.float32])[0]

def raises(error, call):
    try:
        call()
    except error as e:
        return str(e)
    sys.exit(f"no {error.__name__}")

"""

LIMIT_IN_TENSORFLOW = (
    IN_TENSORFLOW
    + """
told = raises(tf.errors.DeadlineExceededError, lambda: run(*feeds))
assert "reached its deadline" in told, told
"""
)

CANCELLED_IN_TENSORFLOW = (
    IN_TENSORFLOW
    + """
manager = cancellation.CancellationManager()
cancelable = manager.get_cancelable_function(run.get_concrete_function())
threading.Timer(0.2, manager.start_cancel).start()
assert "was cancelled after" in raises(tf.errors.CancelledError, lambda: cancelable(*feeds))
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    inputs = [tf.compat.v1.placeholder(x.dtype, x.shape) for x in feeds]
    output = sirius_region(inputs, path, name, [tf.float32])[0]
    options = tf.compat.v1.RunOptions(timeout_in_ms=200)
    call = lambda: session.run(output, dict(zip(inputs, feeds)), options=options)
    raises(tf.errors.DeadlineExceededError, call)
"""
)

ENDLESS = (programs.endless(), [np.float32(np.inf)])
LONG = [
    ENDLESS,
    (programs.counted(), [np.zeros(40, "f"), np.int64(2**31 - 2)]),
    (programs.squares(), [np.ones(200_000, "f")]),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A child runs a text with a bundle of the program and its inputs; returns what it wrote."""
    folder = tmp_path_factory.mktemp("bundles")

    def run_one(text, program, feeds, silent=True, **environment):
        bundle, inputs = folder / f"{program.name}.so", folder / f"{program.name}.npz"
        if not bundle.exists():
            link([compile_program(program)], bundle, {}, isas=[ISAS[native.isa()]])
            np.savez(inputs, *feeds)
        done = subprocess.run(
            [sys.executable, "-c", text, bundle, program.name, inputs],
            env=os.environ | environment, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stderr == "" or not silent

    return run_one


@pytest.mark.parametrize(
    ("program", "feeds"),
    [
        (programs.dense(), [np.ones((4, 499), "f")]),
        (programs.growth(), [np.float32(1), np.int64(2000)]),  # allocates after its run
    ],
    ids=["early", "late"],
)
def test_what_a_signal_handler_raises_arrives(run, program, feeds):
    run(OFTEN, program, feeds)


@pytest.mark.parametrize(("program", "feeds"), LONG, ids=lambda x: getattr(x, "name", ""))
def test_a_long_call_ends_when_it_shall(run, program, feeds):
    run(LATE, program, feeds)


def test_a_call_ends_in_long_tiles_behind_short_ones(tmp_path):
    link([compile_program(programs.uneven())], tmp_path / "x.so", {}, isas=[ISAS[native.isa()]])
    bundle, x = native.Bundle(tmp_path / "x.so"), np.linspace(-1, 1, 1000, dtype="f")
    with native.exactly(1):
        whole = own_time(lambda: bundle.call("uneven", [x]))

        def late():
            with limited(whole / 20), pytest.raises(DeadlineExceeded):
                bundle.call("uneven", [x])

        assert own_time(late) < whole / 4


def own_time(call):
    """Seconds of this thread's CPU time."""
    begin = time.thread_time()
    call()
    return time.thread_time() - begin


def test_ctrl_c_ends_a_loop_that_data_does_not(run):
    run(INTERRUPTED, *ENDLESS)


def test_a_limit_of_all_calls(run):
    run(LIMITED, *ENDLESS, SIRIUS_CALL_LIMIT_MS="50")


def test_tensorflow_ends_a_loop_that_data_does_not(run):
    run(CANCELLED_IN_TENSORFLOW, *ENDLESS, silent=False)


def test_a_limit_of_all_calls_in_tensorflow(run):
    run(LIMIT_IN_TENSORFLOW, *ENDLESS, silent=False, SIRIUS_CALL_LIMIT_MS="50")
