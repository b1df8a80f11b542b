# SPDX-License-Identifier: Apache-2.0
"""Products of matrices beside what one core of this machine can do.

usage: roofline.py [--rows=1,7,64,128,512] [--sizes=256,768,3072] [--rounds=5] [--chart=FILE.svg]
           [--json=FILE]

Compiles y[m, n] = sum over k of x[m, k] * w[k, n], w constant, for every M in rows and K and N in
sizes, and times it with one thread. Beside each, in the same round, since clocks change, fused
multiply-adds that depend on nothing: the peak. And loads of an array as large as w: the bandwidth
of the cache, or memory, that holds it. From a few rows on the first is what counts, with one row
the second.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from absl import app, flags

from sirius_tf.bundle import link
from sirius_tf.compile import compile_program
from sirius_tf.ir.affine import affine, symbol
from sirius_tf.ir.expr import Call, Const, Load
from sirius_tf.ir.program import Iter, Output, Program, Reduce, Statement, Tensor
from sirius_tf.runtime import native
from sirius_tf.tools import benchmark
from sirius_tf.tools.perf import probe
from sirius_tf.tools.tables import table


@dataclass(frozen=True)
class Point:
    """One product: multiplications and gigabytes of w a second, and the shares of the bounds."""

    m: int
    k: int
    n: int
    gmac_s: float
    of_peak: float
    gb_s: float
    of_bandwidth: float


def program_of(m: int, k: int, n: int) -> Program:
    """y[m, n] = sum over k of x[m, k] * w[k, n]."""
    weights = np.random.default_rng(0).standard_normal((k, n)).astype(np.float32)
    i, j, r = symbol("i"), symbol("j"), symbol("r")
    value = Call("mul", (Load("x", (i, r), "float32"), Load("w", (r, j), "float32")), "float32")
    statement = Statement(
        name=f"p{m}x{k}x{n}",
        iters=(Iter("i", affine(m)), Iter("j", affine(n))),
        target="y",
        index=(i, j),
        value=value,
        reduce=Reduce("add", (Iter("r", affine(k)),)),
    )
    tensors = (
        Tensor("x", (affine(m), affine(k)), "float32", "input"),
        Tensor("w", (affine(k), affine(n)), "float32", "constant", weights),
        Tensor("y", (affine(m), affine(n)), "float32", "output"),
    )
    output = Output("y", (Const(m, "int64"), Const(n, "int64")))
    return Program(f"p{m}_{k}_{n}", (), (), (), tensors, (statement,), ("x",), (output,))


def measure(points: Sequence[tuple[int, int, int]], rounds: int) -> list[Point]:
    """Medians over rounds; the time of a call that does next to nothing is taken off."""
    with tempfile.TemporaryDirectory() as name:
        path, bounds = Path(name, "products.so"), probe.compiled()
        programs = [program_of(*p) for p in [(1, 16, 16), *points]]
        kernels = [compile_program(p, workers=1) for p in programs]
        link.link(kernels, path, {}, isas=[link.ISAS[native.isa()]])
        bundle = native.Bundle(path)
        return [_point(bundle, bounds, p, rounds) for p in points]


def _point(
    bundle: native.Bundle, bounds: probe.Probe, point: tuple[int, int, int], rounds: int
) -> Point:
    m, k, n = point
    x, small = np.ones((m, k), np.float32), np.ones((1, 16), np.float32)
    weights, laps = probe.data(k * n), []

    def product() -> object:
        return bundle.call(f"p{m}_{k}_{n}", [x], 1)

    for _ in range(rounds):
        peak = bounds.lanes / bounds.multiply(bounds.lanes, max(probe.CHAINS))
        read = 4 * k * n / bounds.over("load_1", weights, k * n)
        # what the call of a next to empty region takes, where weights have been through the caches
        call = probe.seconds(lambda: bundle.call("p1_16_16", [small], 1), product)
        own = probe.seconds(product) - call
        rate, moved = m * k * n / own, 4 * k * n / own
        laps.append((rate / 1e9, rate / peak, moved / 1e9, moved / read))
    return Point(m, k, n, *(float(v) for v in np.median(laps, axis=0)))


def markdown(points: Sequence[Point]) -> str:
    """A row for each product."""
    heads = ("M", "K", "N", "GMAC/s", "of peak", "GB/s", "of bandwidth")
    rows = []
    for p in points:
        shares = f"{p.gmac_s:.1f}", f"{p.of_peak:.0%}", f"{p.gb_s:.1f}", f"{p.of_bandwidth:.0%}"
        rows.append([str(p.m), str(p.k), str(p.n), *shares])
    return table(heads, rows)


def draw_chart(points: Sequence[Point], file: Path) -> None:
    """Shares of the peak by the number of rows; with one row, those of the bandwidth."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4))
    shapes = list(dict.fromkeys((p.k, p.n) for p in points))
    rows = list(dict.fromkeys(p.m for p in points))
    for number, shape in enumerate(shapes):
        found = {
            p.m: p.of_peak if p.m > 1 else p.of_bandwidth for p in points if (p.k, p.n) == shape
        }
        places = np.arange(len(rows)) + 0.8 * number / len(shapes) - 0.4
        axes.bar(places, [100 * found[m] for m in rows], 0.8 / len(shapes), label=str(shape))
    labels = [f"M = {m}" if m > 1 else "M = 1\n(of bandwidth)" for m in rows]
    axes.set_xticks(range(len(rows)), labels)
    axes.set(ylabel="% of the peak of one core", title="x[M, K] times constant w[K, N]")
    axes.grid(True, axis="y", alpha=0.3)
    axes.legend(title="K, N", fontsize="x-small", ncols=3)
    figure.tight_layout()
    figure.savefig(file)


def define_flags(values: flags.FlagValues) -> None:
    """Define the flags of this command."""
    flags.DEFINE_list("rows", ["1", "7", "64", "128", "512"], "Values of M.", flag_values=values)
    flags.DEFINE_list("sizes", ["256", "768", "3072"], "Values of K and N.", flag_values=values)
    flags.DEFINE_integer("rounds", 5, "Rounds.", lower_bound=1, flag_values=values)
    flags.DEFINE_string("chart", None, "An SVG file to draw.", flag_values=values)
    flags.DEFINE_string("json", None, "A file to write the numbers to.", flag_values=values)


def main(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """See the module."""
    if len(argv) != 1:
        raise app.UsageError("takes no arguments, only flags")
    sizes = [int(s) for s in values.sizes]
    points = list(itertools.product([int(m) for m in values.rows], sizes, sizes))
    found = measure(points, values.rounds)
    benchmark.report(
        {"cpu": benchmark.cpu()},
        markdown(found),
        {"points": [asdict(p) for p in found]},
        values.json,
    )
    if values.chart:
        draw_chart(found, Path(values.chart))


def run() -> None:
    """Run the command line of this process."""
    define_flags(flags.FLAGS)
    app.run(main)


if __name__ == "__main__":
    run()
