# SPDX-License-Identifier: Apache-2.0
"""Milliseconds from a deadline to the return of a call.

usage: python -m tests.reliability.deadlines [--small] [--calls=200] [--workers=2] [NAME ...]

For each region of each model of the zoo: the time of a call, and of calls with deadlines at random
moments in it, how many ended early, and how late they were: median, 99th percentile, most. Then the
CPU time that the calling thread, alone, goes on for after a cancellation, of which a call learns 2
ms later at most: 99th percentile, of calls of a millisecond or more (what Python does around others
takes as long). Other load makes calls late, but changes that little.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from absl import app, flags, logging

from sirius_tf.bundle import cache, link
from sirius_tf.compile import compile_graph
from sirius_tf.driver.parts import cut, hints
from sirius_tf.errors import Cancelled, DeadlineExceeded
from sirius_tf.runtime import limited, native
from sirius_tf.tools.models import zoo
from tests.reliability.same_bits import read_by, signatures
from tests.support.small_zoo import SIZES

Call = Callable[[], object]


def calls(name: str, **sizes: object) -> Iterator[Call]:
    """A call of each region of a model, on its samples."""
    with signatures(name, **sizes) as found, tempfile.TemporaryDirectory() as folder:
        for number, (path, meta_graph, signature, choice) in enumerate(found):
            part = cut(path, cache.content(path), meta_graph, signature, "region", choice)
            regions = [use.region for use in part.uses]
            kernels = [compile_graph(r.graph, hints(part, r)) for r in regions]
            (feeds,) = read_by(path, meta_graph, part, [part.samples])
            file = Path(folder, f"{number}.so")
            link.link(kernels, file, {}, isas=[link.ISAS[native.isa()]])
            bundle = native.Bundle(file)
            for region, values in zip(regions, feeds, strict=True):
                yield partial(bundle.call, region.name, values)


def seconds(call: Call) -> float:
    """The median time of some calls."""
    times = []
    for _ in range(7):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def lateness(call: Call, whole: float, count: int) -> list[float]:
    """Milliseconds from the deadline to the return, of calls that did not end before."""
    rng, late = np.random.default_rng(0), []
    for share in rng.uniform(0, 1, count):
        limit = share * whole
        begin = time.perf_counter()
        try:
            with limited(limit):
                call()
        except DeadlineExceeded:
            late.append(1e3 * (time.perf_counter() - begin - limit))
    return late


def going_on(call: Call, whole: float, count: int) -> list[float]:
    """Milliseconds of CPU time that this thread takes between a cancellation and the return."""
    rng, clock, late = (
        np.random.default_rng(0),
        time.pthread_getcpuclockid(threading.get_ident()),
        [],
    )
    for share in rng.uniform(0, 1, count):
        event, begun = threading.Event(), list[float]()

        def cancel(after: float, event: threading.Event, begun: list[float]) -> None:
            time.sleep(after)
            begun.append(time.clock_gettime(clock))
            event.set()

        thread = threading.Thread(target=cancel, args=(share * whole, event, begun))
        thread.start()
        try:
            with limited(cancelled=event):
                while True:
                    call()
        except Cancelled:
            late.append(1e3 * (time.clock_gettime(clock) - begun[0]))
        thread.join()
    return late


def main(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """See the module."""
    logging.set_verbosity(logging.WARNING)  # TensorFlow logs through absl, too
    print("model               ms   early  median     p99    most  p99 CPU  (load)", flush=True)
    every = []
    for name in argv[1:] or sorted(zoo.ZOO):
        for call in calls(name, **(SIZES[name] if values.small else {})):
            with native.exactly(values.workers):
                whole = seconds(call)
                late = lateness(call, whole, values.calls)
            with native.exactly(1):
                own = going_on(call, whole, values.calls) if whole >= 1e-3 else []
            every += late
            middle, high, most = np.percentile(late or [0], [50, 99, 100])
            numbers = f"{1e3 * whole:8.3f} {len(late):6} {middle:7.3f} {high:7.3f} {most:7.3f}"
            alone = f"{np.percentile(own, 99):.3f}" if own else "-"
            print(f"{name:14}{numbers} {alone:>8}  ({os.getloadavg()[0]:.1f})", flush=True)
    print(f"all: {len(every)} calls, 99 % of them {np.percentile(every or [0], 99):.3f} ms late")


def run() -> None:
    """Run the command."""
    flags.DEFINE_bool("small", False, "Small versions of the models.")
    flags.DEFINE_integer("calls", 200, "Calls of each region.", lower_bound=1)
    flags.DEFINE_integer("workers", 2, "Workers of each call.", lower_bound=1)
    app.run(main)


if __name__ == "__main__":
    run()
