# SPDX-License-Identifier: Apache-2.0
"""Archives that gpu_check.py takes to a GPU: converted models, and samples.

Their weights are changed to numbers that repeat, since archives of those are small; the conversion
compares with TensorFlow.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sirius_tf.config import Options

PERIOD = 8191  # a prime, above the widths of layers: no two rows of a matrix are the same
SUFFIX = ".tar.xz"
DEFAULT = "serving_default"


def prepare(names: Sequence[str], folder: Path, options: Options) -> None:
    """Write an archive for each model of the zoo, or another with samples in MODEL.npz, converted
    for GPUs: NAME, the rewritten SavedModel, and NAME.npz. TensorFlow is needed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        with tempfile.TemporaryDirectory() as work:
            _archive(name, Path(work), folder, options)


def _archive(name: str, work: Path, folder: Path, options: Options) -> None:
    import sirius_tf
    from sirius_tf.tools.models import zoo

    model, samples = work / "model", work / "samples.npz"
    if name in zoo.ZOO:
        zoo.save_samples(zoo.build(name, model), samples)
    else:
        shutil.copytree(name, model)
        shutil.copy(f"{name}.npz", samples)
    repeat_weights(model)
    feeds = read_samples(samples)
    sirius_tf.optimize(model, work / "out", samples=feeds, options=options)
    short = Path(name).name
    if options.precision != "strict":
        short += f"-{options.precision}"
    with tarfile.open(folder / f"{short}{SUFFIX}", "w:xz", preset=1) as archive:
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
