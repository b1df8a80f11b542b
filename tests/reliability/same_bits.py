# SPDX-License-Identifier: Apache-2.0
"""Whether regions of models return the same bits, whatever surrounds a call.

usage: python -m tests.reliability.same_bits [--small] [NAME ...]

For each model of the zoo: how many outputs of regions there were on batches of 1, 2, 3, 4 and 5
rows, and how many of them had other bits with 2, 3, 4 or 8 workers than with one; how many had
other bits in the code for 16 lanes (x86-64-v4, compiled for x86-64-v3, so that any machine runs it)
than in that for 8; and how often the first row was another one than alone.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import keras
import numpy as np
from tensorflow.python.saved_model import loader_impl

from sirius_tf.bundle import cache, link
from sirius_tf.codegen.cpu import leaf
from sirius_tf.codegen.cpu.kernel import Kernel
from sirius_tf.compile import compile_graph
from sirius_tf.driver.parts import Part, cut, hints
from sirius_tf.frontend import savedmodel
from sirius_tf.rewrite import metagraph, samples
from sirius_tf.rewrite.session import Session
from sirius_tf.runtime import native
from sirius_tf.tools.models import zoo
from tests.support import zoo_table
from tests.support.small_zoo import SIZES
from tests.support.workers import exactly

Arrays = Mapping[str, np.ndarray]
Signature = tuple[Path, object, savedmodel.Signature, samples.Choice]
"""A signature of the MetaGraphDef of a model, and samples."""

WORKERS = (2, 3, 4, 8)
MOST_ROWS = 5
TOGETHER = {"refine"}  # the loop ends when all rows have converged, in TensorFlow, too


def rows_of(signature: savedmodel.Signature, arrays: Arrays) -> list[Arrays]:
    """Inputs for 1 to MOST_ROWS rows, of which the first is that of the samples, and others have
    its elements in another order; the samples alone if no batch is left open."""
    if any(not t.shape or t.shape[0] is not None for t in signature.inputs.values()):
        return [arrays]
    rng = np.random.default_rng(0)
    rows = {
        key: np.concatenate([x[:1], *(rng.permuted(x[:1]) for _ in range(1, MOST_ROWS))])
        for key, x in arrays.items()
    }
    return [{key: x[:n] for key, x in rows.items()} for n in range(1, MOST_ROWS + 1)]


@contextmanager
def lanes(isa: str) -> Iterator[None]:
    """The text for an instruction set is compiled as that for x86-64-v3 meanwhile."""
    march = ("-march=x86_64_v3", f"-DSIRIUS_LANES={leaf.ISAS[isa].lanes}")
    with mock.patch.dict(link.MARCH, v3=march):
        yield


def bundles(kernels: Sequence[Kernel], folder: Path) -> dict[str, native.Bundle]:
    """The kernels as compiled for each number of lanes."""
    made = {}
    for isa in leaf.ISAS:
        path = folder / f"{isa}.so"
        with lanes(isa):
            texts = [{"v3": k.runs[isa].replace(f"_{isa}", "_v3")} for k in kernels]
            chosen = [replace(k, runs=runs) for k, runs in zip(kernels, texts, strict=True)]
            link.link(chosen, path, {}, isas=["v3"])
        made[isa] = native.Bundle(path)
    return made


def same(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> list[bool]:
    """Which arrays have the same bits."""
    return [x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True)]


def first_rows(name: str, alone: Sequence[np.ndarray], more: Sequence[np.ndarray]) -> list[bool]:
    """Which results of the first row are those that it has alone; where others go on for longer (a
    decoder), as far as that one went."""
    found = []
    for x, y in zip(alone, more, strict=True):
        if x.ndim and x.shape[0] == 1 < y.shape[0] and name not in TOGETHER:
            kept = tuple(slice(n) for n in x.shape)
            found.append(y[kept].tobytes() == x.tobytes())
    return found


def of_signature(
    name: str,
    path: Path,
    meta_graph: object,
    signature: savedmodel.Signature,
    choice: samples.Choice,
) -> Counter[str]:
    """Outputs that were compared, and those that were other ones, by what made them so."""
    part = cut(path, cache.content(path), meta_graph, signature, "region", choice)
    found = Counter[str]()
    regions = [use.region for use in part.uses]
    if not regions:
        return found
    kernels = [compile_graph(r.graph, hints(part, r)) for r in regions]
    read = read_by(path, meta_graph, part, rows_of(signature, part.samples))
    with tempfile.TemporaryDirectory() as folder:
        made = bundles(kernels, Path(folder))
    for number, region in enumerate(regions):
        alone: list[np.ndarray] = []
        for feeds in (values[number] for values in read):
            results = exactly(made["v3"], region.name, feeds, 1)
            found["outputs"] += len(results)
            for workers in WORKERS:
                others = exactly(made["v3"], region.name, feeds, workers)
                found["workers"] += same(results, others).count(False)
            wide = exactly(made["v4"], region.name, feeds, 2)
            found["lanes"] += same(results, wide).count(False)
            alone = alone or results
            found["rows"] += first_rows(name, alone, results).count(False)
    return found


def read_by(
    path: Path, meta_graph: object, part: Part, given: Sequence[Arrays]
) -> list[list[list[np.ndarray]]]:
    """For each of some inputs: what each region reads when TensorFlow runs the signature on it."""
    signature, found = part.signature, list[list[list[np.ndarray]]]()
    nodes, edges = signature.graph.by_name, [use.region.inputs for use in part.uses]
    tables = {e: nodes[e.node].attr_array() for some in edges for e in some if e not in part.values}
    with Session(path, meta_graph, signature.inlined, signature.graph) as session:
        for arrays in given:
            feeds = {signature.inputs[key].name: array for key, array in arrays.items()}
            values = tables | session.values(feeds, list(part.values))
            found.append([[values[e] for e in some] for some in edges])
    return found


@contextmanager
def signatures(name: str, **sizes: object) -> Iterator[list[Signature]]:
    """The signatures of a model of the zoo, with samples; of those that are alike, one."""
    keras.backend.clear_session()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        given = zoo.build(name, path, **sizes)
        model = savedmodel.read(path)
        meta_graph = metagraph.select(loader_impl.parse_saved_model(str(path)))
        found = dict[str, Signature]()
        for key, choice in samples.of_signatures(model.signatures, given).items():
            graph = str(sorted(n.op for n in model.signatures[key].graph.nodes))
            found.setdefault(graph, (path, meta_graph, model.signatures[key], choice))
        yield list(found.values())  # Keras exports one function twice


def of_model(name: str, **sizes: object) -> Counter[str]:
    """All signatures of a model of the zoo."""
    total = Counter[str]()
    with mock.patch.dict("os.environ", SIRIUS_ISA="v3"), signatures(name, **sizes) as found:
        for signature in found:
            total += of_signature(name, *signature)
    return total


def run() -> None:
    """Run the command."""
    wrong = ("workers", "lanes", "rows")
    count = lambda name, small: of_model(name, **(SIZES[name] if small else {}))
    zoo_table.run(("outputs", *wrong), wrong, count, 9)


if __name__ == "__main__":
    run()
