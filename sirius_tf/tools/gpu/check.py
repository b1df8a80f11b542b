# SPDX-License-Identifier: Apache-2.0
"""Compare and time the CUDA code of models on a GPU, where neither TensorFlow nor a network is.

usage: gpu_check.py --prepare=DIR [--arch=...] [--cuda_launch=...] [--precision=...] NAME|MODEL ...
       gpu_check.py DIR [--rounds=20] [--peers=torch,jax] [--json=FILE] [--markdown=FILE]
       gpu_check.py --stamp=FILE MODEL ...

First, on a machine with TensorFlow: converts models of the zoo, or others with samples in
MODEL.npz, to DIR/NAME.tar.xz, or DIR/NAME-PRECISION.tar.xz if that is not strict (archive.py).
Then, on a machine with a GPU and CuPy: compares each region with the CPU's code, which is the
reference, times both and the models of peers.py, and measures what the GPU can do. Exits with 1
if a result is wrong, or a model fails. Last, anywhere: writes into the bundles of rewritten models
what the JSON of such a check says of the same code.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from absl import app, flags

from sirius_tf import runtime
from sirius_tf.bundle.stamp import Stamp, read_stamps, write_stamps
from sirius_tf.config import Launch, Options, Precision
from sirius_tf.errors import SiriusError
from sirius_tf.runtime import cuda, native
from sirius_tf.tools.gpu import frameworks
from sirius_tf.tools.gpu import limits as gpu_limits
from sirius_tf.tools.gpu import peers as gpu_peers
from sirius_tf.tools.gpu.archive import DEFAULT, SUFFIX, prepare, read_samples
from sirius_tf.tools.tables import table

Arrays = Mapping[str, Any]
Run = Callable[[], object]

#: Of a result, relative, in the L2 norm, by what the GPU rounds factors to; the CPU has float32.
TOLERANCE: Mapping[str, float] = {"strict": 1e-4, "tf32x3": 1e-4, "tf32": 1e-2, "half": 1e-2}
CHECKS = 3  # inputs that results are compared for
WARM_UPS = 3
#: How our code is called: the reference; the op; arrays of numpy, and of CuPy.
CPU, OP, COPIES, GPU = "CPU code", "op on GPU", "CuPy, with copies", "CuPy"
NOT_RUN = "not run"


@dataclass
class Found:
    """Results for one signature, which is one region.

    `source` is a hash of its CUDA code. `ms` are medians of wall-clock time, `event_ms` that of a
    call on CuPy arrays between CUDA events. `floor_ms` is the roofline's, and `share` is what
    that is of `event_ms`. `copied` are bytes that a call copies to the GPU, and back.
    """

    model: str
    signature: str
    region: str
    source: str
    error: float
    precision: str = "strict"
    stamp: str = Stamp.EMULATED.name
    ms: dict[str, float] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    copied: dict[str, tuple[int, int]] = field(default_factory=dict)
    event_ms: float = 0.0
    floor_ms: float = 0.0
    share: float = 0.0

    @property
    def wrong(self) -> bool:
        """Whether a result differs from the CPU's; NaN does."""
        return not self.error <= TOLERANCE[self.precision]


# ---- on a machine with a GPU


def check(
    archive: Path, limits: gpu_limits.Limits, rounds: int, peers: Sequence[str]
) -> list[Found]:
    """Compare and time the signatures of an archive; SiriusError if one is not one region."""
    name = archive.name.removesuffix(SUFFIX)
    with tempfile.TemporaryDirectory() as work:
        with tarfile.open(archive) as packed:
            packed.extractall(work, filter="data")
        folder = Path(work, name)
        (bundle,) = folder.glob("assets/*.sirius.so")
        write_stamps(bundle, dict.fromkeys(read_stamps(bundle), Stamp.EMULATED), "being checked")
        feeds = read_samples(Path(work, f"{name}.npz"))
        host, device = runtime.load(folder), runtime.load(folder, device="cuda")
        found = []
        for signature, feed in feeds.items():
            if (reason := host.signatures[signature].reason) is not None:
                raise SiriusError(f"{signature}: {reason}")
            pair = _Pair(host, device, signature)
            seen = pair.compare(name, feed)
            others: dict[str, Run | str] = {}
            if signature == DEFAULT:
                short = name.removesuffix(f"-{pair.precision}")
                others = gpu_peers.build(short, feed, peers, pair.precision)
            pair.time(seen, feed, others, rounds)
            seen.floor_ms = limits.floor_ms(*pair.needs(feed))
            seen.share = seen.floor_ms / seen.event_ms
            found.append(seen)
    return found


class _Pair:
    """One signature on both devices."""

    def __init__(self, host: runtime.Model, device: runtime.Model, signature: str) -> None:
        self.cupy = cuda.Cuda().cupy
        self.host, self.device = host.signatures[signature], device.signatures[signature]
        entry = host.bundle.manifest["signatures"][signature]
        self.arguments: list[dict[str, Any]] = entry["arguments"]
        self.region = host.bundle.regions[entry["region"]]
        assert self.region.cuda is not None  # or the device would not have loaded it
        self.code = self.region.cuda
        self.precision: str = host.bundle.manifest["cuda"].get("precision", "strict")

    def on_cpu(self, feed: Arrays) -> dict[str, Any]:
        with native.on_cpu():
            return self.host(**feed)

    def compare(self, model: str, feed: Arrays) -> Found:
        """The largest error for a sample, and for others of the same values in another order."""
        rng, worst = np.random.default_rng(), 0.0
        for number in range(CHECKS):
            given = {k: rng.permuted(v.reshape(-1)).reshape(v.shape) for k, v in feed.items()}
            given = given if number else dict(feed)
            want = self.on_cpu(given)
            for got in (self.device(**given), self.host(**given)):
                worst = float(np.maximum(worst, relative_error(want, _numpy(got))))
        source = hashlib.sha256(self.code.source.encode()).hexdigest()
        return Found(model, self.host.name, self.region.name, source, worst, self.precision)

    def time(self, found: Found, feed: Arrays, peers: Mapping[str, Run | str], rounds: int) -> None:
        """Fill in the times, and what follows from them."""
        arrays = {key: self.cupy.asarray(array) for key, array in feed.items()}
        runs: dict[str, Run] = {
            CPU: lambda: self.on_cpu(feed),
            COPIES: lambda: _numpy(self.device(**feed)),
            GPU: lambda: self.device(**arrays),
        }
        found.copied = {label: copied(runs[label], cuda.counters)[:2] for label in (COPIES, GPU)}
        *both, launches = copied(lambda: self.host(**feed), native.cuda_counters)
        if launches:
            runs[OP], found.copied[OP] = lambda: self.host(**feed), (both[0], both[1])
        else:
            found.not_run[OP] = "the native library launches nothing here"
        found.not_run |= {name: why for name, why in peers.items() if isinstance(why, str)}
        runs |= {name: run for name, run in peers.items() if not isinstance(run, str)}
        found.ms = in_turns(runs, rounds)
        laps = (gpu_limits.event_ms(self.cupy, runs[GPU]) for _ in range(rounds))
        found.event_ms = statistics.median(laps)
        slower = found.ms.get(OP, found.ms[COPIES]) >= found.ms[CPU]
        found.stamp = (Stamp.OFF if found.wrong or slower else Stamp.CONFIRMED).name

    def needs(self, feed: Arrays) -> tuple[int, int]:
        """Multiplications of a call, as plan estimates them, and bytes: inputs, constants and
        outputs, each once; not tables, of which a call reads some rows."""
        given = [
            (feed[a["input"]].shape, np.ascontiguousarray(feed[a["input"]]))
            if "input" in a
            else (tuple(a["table"]["shape"]), None)
            for a in self.arguments
        ]
        arrays = [*feed.values(), *self.on_cpu(feed).values()]
        moved = sum(a.nbytes for a in arrays) + len(self.code.weights)
        return self.code.planner(given, 1).work, moved


def relative_error(want: Arrays, got: Arrays) -> float:
    """The largest |got - want| / |want| of an output; infinite if shapes or dtypes differ."""
    errors = [0.0]
    for key, expected in want.items():
        if (expected.shape, expected.dtype) != (got[key].shape, got[key].dtype):
            return float("inf")
        a, b = (np.asarray(x, np.float64).reshape(-1) for x in (expected, got[key]))
        errors.append(float(np.linalg.norm(b - a) / (np.linalg.norm(a) or 1.0)))
    return float(np.max(errors))  # NaN if there is one


def copied(run: Run, counters: Callable[[], native.CudaCounters]) -> tuple[int, int, int]:
    """Bytes to the GPU and back, and launches, of a call."""
    start, _ = counters(), run()
    end = counters()
    return (
        end.to_device - start.to_device,
        end.from_device - start.from_device,
        end.launches - start.launches,
    )


def _numpy(arrays: Arrays) -> dict[str, Any]:
    return {key: a.get() if hasattr(a, "get") else a for key, a in arrays.items()}


def in_turns(runs: Mapping[str, Run], rounds: int) -> dict[str, float]:
    """Median milliseconds of each, by rounds of one call each, after calls that are not timed."""
    laps: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(WARM_UPS + rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number >= WARM_UPS:
                laps[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in laps.items()}


# ---- results


def markdown(found: Sequence[Found], limits: gpu_limits.Limits) -> str:
    """A line on the limits of the GPU, and a table with a row for each model, in milliseconds."""
    peers = list(dict.fromkeys(n for f in found for n in (*f.ms, *f.not_run)))
    columns = ["model", *peers, "by events", "floor", "share", "bytes to, from", "error", "stamp"]
    text = (
        f"Memory {limits.bytes_s / 1e12:.2f} TB/s, {limits.fma_s / 1e12:.1f} T multiplications/s, "
        f"launch {limits.launch_us:.1f} us, barrier {limits.barrier_us:.2f} us."
    )
    rows = []
    for f in found:
        times = [f"{f.ms[n]:.3f}" if n in f.ms else NOT_RUN for n in peers]
        own = [f"{f.event_ms:.3f}", f"{f.floor_ms:.4f}", f"{f.share:.0%}"]
        own += ["{}, {}".format(*f.copied[GPU]), f"{f.error:.1e}", f.stamp.lower()]
        rows.append([f.model, *times, *own])
    return f"{text}\n\n{table(columns, rows)}"


def stamp(report: Path, models: Sequence[Path]) -> None:
    """Stamp the regions of rewritten models whose CUDA code a report has seen.

    SiriusError if it has seen none of a model.
    """
    content = json.loads(report.read_text())
    state = f"checked on {content['gpu']}"
    seen: dict[str, Stamp] = {}
    for entry in content["found"]:  # off, if one of the signatures with the region says so
        source = entry["source"]
        seen[source] = max(seen.get(source, Stamp.EMULATED), Stamp[entry["stamp"]])
    for model in models:
        bundle = runtime.load(model).bundle
        stamps = {}
        for name, region in bundle.regions.items():
            code = region.cuda.source if region.cuda else ""
            if (digest := hashlib.sha256(code.encode()).hexdigest()) in seen:
                stamps[name] = seen[digest]
        if not stamps:
            raise SiriusError(f"{report} has seen no CUDA code of {model}: prepare and check it")
        write_stamps(bundle.path, stamps, state)
        print(f"{model}: {', '.join(f'{k} {v.name.lower()}' for k, v in stamps.items())}")


def define_flags(values: flags.FlagValues) -> None:
    """Define the flags of this command."""
    flags.DEFINE_string("prepare", None, "A folder to write archives to.", flag_values=values)
    default = Options()
    flags.DEFINE_list("arch", list(default.arch), "To prepare for.", flag_values=values)
    flags.DEFINE_enum(
        "precision", default.precision, get_args(Precision), "To prepare.", flag_values=values
    )
    flags.DEFINE_enum(
        "cuda_launch", default.cuda_launch, get_args(Launch), "To prepare.", flag_values=values
    )
    flags.DEFINE_string("stamp", None, "The JSON of a check to stamp from.", flag_values=values)
    flags.DEFINE_integer("rounds", 20, "Rounds.", lower_bound=1, flag_values=values)
    flags.DEFINE_list("peers", list(frameworks.FRAMEWORKS), "Whom to time.", flag_values=values)
    flags.DEFINE_string("json", None, "A file to write results to.", flag_values=values)
    flags.DEFINE_string("markdown", None, "A file to write the table to.", flag_values=values)


def main(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> int:
    """See the module."""
    if values.prepare and argv[1:]:
        options = Options(
            target="cuda",
            keep_slow=True,
            arch=tuple(values.arch),
            precision=values.precision,
            cuda_launch=values.cuda_launch,
        )
        prepare(argv[1:], Path(values.prepare), options)
        return 0
    if values.stamp and argv[1:]:
        stamp(Path(values.stamp), [Path(a) for a in argv[1:]])
        return 0
    if len(argv) != 2 or values.prepare or values.stamp:
        raise app.UsageError("expected DIR, or --prepare=DIR NAME ..., or --stamp=FILE MODEL ...")
    try:
        return check_all(Path(argv[1]), values)
    except SiriusError as error:
        print(f"gpu_check: error: {error}", file=sys.stderr)
        return 1


def check_all(folder: Path, values: flags.FlagValues) -> int:
    """Check all archives; what was found is written behind each, for time may run out."""
    archives = sorted(folder.glob(f"*{SUFFIX}"))
    if not archives:
        raise SiriusError(f"no archive in {folder}: make some with --prepare")
    cupy = cuda.Cuda().cupy
    gpu = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    limits = gpu_limits.measure(cupy)
    found, failed, table = list[Found](), dict[str, str](), ""
    for archive in archives:
        try:
            found += check(archive, limits, values.rounds, values.peers)
        except Exception as error:  # of CuPy, too: the other models shall be seen
            failed[archive.name] = frameworks.reason(error)
            print(f"{archive.name}: {failed[archive.name]}", file=sys.stderr)
        table = f"{gpu}\n\n{markdown(found, limits)}\n"
        if values.markdown:
            Path(values.markdown).write_text(table)
        if values.json:
            seen = [asdict(f) for f in found]
            content = {"gpu": gpu, "limits": asdict(limits), "found": seen, "failed": failed}
            Path(values.json).write_text(json.dumps(content, indent=1) + "\n")
    print(table)
    return int(bool(failed) or any(f.wrong for f in found))


def run() -> None:
    """Run the command line of this process."""
    define_flags(flags.FLAGS)
    app.run(main)


if __name__ == "__main__":
    run()
