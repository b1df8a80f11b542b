# SPDX-License-Identifier: Apache-2.0
"""Run one rewritten model in several versions of TensorFlow: none may need another library.

usage: check_versions.py [--versions=2.19,2.21] [--folder=FOLDER]

Makes a virtual environment for each version, which takes minutes and gigabytes; a FOLDER keeps them
for the next time. Zoo models are rewritten by the first version and run by all.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from absl import app, flags

ROOT = Path(__file__).resolve().parents[3]
MODELS = ("vocabulary", "mmoe", "lstm", "bert_small", "greedy", "blockdrop")

#: Runs in a version's environment: the model as it was and as it was rewritten, on the samples.
COMPARE = """
import sys
from pathlib import Path
import numpy as np, tensorflow as tf
from sirius_tf.runtime.op import register_with_tensorflow
register_with_tensorflow()
original, rewritten = map(Path, sys.argv[1:])
with np.load(f"{original}.npz") as arrays:
    samples = {k if "/" in k else f"serving_default/{k}": a for k, a in arrays.items()}


def outputs(path, name, inputs):
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        model = tf.compat.v1.saved_model.load(session, ["serve"], str(path))
        signature = model.signature_def[name]
        feeds = {signature.inputs[key].name: array for key, array in inputs.items()}
        return session.run({k: t.name for k, t in signature.outputs.items()}, feeds)


for name in sorted({key.split("/")[0] for key in samples}):
    prefix = f"{name}/"
    inputs = {k.removeprefix(prefix): a for k, a in samples.items() if k.startswith(prefix)}
    want, got = (outputs(path, name, inputs) for path in (original, rewritten))
    for key in want:
        error = np.linalg.norm(want[key] - got[key]) / np.linalg.norm(want[key])
        print(f"TensorFlow {tf.__version__}, {original.name}, {name}: error of {key} {error:.1e}")
        assert error < 1e-5
"""


def environment(folder: Path, version: str) -> str:
    """Make the virtual environment of a version unless it is there; returns its Python."""
    python = folder / f"tf-{version}" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
    packages = [f"tensorflow-cpu=={version}.*", "--editable", str(ROOT)]
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
    return str(python)


def check(folder: Path, versions: list[str]) -> None:
    """Rewrite with the first version, compare with all."""
    pythons = [environment(folder, version) for version in versions]
    with tempfile.TemporaryDirectory() as models:
        _run(pythons[0], "-m", "sirius_tf.tools.models.zoo", models, *MODELS)
        _run(pythons[0], "-m", "sirius_tf.tools.models.fetch", f"{models}/basic_pitch")
        noise = np.random.default_rng(0).standard_normal((1, 43844, 1)).astype(np.float32)
        np.savez(f"{models}/basic_pitch.npz", input_2=0.1 * noise)
        for name in (*MODELS, "basic_pitch"):
            original, rewritten = f"{models}/{name}", f"{models}/{name}.sirius"
            samples = f"--samples={original}.npz"
            words = ("-m", "sirius_tf.tools.convert", original, rewritten)
            _run(pythons[0], *words, samples, "--keep_slow")
            for python in pythons:
                _run(python, "-c", COMPARE, original, rewritten)


def _run(*words: str) -> None:
    # where there is AVX-512, oneDNN's kernels differ from TensorFlow's own by more than ours do
    own = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    subprocess.run(words, cwd=ROOT, env=own, check=True)


def main(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """See the module."""
    if len(argv) != 1:
        raise app.UsageError("expected flags only")
    if values.folder:
        check(Path(values.folder).absolute(), values.versions)
        return
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), values.versions)


def define_flags(values: flags.FlagValues) -> None:
    """Define the flags of this command."""
    flags.DEFINE_list("versions", ["2.19", "2.21"], "The versions.", flag_values=values)
    flags.DEFINE_string("folder", None, "Where environments are kept.", flag_values=values)


def run() -> None:
    """Run the command line of this process."""
    define_flags(flags.FLAGS)
    app.run(main)


if __name__ == "__main__":
    run()
