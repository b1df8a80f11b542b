# SPDX-License-Identifier: Apache-2.0
"""Ways to call a model: TensorFlow's, ours, and those of others."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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
    from sirius_tf.rewrite import made_up

    inputs = savedmodel.read(model, [signature]).signatures[signature].inputs
    return Case(model, signature, made_up.first(inputs).arrays(inputs), threads)
