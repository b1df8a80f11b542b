# SPDX-License-Identifier: Apache-2.0
"""Compare and time the CUDA code of models on a GPU, where neither TensorFlow nor a network is.

usage: gpu_check.py --prepare=DIR NAME|MODEL ...
       gpu_check.py DIR [--rounds=20] [--peers=torch,jax] [--json=FILE] [--markdown=FILE]
       gpu_check.py --stamp=FILE MODEL ...

First, on a machine with TensorFlow: converts models of the zoo, or others with samples in
MODEL.npz, to DIR/NAME.tar.xz. Their weights are changed to numbers that repeat, since archives of
those are small; the conversion compares with TensorFlow. Then, on a machine with a GPU and CuPy:
compares each region with the CPU's code, which is the reference, times both and the models of
gpu_peers.py, and measures what the GPU can do. Exits with 1 if a result is wrong, or a model
fails. Last, anywhere: writes into the bundles of rewritten models what the JSON of such a check
says of the same code.
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
from typing import Any

import numpy as np
from absl import app, flags

from sirius_tf import runtime
from sirius_tf.bundle.stamp import Stamp, read_stamps, write_stamps
from sirius_tf.errors import SiriusError
from sirius_tf.runtime import native
from sirius_tf.runtime.cuda import Cuda

try:
    from tools import gpu_frameworks, gpu_limits, gpu_peers
except ModuleNotFoundError:  # run as a script
    import gpu_frameworks  # type: ignore[import-not-found,no-redef]
    import gpu_limits  # type: ignore[import-not-found,no-redef]
    import gpu_peers  # type: ignore[import-not-found,no-redef]

Arrays = Mapping[str, Any]
Run = Callable[[], object]

TOLERANCE = 1e-4  # of a result, relative, in the L2 norm: both sides compute in float32
CHECKS = 3  # inputs that results are compared for
PERIOD = 8191  # a prime, above the widths of layers: no two rows of a matrix are the same
WARM_UPS = 3
DEFAULT = "serving_default"
#: How our code is called: the reference; the op; arrays of numpy, and of CuPy.
CPU, OP, COPIES, GPU = "CPU code", "op on GPU", "CuPy, with copies", "CuPy"
NOT_RUN = "not run"


@dataclass
class Found:
    """What was seen of one signature, which is one region.

    `source` is a hash of its CUDA code; `ms` are medians of wall-clock time, `event_ms` that of a
    call on CuPy arrays between CUDA events; `floor_ms` is the roofline's.
    """

    model: str
    signature: str
    region: str
    source: str
    error: float
    stamp: str = Stamp.EMULATED.name
    ms: dict[str, float] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    event_ms: float | None = None
    floor_ms: float | None = None

    @property
    def wrong(self) -> bool:
        """Whether a result differs from the CPU's; NaN does."""
        return not self.error <= TOLERANCE


# ---- on a machine with TensorFlow


def prepare(names: Sequence[str], folder: Path) -> None:
    """Write an archive for each model: NAME, the rewritten SavedModel, and samples NAME.npz."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        with tempfile.TemporaryDirectory() as work:
            _archive(name, Path(work), folder)


def _archive(name: str, work: Path, folder: Path) -> None:
    import shutil

    import sirius_tf
    from sirius_tf.config import Options

    try:
        from tools import zoo
    except ModuleNotFoundError:
        import zoo  # type: ignore[import-not-found,no-redef]
    model, samples = work / "model", work / "samples.npz"
    if name in zoo.ZOO:
        zoo.save_samples(zoo.build(name, model), samples)
    else:
        shutil.copytree(name, model)
        shutil.copy(f"{name}.npz", samples)
    repeat_weights(model)
    feeds = read_samples(samples)
    options = Options(target="cuda", keep_slow=True)
    sirius_tf.optimize(model, work / "out", samples=feeds, options=options)
    short = Path(name).name
    with tarfile.open(folder / f"{short}.tar.xz", "w:xz", preset=1) as archive:
        archive.add(work / "out", short)
        archive.add(samples, f"{short}.npz")


def repeat_weights(model: Path) -> None:
    """Let the float32 variables of a SavedModel repeat their first PERIOD elements."""
    import tensorflow as tf

    prefix = str(model / "variables" / "variables")
    if not Path(f"{prefix}.index").exists():
        return
    reader = tf.train.load_checkpoint(prefix)
    tensors = {name: reader.get_tensor(name) for name in reader.get_variable_to_dtype_map()}
    for name, value in tensors.items():
        if isinstance(value, np.ndarray) and value.dtype == np.float32:
            tensors[name] = np.resize(value.reshape(-1)[:PERIOD], value.shape)
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )


def read_samples(file: Path) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """Inputs by signature and name, as convert.py takes them."""
    found: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
    with np.load(file, allow_pickle=False) as arrays:
        for key, array in arrays.items():
            signature, _, name = key.rpartition("/")
            found.setdefault(signature or DEFAULT, {})[name] = array
    return found


# ---- on a machine with a GPU


def check(
    archive: Path, limits: gpu_limits.Limits, rounds: int, peers: Sequence[str]
) -> list[Found]:
    """Compare and time the signatures of an archive that are one region each."""
    name = archive.name.removesuffix(".tar.xz")
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
            if host.signatures[signature].reason is not None:
                print(f"{name}: {host.signatures[signature].reason}", file=sys.stderr)
                continue
            pair = _Pair(host, device, signature)
            seen = pair.compare(name, feed)
            others = gpu_peers.build(name, feed, peers) if signature == DEFAULT else {}
            pair.time(seen, feed, others, rounds)
            seen.floor_ms = limits.floor_ms(*pair.needs(feed))
            found.append(seen)
    return found


class _Pair:
    """One signature on both devices."""

    def __init__(self, host: runtime.Model, device: runtime.Model, signature: str) -> None:
        self.cupy = Cuda().cupy
        self.host, self.device = host.signatures[signature], device.signatures[signature]
        entry = host.bundle.manifest["signatures"][signature]
        self.arguments: list[dict[str, Any]] = entry["arguments"]
        self.region = host.bundle.regions[entry["region"]]
        assert self.region.cuda is not None  # or the device would not have loaded it
        self.code = self.region.cuda

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
        return Found(model, self.host.name, self.region.name, source, worst)

    def time(self, found: Found, feed: Arrays, peers: Mapping[str, Run | str], rounds: int) -> None:
        """Fill in the times, and what follows from them."""
        arrays = {key: self.cupy.asarray(array) for key, array in feed.items()}
        runs: dict[str, Run] = {
            CPU: lambda: self.on_cpu(feed),
            COPIES: lambda: _numpy(self.device(**feed)),
            GPU: lambda: self.device(**arrays),
        }
        before = native.cuda_counters().launches
        self.host(**feed)
        if native.cuda_counters().launches > before:
            runs[OP] = lambda: self.host(**feed)
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
    """What the GPU can do, and a row for each model: milliseconds."""
    peers = list(dict.fromkeys(n for f in found for n in (*f.ms, *f.not_run)))
    columns = ["model", *peers, "by events", "floor", "error", "stamp"]
    lines = [
        f"Memory {limits.bytes_s / 1e12:.2f} TB/s, {limits.fma_s / 1e12:.1f} T multiplications/s, "
        f"launch {limits.launch_us:.1f} us, barrier {limits.barrier_us:.2f} us.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for f in found:
        times = [f"{f.ms[n]:.3f}" if n in f.ms else NOT_RUN for n in peers]
        own = [f"{f.event_ms:.3f}", f"{f.floor_ms:.4f}", f"{f.error:.1e}", f.stamp.lower()]
        lines.append(f"| {' | '.join([f.model, *times, *own])} |")
    return "\n".join(lines)


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
    flags.DEFINE_string("stamp", None, "The JSON of a check to stamp from.", flag_values=values)
    flags.DEFINE_integer("rounds", 20, "Rounds.", lower_bound=1, flag_values=values)
    flags.DEFINE_list("peers", list(gpu_frameworks.FRAMEWORKS), "Whom to time.", flag_values=values)
    flags.DEFINE_string("json", None, "A file to write results to.", flag_values=values)
    flags.DEFINE_string("markdown", None, "A file to write the table to.", flag_values=values)


def main(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> int:
    """See the module."""
    if values.prepare and argv[1:]:
        prepare(argv[1:], Path(values.prepare))
        return 0
    if values.stamp and argv[1:]:
        stamp(Path(values.stamp), [Path(a) for a in argv[1:]])
        return 0
    if len(argv) != 2 or values.prepare or values.stamp:
        raise app.UsageError("expected DIR, or --prepare=DIR NAME ..., or --stamp=FILE MODEL ...")
    archives = sorted(Path(argv[1]).glob("*.tar.xz"))
    if not archives:
        raise app.UsageError(f"no archive in {argv[1]}: make some with --prepare")
    cupy = Cuda().cupy
    gpu = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    limits = gpu_limits.measure(cupy)
    found, failed = list[Found](), dict[str, str]()
    for archive in archives:
        try:
            found += check(archive, limits, values.rounds, values.peers)
        except SiriusError as error:
            failed[archive.name] = str(error)
            print(f"{archive.name}: {error}", file=sys.stderr)
    table = f"{gpu}\n\n{markdown(found, limits)}\n"
    print(table)
    if values.markdown:
        Path(values.markdown).write_text(table)
    if values.json:
        seen = [asdict(f) for f in found]
        content = {"gpu": gpu, "limits": asdict(limits), "found": seen, "failed": failed}
        Path(values.json).write_text(json.dumps(content, indent=1) + "\n")
    return int(bool(failed) or any(f.wrong for f in found))


def run() -> None:
    """Run the command line of this process."""
    define_flags(flags.FLAGS)
    app.run(main)


if __name__ == "__main__":
    run()
