# SPDX-License-Identifier: Apache-2.0
"""Calls for a long time, while all around them changes.

usage: python -m tests.reliability.soak [--seconds=N] [--callers=N]

Threads call regions at random sizes with random numbers of workers. Meanwhile the bundle is
replaced and opened again, the process forks (a child calls, too), a timer's signal handler raises
in the main thread's calls, and all threads are moved to other CPUs. Every result is compared. What
is printed at the end: how often each happened, wrong results, children that did not end, and
memory, mappings and open files behind the first seconds and at the end. It ends with an error if a
result was wrong, a call failed, a child did not end, or files were left open.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import app, flags

from sirius_tf.bundle.link import link
from sirius_tf.compile import compile_program
from sirius_tf.ir import interp
from sirius_tf.runtime import native
from tests.support import programs
from tests.support.held import held

SIZES = (1, 3, 17, 64, 300)
BAD = ("wrong", "wrong or killed children", "children that hang")
CHILD = 30.0  # seconds that a child may take
_SECONDS = flags.DEFINE_float("seconds", 300.0, "How long.")
_CALLERS = flags.DEFINE_integer("callers", 3, "Threads that call.")


class Alarm(Exception):  # noqa: N818
    """What the signal handler raises."""


class Soak:
    """What all threads share."""

    def __init__(self, folder: Path) -> None:
        self.made = {"dense": programs.dense(64, 32), "softmax": programs.softmax(33)}
        self.path, self.other = folder / "bundle.so", folder / "next.so"
        link([compile_program(p) for p in self.made.values()], self.path, {}, isas=["v3"])
        self.bundle = native.Bundle(self.path)
        self.requests = [
            (p.name, list(inputs.values()), interp.run(p, inputs))
            for p in self.made.values()
            for inputs in (programs.random_inputs(p, {"B": n}) for n in SIZES)
        ]
        self.cpus = os.sched_getaffinity(0)
        self.counts: Counter[str] = Counter()
        self.over = threading.Event()

    def call(self, choose: random.Random) -> bool:
        """Whether a call has the right result."""
        name, inputs, wanted = choose.choice(self.requests)
        results = self.bundle.call(name, inputs, choose.choice((0, 1, 2, 4)))
        return all(np.allclose(x, y, 1e-4, 1e-4) for x, y in zip(results, wanted, strict=True))

    def calls(self, choose: random.Random) -> None:
        self.counts["calls"] += 1
        self.counts["wrong"] += not self.call(choose)

    def reloads(self, choose: random.Random) -> None:
        """Put the same file in the place of the bundle, as another one, and open it."""
        shutil.copy(self.path, self.other)
        self.other.replace(self.path)
        self.bundle = native.Bundle(self.path)
        self.counts["reloads"] += 1
        time.sleep(0.02)

    def forks(self, choose: random.Random) -> None:
        child = os.fork()
        if not child:
            os._exit(0 if all(self.call(choose) for _ in range(20)) else 1)
        until = time.monotonic() + CHILD
        while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < until:
            time.sleep(0.005)
        if done == (0, 0):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            self.counts["children that hang"] += 1
        self.counts["wrong or killed children"] += done != (0, 0) and done[1] != 0
        self.counts["forks"] += 1
        time.sleep(0.05)

    def moves(self, choose: random.Random) -> None:
        """Let all threads run on some of the CPUs only, or on all again."""
        some = set(choose.sample(sorted(self.cpus), choose.randint(1, len(self.cpus))))
        for task in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError):  # it has ended
                os.sched_setaffinity(int(task), some)
        self.counts["moves"] += 1
        time.sleep(0.02)

    def thread(self, step: Callable[[random.Random], None], seed: int) -> threading.Thread:
        def run() -> None:
            choose = random.Random(seed)
            while not self.over.is_set():
                try:
                    step(choose)
                except Exception as error:
                    self.counts[f"error: {error}"] += 1

        return threading.Thread(target=run)

    def interrupted(self, seconds: float) -> None:
        """Call in the main thread, which a timer interrupts."""

        def alarm(*_: object) -> None:
            raise Alarm

        choose, until = random.Random(0), time.monotonic() + seconds
        former = signal.signal(signal.SIGALRM, alarm)
        try:
            while time.monotonic() < until:
                try:
                    # and again: an exception in a finalizer is lost
                    signal.setitimer(signal.ITIMER_REAL, choose.uniform(1e-4, 2e-2), 0.05)
                    while time.monotonic() < until:
                        self.calls(choose)
                except Alarm:
                    self.counts["alarms"] += 1
        except Alarm:  # while the last one is dealt with
            self.counts["alarms"] += 1
        finally:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, former)


def soak(seconds: float, callers: int) -> tuple[Counter[str], dict[str, int], dict[str, int]]:
    """The counts, and what the process holds after a fifth of the time and at the end."""
    with tempfile.TemporaryDirectory() as name:
        state = Soak(Path(name))
        steps = [state.calls] * callers + [state.reloads, state.forks, state.moves]
        threads = [state.thread(step, seed) for seed, step in enumerate(steps, 1)]
        for thread in threads:
            thread.start()
        try:
            state.interrupted(seconds / 5)
            first = held()
            state.interrupted(seconds * 4 / 5)
        finally:
            state.over.set()
            for thread in threads:
                thread.join()
            os.sched_setaffinity(0, state.cpus)
        return state.counts, first, held()


def main(_: list[str]) -> int:
    counts, first, last = soak(_SECONDS.value, _CALLERS.value)
    print(dict(counts))
    print("held after a fifth of the time:", first, "at the end:", last)
    bad = [key for key in counts if key.startswith("error: ") or key in BAD]
    return int(any(counts[key] for key in bad) or last["files"] > first["files"])


if __name__ == "__main__":
    app.run(main)
