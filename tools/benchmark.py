# SPDX-License-Identifier: Apache-2.0
"""Time SavedModels under sirius_tf and its peers, in one process and in turns.

usage: benchmark.py MODEL ... [--peers=tf,xla,...] [--threads=N] [--signature=NAME]
           [--rounds=7] [--seconds=0.2] [--json=FILE]

Samples are MODEL.npz, as convert.py takes them, or made up. The rewritten model is MODEL.sirius;
it is written if it does not exist. Peers: `tf` the signature, `xla` the same with jit_compile,
`sirius` the rewritten signature in TensorFlow, `direct` the rewritten model without TensorFlow,
`ort` ONNX Runtime through tf2onnx, `openvino`. `call` is a signature that does nothing: what
TensorFlow's call from Python costs, which is a part of the times of tf, xla and sirius. A peer that
fails is reported, and the others are timed. Prints a Markdown table.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags, logging

import sirius_tf
from sirius_tf import runtime
from sirius_tf.config import Options

Arrays = dict[str, np.ndarray[Any, Any]]
Run = Callable[[], Arrays]


@dataclass(frozen=True)
class Case:
    """One model to time: where it is, and what it is called with."""

    model: Path
    signature: str
    feed: Arrays
    threads: int

    @property
    def rewritten(self) -> Path:
        """The compiled model, which is made if need be."""
        output = self.model.with_name(f"{self.model.name}.sirius")
        if not output.exists():
            samples = {self.signature: self.feed}
            options = Options(threads=self.threads)
            names = [self.signature]
            sirius_tf.optimize(
                self.model, output, signatures=names, samples=samples, options=options
            )
        return output


@dataclass(frozen=True)
class Timing:
    """A peer's median time, set-up time, and largest error against TensorFlow; or its failure."""

    peer: str
    ms: float | None = None
    setup_s: float | None = None
    error: float | None = None
    failure: str | None = None


def tf_signature(model: Path, case: Case, jit: bool = False) -> Run:
    """The signature, as TensorFlow's Python API calls it."""
    import tensorflow as tf

    from sirius_tf.runtime.op import register_with_tensorflow

    register_with_tensorflow()
    loaded = tf.saved_model.load(str(model))
    function = loaded.signatures[case.signature]
    feed = {key: tf.constant(array) for key, array in case.feed.items()}
    if jit:
        plain = function
        traced = tf.function(lambda **inputs: plain(**inputs), jit_compile=True)
        function = traced.get_concrete_function(**feed)

    def run() -> Arrays:
        loaded.signatures  # noqa: B018  the function does not keep its variables alive
        return {key: value.numpy() for key, value in function(**feed).items()}

    return run


def tf_call(case: Case) -> Run:
    """A signature with the same inputs that hands the smallest of them back."""
    import tensorflow as tf

    smallest = min(case.feed, key=lambda key: case.feed[key].size)
    module = tf.Module()
    module.serve = tf.function(lambda **inputs: {"out": tf.identity(inputs[smallest])})
    specs = {key: tf.TensorSpec(a.shape, a.dtype, name=key) for key, a in case.feed.items()}
    with tempfile.TemporaryDirectory() as folder:
        concrete = module.serve.get_concrete_function(**specs)
        tf.saved_model.save(module, folder, signatures={case.signature: concrete})
        return tf_signature(Path(folder), case)


def direct(case: Case) -> Run:
    """The rewritten model on numpy arrays."""
    function = runtime.load(case.rewritten, case.threads).signatures[case.signature]
    return lambda: function(**case.feed)


def onnx_runtime(case: Case) -> Run:
    """ONNX Runtime on what tf2onnx makes of the model."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/model.onnx"
        words = ["--saved-model", str(case.model), "--signature_def", case.signature]
        words = [sys.executable, "-m", "tf2onnx.convert", *words, "--output", file]
        done = subprocess.run([*words, "--opset", "18"], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"tf2onnx: {done.stderr.strip()[-300:]}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = case.threads
        session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feed = {i.name: case.feed[i.name.split(":")[0]] for i in session.get_inputs()}
    return lambda: dict(zip(names, session.run(names, feed), strict=True))


def openvino(case: Case) -> Run:
    """OpenVINO, which reads SavedModels itself: their default signature."""
    import openvino as ov

    core = ov.Core()
    settings = {
        "INFERENCE_NUM_THREADS": case.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = core.compile_model(core.read_model(str(case.model)), "CPU", settings)
    request = compiled.create_infer_request()
    feed = {}
    for port in compiled.inputs:
        for name in port.names:
            key = name.split(":")[0].removeprefix(f"{case.signature}_")
            if key in case.feed:
                feed[port.any_name] = case.feed[key]
    outputs = compiled.outputs
    return lambda: _outputs(request.infer(feed), outputs)


def _outputs(found: Any, ports: Sequence[Any]) -> Arrays:
    return {port.any_name: found[port] for port in ports}


PEERS: Mapping[str, Callable[[Case], Run]] = {
    "tf": lambda case: tf_signature(case.model, case),
    "call": tf_call,
    "xla": lambda case: tf_signature(case.model, case, jit=True),
    "sirius": lambda case: tf_signature(case.rewritten, case),
    "direct": direct,
    "ort": onnx_runtime,
    "openvino": openvino,
}


def largest_error(want: Arrays, got: Arrays) -> float:
    """The largest relative difference of two results; outputs that peers rename pair by content."""
    if want.keys() != got.keys():
        want, got = ({str(i): a for i, a in enumerate(_sorted(x))} for x in (want, got))
    errors = [0.0]
    for key, expected in want.items():
        a, b = (np.asarray(x, np.float64).reshape(-1) for x in (expected, got[key]))
        scale = np.max(np.abs(a), initial=0.0) or 1.0
        errors.append(float(np.max(np.abs(a - b), initial=0.0) / scale))
    return max(errors)


def _sorted(arrays: Arrays) -> list[np.ndarray[Any, Any]]:
    return sorted(
        arrays.values(), key=lambda a: (a.size, round(float(np.asarray(a, np.float64).sum()), 3))
    )


def measure(case: Case, peers: Sequence[str], rounds: int, seconds: float) -> list[Timing]:
    """Set every peer up, then time them in turns, each for so many seconds."""
    results: list[Timing] = []
    runs: dict[str, Run] = {}
    want: Arrays | None = None
    for name in peers:
        start = time.perf_counter()
        try:
            run = PEERS[name](case)
            got = run()
            compared = name != "call" and want is not None
            error = largest_error(want or {}, got) if compared else None
        except Exception as problem:  # whatever a peer raises
            text = " ".join(f"{type(problem).__name__}: {problem}".split())
            results.append(Timing(name, failure=text[:300]))
            continue
        want = got if name == "tf" else want
        runs[name] = run
        results.append(Timing(name, setup_s=time.perf_counter() - start, error=error))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(_median_ms(run, seconds))
    return [
        replace(r, ms=statistics.median(times[r.peer])) if r.peer in runs else r for r in results
    ]


def _median_ms(run: Run, seconds: float) -> float:
    run()
    laps: list[float] = []
    end = time.perf_counter() + seconds
    while len(laps) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        laps.append(1e3 * (time.perf_counter() - start))
    return statistics.median(laps)


def markdown(results: Mapping[str, Sequence[Timing]]) -> str:
    """A table of milliseconds, and of speeds over TensorFlow."""
    lines = [
        "| model | peer | ms | speed over TF | error | set-up s |",
        "|---|---|---|---|---|---|",
    ]
    for model, timings in results.items():
        base = next((t.ms for t in timings if t.peer == "tf"), None)
        for t in timings:
            if t.ms is None or t.setup_s is None:
                lines.append(f"| {model} | {t.peer} | failed: {t.failure} | | | |")
                continue
            speed = f"{base / t.ms:.2f}x" if base and t.peer != "call" else ""
            error = "" if t.error is None else f"{t.error:.1e}"
            lines.append(
                f"| {model} | {t.peer} | {t.ms:.3f} | {speed} | {error} | {t.setup_s:.1f} |"
            )
    return "\n".join(lines)


def read_case(model: Path, signature: str, threads: int) -> Case:
    """Find samples: MODEL.npz, or what optimize would make up."""
    file = model.with_name(f"{model.name}.npz")
    if file.exists():
        with np.load(file, allow_pickle=False) as arrays:
            named = {k if "/" in k else f"serving_default/{k}": v for k, v in arrays.items()}
        prefix = f"{signature}/"
        feed = {k.removeprefix(prefix): v for k, v in named.items() if k.startswith(prefix)}
        return Case(model, signature, feed, threads)
    from sirius_tf.frontend import savedmodel
    from sirius_tf.rewrite import samples

    signatures = savedmodel.read(model, [signature]).signatures
    return Case(model, signature, samples.of_signatures(signatures, None)[signature], threads)


def define_flags(values: flags.FlagValues) -> None:
    """Define the flags of this command."""
    cpus = len(os.sched_getaffinity(0))
    flags.DEFINE_list("peers", list(PEERS), "Whom to time.", flag_values=values)
    flags.DEFINE_integer("threads", cpus, "Threads of each.", lower_bound=1, flag_values=values)
    flags.DEFINE_string("signature", "serving_default", "The signature.", flag_values=values)
    flags.DEFINE_integer("rounds", 7, "Turns of each.", lower_bound=1, flag_values=values)
    flags.DEFINE_float("seconds", 0.2, "Length of a turn.", lower_bound=0, flag_values=values)
    flags.DEFINE_string("json", None, "A file to write the results to.", flag_values=values)


def setup(threads: int) -> dict[str, str]:
    """Let every peer have so many threads; returns what runs where, for the record."""
    os.environ["SIRIUS_THREADS"] = str(threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    info = Path("/proc/cpuinfo").read_text().split("model name", 1)[-1].split("\n", 1)[0]
    known = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    names = ("tensorflow", "tensorflow-cpu", "tensorflow_cpu", "onnxruntime", "openvino")
    versions = {name: known[name] for name in names if name in known}
    return {"cpu": info.strip(" \t:"), "threads": str(threads), **versions}


def main(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """See the module."""
    logging.set_verbosity(logging.WARNING)  # TensorFlow logs through absl, too
    if len(argv) < 2 or not PEERS.keys() >= set(values.peers):
        raise app.UsageError(f"expected MODEL ..., and peers among {', '.join(PEERS)}")
    machine = setup(values.threads)
    results = {}
    for model in map(Path, argv[1:]):
        case = read_case(model, values.signature, values.threads)
        results[model.name] = measure(case, values.peers, values.rounds, values.seconds)
    print(", ".join(f"{key} {value}" for key, value in machine.items()), end="\n\n")
    print(markdown(results))
    if values.json:
        content = {name: [asdict(t) for t in timings] for name, timings in results.items()}
        text = json.dumps({"machine": machine, "models": content}, indent=1)
        Path(values.json).write_text(text + "\n")


def run() -> None:
    """Run the command line of this process."""
    define_flags(flags.FLAGS)
    app.run(main)


if __name__ == "__main__":
    run()
