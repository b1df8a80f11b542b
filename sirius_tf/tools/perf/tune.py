# SPDX-License-Identifier: Apache-2.0
"""The cost model of tiling against measurement; what is faster here is kept for conversions.

usage: tune.py MODEL [--seconds=60] [--threads=N] [--signatures=a,b] [--samples=FILE.npz]
           [--input_shapes=x=1,100,256] [--strict_math] [--dry_run]
       tune.py --products=512x768x768,... [--seconds=60] [--threads=N] [--dry_run]

A cluster, the statements that run in one tile, is compiled alone, with the tile sizes that the
cost model chooses and with others near them, and timed on this machine. Those with most work come
first, until the time is used up. Tile sizes that are faster by more than 3 % are kept in the cache,
for this processor and this number of threads: whoever converts this model, or another one with the
same cluster, gets them. With --dry_run nothing is kept.

Samples, and --strict_math, must be those of the conversion: sizes on the samples are part of what a
cluster is. In place of a model, --products are M x K times constant K x N. Calls of all candidates
take turns, and each has its own copy of the weights, so that these come from where copies of them
all find place. In a large model they may come from farther away. Nothing else should run meanwhile.
"""

from __future__ import annotations

import collections
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags, logging
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table

from sirius_tf.bundle import link, tilings
from sirius_tf.codegen.cpu.kernel import Kernel, print_kernel
from sirius_tf.compile import allocate, laid_out, realize
from sirius_tf.errors import SiriusError
from sirius_tf.ir.defuse import Uses
from sirius_tf.ir.dtypes import numpy_dtype
from sirius_tf.ir.expr import Load
from sirius_tf.ir.grids import elements
from sirius_tf.ir.program import Program
from sirius_tf.pipeline import PIPELINE, STRICT, Pipeline
from sirius_tf.poly.dependence import flow
from sirius_tf.poly.scop import extract
from sirius_tf.rewrite.difference import relative_error
from sirius_tf.runtime import native
from sirius_tf.schedule.cluster import SIZES, Tiled, alone, fits
from sirius_tf.schedule.fuse import fuse_alone, tiled
from sirius_tf.schedule.machine import cpu
from sirius_tf.schedule.plan import work
from sirius_tf.tools import convert
from sirius_tf.tools.perf import roofline

Array = np.ndarray[Any, Any]
Sizes = tuple[int, ...]

MARGIN = 0.03  # by which others must be faster than the choice of the model
MOST = 8  # candidates, that of the model included
ROUNDS = (20, 200)  # of calls, at least, at most; half to choose, half to confirm
MEASURING = 1.0  # seconds for the rounds of a cluster
TOLERANCE = 1e-4  # relative error (L2) between candidates
LARGEST = 1 << 30  # bytes of a cluster's arrays
RANK = 8  # the most dimensions of what a bundle takes and gives: SIRIUS_MAX_RANK


@dataclass(frozen=True)
class Found:
    """A cluster of a program: its tiles, how often it is there, and its points on the samples."""

    program: Program
    tiled: Tiled
    times: int
    points: int

    @property
    def name(self) -> str:
        """The ops of its statements, as far as names of nodes tell, the heaviest first."""
        statements = [s for s in self.program.statements if s.name in self.tiled.cluster.statements]
        statements.sort(key=lambda s: -work(s, self.program.hints))
        last = ((s.origin or (s.name,))[-1].rsplit("/", 1)[-1] for s in statements)
        ops = list(dict.fromkeys(re.sub(r"_\d+$", "", op) for op in last))
        return ", ".join(ops[:3]) + (f", {len(ops) - 3} more" if len(ops) > 3 else "")


@dataclass(frozen=True)
class Measured:
    """The tile sizes of the model and the best ones, with medians in milliseconds."""

    found: Found
    model: Sizes
    model_ms: float
    best: Sizes
    best_ms: float


def clusters(programs: Iterable[Program], threads: int, passes: Pipeline = PIPELINE) -> list[Found]:
    """The clusters of programs, each once, the heaviest first."""
    first: dict[str, tuple[Program, Tiled]] = {}
    count = collections.Counter[str]()
    for program in programs:
        stored, flows = laid_out(program, cpu(threads), passes=passes)
        for one in tiled(stored, flows, cpu(threads)):
            first.setdefault(one.key, (stored, one))
            count[one.key] += 1
    found = [Found(p, t, count[k], _points(p, t)) for k, (p, t) in first.items()]
    return sorted(found, key=lambda f: -f.points * f.times)


def _points(program: Program, given: Tiled) -> int:
    names = given.cluster.statements
    return sum(work(s, program.hints) for s in program.statements if s.name in names)


def candidates(given: Tiled, stored: Sizes | None = None) -> list[Sizes]:
    """The model's tile sizes, the stored ones, and others near the model's.

    Half and twice as many tiles along one loop, the same along two loops one against the other, one
    more or less, four times as many. All divide their loops as evenly as their units let them.
    """
    extents, units, model = given.extents, given.units, given.sizes
    counts = [-(-n // size) for n, size in zip(extents, model, strict=True)]
    loops = [k for k in reversed(range(len(model))) if extents[k] > units[k]]

    def divided(factors: dict[int, float], more: int = 0) -> Sizes:
        sizes = list(model)
        for k, factor in factors.items():
            count = max(int(counts[k] * factor) + more, 1)
            sizes[k] = -(-extents[k] // (count * units[k])) * units[k]
        return tuple(sizes)

    found = [model, *([stored] if stored and fits(stored, units) else [])]
    found += [divided({k: factor}) for k in loops for factor in (2, 0.5)]
    found += [divided({j: 2, k: 0.5}) for j in loops for k in loops if j != k]
    found += [divided({k: 1}, more) for k in loops for more in (1, -1)]
    found += [divided({k: factor}) for k in loops for factor in (4, 0.25)]
    return list(dict.fromkeys(found))[:MOST]


def measure(found: Found, sizes: Sequence[Sizes], threads: int) -> Measured:
    """Time a cluster with each of the tile sizes, of which the first are the model's.

    SiriusError if it is too large to run alone, or if results differ.
    """
    program = alone(Uses(found.program), found.tiled.cluster, "alone")
    _check_size(program)
    feed = [made_up(program, name) for name in program.inputs]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "candidates.so")
        kernels = list(_kernels(found, sizes, threads))
        link.link(kernels, path, {}, isas=[link.ISAS[native.isa()]])
        regions = list(native.Bundle(path).regions.values())
        want = defined(program, regions[0](feed, threads))
        for region, tile in zip(regions, sizes, strict=True):
            got = defined(program, region(feed, threads))
            error = max(relative_error(a, b) for a, b in zip(got, want, strict=True))
            if not error <= TOLERANCE:
                raise SiriusError(f"tiles of {shown(tile)} differ by {error:.1e}")
        times = laps(regions, feed, threads)
    half = len(times) // 2
    first = np.median(times[:half], axis=0)
    low, median = np.quantile(times[half:], (0.25, 0.5), axis=0)
    best = int(np.argmin(first))
    if max(row[best] / row[0] for row in (first, low, median)) > 1 - MARGIN:
        best = 0
    return Measured(found, sizes[0], float(median[0]), sizes[best], float(median[best]))


def _check_size(program: Program) -> None:
    """SiriusError for what has no memory, or no place in a bundle's interface."""
    for t in program.tensors:
        count = int(np.prod([e.evaluate(program.hints) for e in t.shape], dtype=np.float64))
        if t.role != "constant" and count * numpy_dtype(t.dtype).itemsize > LARGEST:
            raise SiriusError(f"{t.name} is too large to be made up")
        if t.role in ("input", "output") and len(t.shape) > RANK:
            raise SiriusError(f"{t.name} has more than {RANK} dimensions")


def _kernels(found: Found, sizes: Sequence[Sizes], threads: int) -> Iterator[Kernel]:
    """The cluster alone with each of the tile sizes."""
    uses = Uses(found.program)
    for tile in sizes:
        program = alone(uses, found.tiled.cluster, f"alone_{shown(tile)}")
        scop = extract(program)
        flows = flow(scop)
        root = fuse_alone(program, flows, cpu(threads), found.tiled, tile)
        yield print_kernel(realize(program, scop, flows, allocate(program, scop, root)))


def made_up(program: Program, name: str) -> Array:
    """Values between 1/2 and 3/2, of which logarithms and roots exist; zeros, which are subscripts
    of anything; true; the parameters."""
    tensor = program.tensor[name]
    shape, dtype = [e.evaluate(program.hints) for e in tensor.shape], numpy_dtype(tensor.dtype)
    if name == SIZES:
        return np.array([p.hint for p in program.params], dtype)
    if dtype.kind in "iu":
        return np.zeros(shape, dtype)
    if dtype.kind == "b":
        return np.ones(shape, dtype)
    return np.random.default_rng(0).uniform(0.5, 1.5, shape).astype(dtype)


def defined(program: Program, outputs: Sequence[Array]) -> list[Array]:
    """The elements of the outputs that every statement has defined; others may define the rest of
    these."""
    hints, arrays = program.hints, dict[str, Array]()
    for output, array in zip(program.outputs, outputs, strict=True):
        arrays[output.tensor] = array
    return [
        elements(
            arrays[s.target],
            Load(s.target, tuple(i.substitute(hints) for i in s.index), s.value.dtype),
            {i.name: i.extent.evaluate(hints) for i in s.iters},
        )
        for s in program.statements
        if s.target in arrays
    ]


def laps(regions: Sequence[native.Region], feed: Sequence[Array], threads: int) -> Array:
    """Milliseconds of calls that take turns, in any order: a row for each round."""
    rows, rng = list[Array](), np.random.default_rng(0)
    end = time.perf_counter() + MEASURING
    while len(rows) < ROUNDS[0] or (len(rows) < ROUNDS[1] and time.perf_counter() < end):
        row = np.zeros(len(regions))
        for k in rng.permutation(len(regions)).tolist():
            start = time.perf_counter()
            regions[k].run(feed, threads)
            row[k] = 1e3 * (time.perf_counter() - start)
        rows.append(row)
    return np.array(rows)


def shown(sizes: Sizes) -> str:
    """Tile sizes as people write them."""
    return "x".join(map(str, sizes)) or "whole"


def tune(found: Sequence[Found], seconds: float, threads: int) -> list[Measured]:
    """Measure clusters until the time is used up; one that cannot run alone is left out."""
    known, measured = tilings.read(), list[Measured]()
    end = time.perf_counter() + seconds
    for one in found:
        if time.perf_counter() > end:
            break
        sizes = candidates(one.tiled, known.get(one.tiled.key))
        try:
            measured.append(measure(one, sizes, threads))
        except SiriusError as error:
            logging.warning("%s is not measured: %s", one.name, error)
    return measured


def keep(measured: Iterable[Measured]) -> None:
    """Store what is better than the model's choice, and drop what was."""
    known = tilings.read()
    for m in measured:
        known.pop(m.found.tiled.key, None)
        if m.best != m.model:
            known[m.found.tiled.key] = m.best
    tilings.write(known)


def report(measured: Sequence[Measured], count: int) -> RenderableType:
    """A row for each cluster, and how far from the best the cost model was."""
    table = Table(title="Clusters", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("cluster", overflow="fold", min_width=12)
    for column in ("points", "model", "best", "us", "off"):
        table.add_column(column, justify="right", no_wrap=True)
    for m in measured:
        found, us = m.found, f"{1e3 * m.model_ms:.1f} -> {1e3 * m.best_ms:.1f}"
        name = f"{found.times} x {found.name}" if found.times > 1 else found.name
        row = (f"{found.points:.2g}", shown(m.model), shown(m.best), us)
        table.add_row(name, *row, f"{m.model_ms / m.best_ms:.2f}x")
    lines = [f"{len(measured)} of {count} clusters were measured."]
    if measured:
        off = [m.model_ms / m.best_ms for m in measured]
        right = sum(m.best == m.model for m in measured)
        now, then = (
            sum(ms * m.found.times for ms, m in zip(column, measured, strict=True))
            for column in ([m.model_ms for m in measured], [m.best_ms for m in measured])
        )
        lines.append(
            f"Of these the model's tiles are best, or within {MARGIN:.0%}, for {right}; it is off "
            f"by {statistics.median(off):.2f}x in the median, {max(off):.2f}x at most; all take "
            f"{now:.3f} ms with its tiles, {then:.3f} ms with the best."
        )
    return Group(table, *lines)


def define_flags(values: flags.FlagValues) -> None:
    """Define the flags of this command."""
    flags.DEFINE_float(
        "seconds", 60.0, "Time for compiling and timing.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_integer(
        "threads", 0, "Threads; 0 is as many as there are.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_list("products", None, "Products, as MxKxN, of no model.", flag_values=values)
    flags.DEFINE_list("signatures", None, "The signatures; all unless given.", flag_values=values)
    flags.DEFINE_string(
        "samples", None, "An .npz file of inputs, as convert.py takes it.", flag_values=values
    )
    convert.define_input_shapes(values)
    for name, text in (
        ("strict_math", "Tune for conversions with this flag, or that need it."),
        ("dry_run", "Compare only, keep nothing."),
    ):
        flags.DEFINE_boolean(name, False, text, flag_values=values)


def products(texts: Iterable[str]) -> list[Program]:
    """Programs of single products; SiriusError if one is not written as MxKxN."""
    found = []
    for text in texts:
        sizes = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x([1-9]\d*)", text)
        if sizes is None:
            raise SiriusError(f"--products: {text} is not MxKxN, as 512x768x768 is")
        found.append(roofline.program_of(*map(int, sizes.groups())))
    return found


def read(model: Path, values: flags.FlagValues) -> list[Program]:
    """The programs of a model's signatures, with sizes on the samples."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is imported
    from sirius_tf import driver

    shapes = convert.parse_shapes(values.input_shapes)
    samples = convert.read_samples(model, values.signatures, shapes, values.samples)
    return list(driver.programs(model, signatures=values.signatures, samples=samples or None))


def main(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> int:
    """See the module."""
    logging.set_verbosity(logging.WARNING)  # TensorFlow logs through absl, too
    if len(argv) != (1 if values.products else 2):
        raise app.UsageError("expected MODEL, or --products")
    threads = values.threads or native.default_threads()
    try:
        programs = products(values.products) if values.products else read(Path(argv[1]), values)
    except SiriusError as error:
        print(f"tune: error: {error}", file=sys.stderr)
        return 1
    found = clusters(programs, threads, STRICT if values.strict_math else PIPELINE)
    measured = tune(found, values.seconds, threads)
    Console().print(report(measured, len(found)))
    if not values.dry_run:
        keep(measured)
    return 0


def run() -> None:
    """Run the command line of this process."""
    define_flags(flags.FLAGS)
    app.run(main)


if __name__ == "__main__":
    run()
