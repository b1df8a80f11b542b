# SPDX-License-Identifier: Apache-2.0
"""Answer requests of random sizes, in order, with no warm-up: sirius_tf, TensorFlow and XLA.

usage: random_requests.py MODEL "x=B,T,256" [--sizes=B=1:16,T=1:200] [--requests=300] [--threads=N]
           [--peers=tf,xla,...] [--chart=FILE.svg] [--json=FILE]

Names in the shapes of inputs ("hist=B,T;item=B") are sizes, drawn for each request. Values are
normal, or drawn from MODEL.npz where they are integers. The rewritten model is MODEL.sirius. XLA
compiles whenever the sizes are new, TensorFlow and sirius_tf never do. Prints the total time, the
median, and the 99.9th percentile of every peer; the chart shows the time spent after each request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags, logging

from sirius_tf.tools import benchmark
from sirius_tf.tools.peers import Case, load, read_case
from sirius_tf.tools.tables import table

Arrays = dict[str, np.ndarray[Any, Any]]
Call = Callable[[Arrays], Mapping[str, Any]]
PEERS = ("tf", "xla", "sirius", "direct")


def draw(
    shapes: Mapping[str, Sequence[str]],
    sizes: Mapping[str, tuple[int, int]],
    samples: Arrays,
    rng: np.random.Generator,
) -> Arrays:
    """The inputs of a request."""
    now = {name: int(rng.integers(low, high + 1)) for name, (low, high) in sizes.items()}
    made = {}
    for key, dims in shapes.items():
        shape = [now[d] if d in now else int(d) for d in dims]
        sample = samples[key]
        normal = np.issubdtype(sample.dtype, np.floating)
        values = rng.standard_normal(shape) if normal else rng.choice(sample.reshape(-1), shape)
        made[key] = values.astype(sample.dtype)
    return made


def peer(name: str, case: Case) -> Call:
    """The function of a peer that answers a request."""
    import tensorflow as tf

    from sirius_tf import runtime

    if name == "direct":
        function = runtime.load(case.rewritten, case.threads).signatures[case.signature]
        return lambda feed: function(**feed)
    loaded = load(case.rewritten if name == "sirius" else case.model)
    signature = plain = loaded.signatures[case.signature]
    if name == "xla":
        signature = tf.function(lambda **feed: plain(**feed), jit_compile=True)

    def run(feed: Arrays) -> Mapping[str, Any]:
        loaded.signatures  # noqa: B018  the function does not keep its variables alive
        found = signature(**{k: tf.constant(v) for k, v in feed.items()})
        return {k: v.numpy() for k, v in found.items()}

    return run


def serve(calls: Mapping[str, Call], requests: Sequence[Arrays]) -> dict[str, list[float]]:
    """Milliseconds of every request; the peers answer each in turn."""
    laps: dict[str, list[float]] = {name: [] for name in calls}
    for feed in requests:
        want: Mapping[str, Any] | None = None
        for name, call in calls.items():
            start = time.perf_counter()
            found = call(feed)
            laps[name].append(1e3 * (time.perf_counter() - start))
            want = found if want is None else want
            error = benchmark.largest_error(dict(want), dict(found))
            if not error <= 1e-3:
                raise RuntimeError(f"{name} differs by {error:.1e}")
    return laps


def draw_chart(laps: Mapping[str, Sequence[float]], title: str, file: Path) -> None:
    """Time spent after each request, by peer."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for name, times in laps.items():
        axes.plot(np.arange(1, len(times) + 1), np.cumsum(times) / 1e3, label=name)
    axes.set(xlabel="requests", ylabel="seconds in all", yscale="log", title=title)
    axes.grid(True, alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(file)


def markdown(laps: Mapping[str, Sequence[float]]) -> str:
    """A row for every peer."""
    rows = []
    for name, times in laps.items():
        median, last = np.median(times), np.percentile(times, 99.9)
        rows.append([name, f"{sum(times) / 1e3:.2f}", f"{median:.3f}", f"{last:.2f}"])
    return table(("peer", "total s", "median ms", "p99.9 ms"), rows)


def define_flags(values: flags.FlagValues) -> None:
    """Define the flags of this command."""
    flags.DEFINE_list("sizes", ["B=1:16", "T=1:200"], "Ranges of sizes.", flag_values=values)
    flags.DEFINE_integer("requests", 300, "How many.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("threads", 2, "Threads of each.", lower_bound=1, flag_values=values)
    flags.DEFINE_list("peers", list(PEERS), "Whom to time.", flag_values=values)
    flags.DEFINE_string("chart", None, "An SVG file to draw.", flag_values=values)
    flags.DEFINE_string("json", None, "A file to write the times to.", flag_values=values)


def main(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """See the module."""
    logging.set_verbosity(logging.WARNING)  # TensorFlow logs through absl, too
    if len(argv) != 3 or not set(PEERS) >= set(values.peers):
        raise app.UsageError(f'expected MODEL "x=B,T,256", and peers among {", ".join(PEERS)}')
    machine = benchmark.setup(values.threads)
    case = read_case(Path(argv[1]), "serving_default", values.threads)
    pairs = (text.split("=") for text in argv[2].split(";"))
    shapes = {key: dims.split(",") for key, dims in pairs}
    ranges = (text.split("=") for text in values.sizes)
    sizes = {name: (int(r.split(":")[0]), int(r.split(":")[1])) for name, r in ranges}
    rng = np.random.default_rng(0)
    requests = [draw(shapes, sizes, case.feed, rng) for _ in range(values.requests)]
    laps = serve({name: peer(name, case) for name in values.peers}, requests)
    benchmark.report(machine, markdown(laps), {"ms": laps}, values.json)
    if values.chart:
        title = f"{case.model.name}: {values.requests} requests, {', '.join(values.sizes)}"
        draw_chart(laps, title, Path(values.chart))


def run() -> None:
    """Run the command line of this process."""
    define_flags(flags.FLAGS)
    app.run(main)


if __name__ == "__main__":
    run()
