# SPDX-License-Identifier: Apache-2.0
"""Time SavedModels under sirius_tf and its peers, in one process and in turns.

usage: benchmark.py MODEL ... [--peers=tf,xla,...] [--threads=N] [--signature=NAME]
           [--rounds=7] [--seconds=0.2] [--json=FILE]

Samples are MODEL.npz, as convert.py takes them, or made up. The rewritten model is MODEL.sirius;
it is written if it does not exist, and slow regions are kept. Peers:

    tf        the signature in TensorFlow
    call      a signature that does nothing: what TensorFlow's call from Python costs, which is a
              part of the times of tf, xla and sirius
    xla       the signature in TensorFlow, compiled by XLA
    sirius    the rewritten signature in TensorFlow
    direct    the rewritten signature without TensorFlow
    ort       ONNX Runtime, through tf2onnx
    openvino  OpenVINO, which reads SavedModels

A peer that fails is reported, and the others are timed. Prints a Markdown table.
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
from sirius_tf.bundle import link
from sirius_tf.config import Options
from sirius_tf.runtime import native

Arrays = dict[str, np.ndarray[Any, Any]]
Run = Callable[[], Arrays]


@dataclass(frozen=True)
class Case:
    """One model to time: where it is, and what it is called with."""

    model: Path
    signature: str
    feed: Arrays
    threads: int

    def key(self, tensor: str) -> str:
        """The input that a tensor is: `x` of `x:0` and of `serving_default_x:0`."""
        return tensor.split(":")[0].removeprefix(f"{self.signature}_")

    @property
    def rewritten(self) -> Path:
        """The compiled model, which is made if need be."""
        output = self.model.with_name(f"{self.model.name}.sirius")
        if not output.exists():
            samples = {self.signature: self.feed}
            options = Options(threads=self.threads, keep_slow=True)
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


def load(model: Path) -> Any:
    """Load the objects of a SavedModel; None if they need Python code that is not there.

    Keras 2's optimizers are such objects. Servers, which load a graph, do not care.
    """
    import tensorflow as tf

    from sirius_tf.runtime.op import register_with_tensorflow

    register_with_tensorflow()
    try:
        return tf.saved_model.load(str(model))
    except AttributeError:
        return None


def tf_signature(model: Path, case: Case, jit: bool = False) -> Run:
    """The signature, as TensorFlow's Python API calls it."""
    import tensorflow as tf

    loaded = load(model)
    if loaded is None:
        return xla_graph(case) if jit else in_session(model, case)
    function = loaded.signatures[case.signature]
    feed = {key: tf.constant(array) for key, array in case.feed.items()}
    if jit:
        plain = function
        function = tf.function(lambda **inputs: plain(**inputs), jit_compile=True)

    def run() -> Arrays:
        loaded.signatures  # noqa: B018  the function does not keep its variables alive
        return {key: value.numpy() for key, value in function(**feed).items()}

    return run


def in_session(model: Path, case: Case) -> Run:
    """The signature, as a server calls it."""
    session, inputs, outputs = open_session(model, case)
    call = session.make_callable(outputs, [inputs[key] for key in case.feed])
    arrays = list(case.feed.values())
    return lambda: dict(call(*arrays))


def open_session(model: Path, case: Case) -> tuple[Any, dict[str, str], dict[str, str]]:
    """A session with the model, and the tensors of the signature's inputs and outputs."""
    import tensorflow as tf

    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        definitions = tf.compat.v1.saved_model.load(session, ["serve"], str(model)).signature_def
    found = definitions[case.signature]
    inputs, outputs = (
        {k: t.name for k, t in sorted(ts.items())} for ts in (found.inputs, found.outputs)
    )
    return session, inputs, outputs


def freeze(case: Case) -> tuple[Any, dict[str, str], dict[str, str]]:
    """A GraphDef of the signature with its weights as constants, and what open_session tells."""
    import tensorflow as tf

    session, inputs, outputs = open_session(case.model, case)
    with session:
        nodes = [name.split(":")[0] for name in outputs.values()]
        graph = tf.compat.v1.graph_util.convert_variables_to_constants(
            session, session.graph.as_graph_def(), nodes
        )
    return graph, inputs, outputs


def xla_graph(case: Case) -> Run:
    """XLA on a signature whose weights are constants."""
    import tensorflow as tf

    graph, inputs, outputs = freeze(case)
    imported = tf.compat.v1.wrap_function(
        lambda: tf.graph_util.import_graph_def(graph, name=""), []
    )
    element = imported.graph.as_graph_element
    pruned = imported.prune(
        [element(inputs[k]) for k in case.feed], list(map(element, outputs.values()))
    )
    function = tf.function(lambda *tensors: pruned(*tensors), jit_compile=True)
    feed = [tf.constant(array) for array in case.feed.values()]
    return lambda: {k: v.numpy() for k, v in zip(outputs, function(*feed), strict=True)}


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
    """ONNX Runtime on what tf2onnx makes of the signature."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/model.onnx"
        if load(case.model) is not None:
            words = ["--saved-model", str(case.model), "--signature_def", case.signature]
        else:
            graph, inputs, outputs = freeze(case)
            Path(folder, "graph.pb").write_bytes(graph.SerializeToString())
            ends = ["--inputs", ",".join(inputs.values()), "--outputs", ",".join(outputs.values())]
            words = ["--graphdef", f"{folder}/graph.pb", *ends]
        words = [sys.executable, "-m", "tf2onnx.convert", *words, "--output", file]
        done = subprocess.run([*words, "--opset", "18"], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"tf2onnx: {done.stderr.strip()[-300:]}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = case.threads
        session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feed = {i.name: case.feed[case.key(i.name)] for i in session.get_inputs()}
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
            if case.key(name) in case.feed:
                feed[port.any_name] = case.feed[case.key(name)]
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
            times[name].append(median_ms(run, seconds))
    return [
        replace(r, ms=statistics.median(times[r.peer])) if r.peer in runs else r for r in results
    ]


def median_ms(run: Run, seconds: float) -> float:
    """The median of calls for so many seconds, three at least."""
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
    known = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    names = ("tensorflow", "tensorflow-cpu", "tensorflow_cpu", "onnxruntime", "openvino")
    versions = {name: known[name] for name in names if name in known}
    return {"cpu": cpu(), "threads": str(threads), **versions}


def cpu() -> str:
    """The name of this machine's processor, and which code of a bundle it runs."""
    text = Path("/proc/cpuinfo").read_text()
    name = text.split("model name", 1)[-1].split("\n", 1)[0].strip(" \t:")
    return f"{name} (x86-64-{link.ISAS[native.isa()]})"


def report(
    machine: Mapping[str, str], table: str, content: Mapping[str, Any], file: str | None
) -> None:
    """Print what ran where, and a table; write the content of the table to a JSON file, if any."""
    print(", ".join(f"{key} {value}" for key, value in machine.items()), end="\n\n")
    print(table)
    if file:
        Path(file).write_text(json.dumps({"machine": machine, **content}, indent=1) + "\n")


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
    content = {name: [asdict(t) for t in timings] for name, timings in results.items()}
    report(machine, markdown(results), {"models": content}, values.json)


def run() -> None:
    """Run the command line of this process."""
    define_flags(flags.FLAGS)
    app.run(main)


if __name__ == "__main__":
    run()
