# SPDX-License-Identifier: Apache-2.0
"""Rewritten models of which a file is damaged, deleted, or another model's.

usage: python -m tests.reliability.damaged_models [--bits=N] [--jobs=N] [--loaders=LOADER,...]

A row for each kind of damage: how many there were, in all loaders; how many were refused by the
load; how many loaded, and had the right results (that part of a file is not read). "Late" failed at
the first call only, "wrong" had other results, "killed" ended the process. Then come classes of
errors, by loader.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

BUNDLE, GRAPH = "assets/model.sirius.so", "saved_model.pb"
INDEX, DATA = "variables/variables.index", "variables/variables.data-00000-of-00001"
PAGE = 4096
BATCH = 400  # loads of a process
ERRORS = {"DataLossError", "FailedPreconditionError", "NotFoundError", "FileNotFoundError"}
IDS = np.array([5, 0, (1 << 15) - 1], np.int32)
OUTCOMES = ("refused", "right", "late", "wrong", "killed")
Call = Callable[[], np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Damage:
    """What is done to files of a model: another "bit", "cut" off, "zero" up to an end, "swap" two
    pages, "delete", or the files of an "other" model."""

    files: tuple[str, ...]
    kind: str
    at: int = 0
    end: int = 0
    other: str = ""

    def apply(self, original: Path, folder: Path) -> None:
        """Do it to a model that is a copy of the original."""
        for name in self.files:
            file = folder / name
            if self.kind == "delete":
                file.unlink()
            elif self.kind == "other":
                link(Path(self.other, name), file)
            else:
                new = file.with_name("new")
                new.write_bytes(self.changed(bytearray((original / name).read_bytes())))
                new.replace(file)

    def changed(self, data: bytearray) -> bytearray:
        """The content of a file afterwards."""
        match self.kind:
            case "bit":
                data[self.at // 8] ^= 1 << self.at % 8
            case "cut":
                del data[self.at :]
            case "zero":
                data[self.at : self.end] = bytes(len(data[self.at : self.end]))
            case "swap":
                first, second = data[self.at : self.at + PAGE], data[self.end : self.end + PAGE]
                data[self.at : self.at + PAGE], data[self.end : self.end + PAGE] = second, first
            case _:
                raise AssertionError(self.kind)
        return data


def link(source: Path, target: Path) -> None:
    """Put a file that is not written to in place of another one."""
    new = target.with_name("new")
    os.link(source, new)
    new.replace(target)


# ---- what is damaged


def export(folder: Path) -> dict[str, Path]:
    """Rewritten models: one, one with another graph, and one with other weights."""
    import tensorflow as tf

    import sirius_tf

    class Model(tf.Module):
        """A table that is read where it is, and a matrix that is in the bundle."""

        def __init__(self, seed: int, slope: float) -> None:
            super().__init__()
            draw = np.random.default_rng(seed).standard_normal
            self.table = tf.Variable(draw((1 << 15, 8)).astype("f"))
            self.matrix, self.slope = tf.Variable(draw((8, 4096)).astype("f")), slope

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="ids")])
        def serve(self, ids: Any) -> Any:
            return {"y": tf.nn.relu(tf.gather(self.table, ids) @ self.matrix) * self.slope}

    made = {}
    for name, seed, slope in (("model", 0, 2.0), ("graph", 0, 3.0), ("weights", 1, 2.0)):
        model = Model(seed, slope)
        tf.saved_model.save(model, str(folder / name / "model"), signatures=model.serve)
        options = sirius_tf.Options(keep_slow=True, threads=1)
        made[name] = sirius_tf.optimize(folder / name / "model", options=options).output_dir
    return made


def sections(data: bytes) -> dict[str, list[range]]:
    """The bytes of a bundle by what they are; "padding" is what is nothing else."""
    (start,) = struct.unpack_from("<Q", data, 40)
    count, names = struct.unpack_from("<HH", data, 60)
    (texts,) = struct.unpack_from("<Q", data, start + 64 * names + 24)
    table = range(start, start + 64 * count)
    found = {"headers": range(64 + 56 * struct.unpack_from("<H", data, 56)[0])}
    for at in table[::64]:
        name, kind, _, _, offset, size = struct.unpack_from("<IIQQQQ", data, at)
        if size and kind not in (0, 8):  # no section, or one without contents
            text = data[texts + name : data.index(b"\0", texts + name)].decode()
            found[text] = range(offset, offset + size)
    found |= {"section headers": table, "seal": range(len(data) - 32, len(data))}
    ends, padding = 0, list[range]()
    for part in sorted(found.values(), key=lambda r: r.start):
        padding += [range(ends, part.start)] if part.start > ends else []
        ends = max(ends, part.stop)
    return {**{name: [part] for name, part in found.items()}, "padding": padding}


def bits(file: str, parts: Iterable[range], count: int, choose: random.Random) -> Iterator[Damage]:
    """Some bits of a file, one each."""
    places = [bit for part in parts for bit in range(8 * part.start, 8 * part.stop)]
    for at in choose.sample(places, min(count, len(places))):
        yield Damage((file,), "bit", at)


def damages(models: Mapping[str, Path], count: int) -> dict[str, list[Damage]]:
    """All kinds of damage to the first of the models, with `count` bits of each part."""
    choose, folder = random.Random(0), models["model"]
    data = (folder / BUNDLE).read_bytes()
    pages = range(0, len(data), PAGE)
    found = {
        f"bits of the bundle: {name}": list(bits(BUNDLE, parts, count, choose))
        for name, parts in sections(data).items()
    }
    found["bundle cut off at a page"] = [Damage((BUNDLE,), "cut", at) for at in pages]
    found["bundle with a page of zeros"] = [
        Damage((BUNDLE,), "zero", at, at + PAGE) for at in pages if any(data[at : at + PAGE])
    ]
    found["bundle of zeros from a page on"] = [
        Damage((BUNDLE,), "zero", at, len(data)) for at in pages
    ]
    found["bundle with two pages exchanged"] = [
        Damage((BUNDLE,), "swap", at, at + PAGE)
        for at in pages[:-2]
        if data[at : at + PAGE] != data[at + PAGE : at + 2 * PAGE]
    ]
    for label, file in (("graph", GRAPH), ("index", INDEX), ("weights", DATA)):
        size = (folder / file).stat().st_size
        found[f"bits of the {label}"] = list(bits(file, [range(size)], count, choose))
        cuts = sorted({choose.randrange(size) for _ in range(count // 4 + 1)} | {0})
        found[f"{label} cut off"] = [Damage((file,), "cut", at) for at in cuts]
        found[f"{label} of zeros"] = [Damage((file,), "zero", 0, size)]
    found["a file missing"] = [Damage((f,), "delete") for f in (BUNDLE, GRAPH, INDEX, DATA)]
    parts = (GRAPH,), (BUNDLE,), (INDEX, DATA)
    for label in ("graph", "weights"):
        other = str(models[label])
        found[f"a part of a model with other {label}"] = [
            Damage(part, "other", other=other)
            for part in parts
            if any((Path(other, f).read_bytes() != (folder / f).read_bytes()) for f in part)
        ]
    return found


# ---- who loads it


def load_alone(folder: Path) -> Call:
    """Load a model without TensorFlow."""
    from sirius_tf import runtime

    model = runtime.load(folder)
    return lambda: model(ids=IDS)["y"]


def load_objects(folder: Path) -> Call:
    """Load a model as Python does."""
    import tensorflow as tf

    model = tf.saved_model.load(str(folder))
    return lambda: model.signatures["serving_default"](ids=tf.constant(IDS))["y"].numpy()


def load_session(folder: Path) -> Call:
    """Load a model as servers do."""
    import tensorflow as tf
    from tensorflow.python.saved_model import loader_impl

    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        graph = loader_impl.SavedModelLoader(str(folder)).load(session, ["serve"])
    signature = graph.signature_def["serving_default"]
    feeds = {signature.inputs["ids"].name: IDS}
    return lambda: np.asarray(session.run(signature.outputs["y"].name, feeds))


LOADERS = {"runtime": load_alone, "objects": load_objects, "session": load_session}


def outcome(load: Callable[[Path], Call], folder: Path, want: object) -> tuple[str, str]:
    """What becomes of a model when it is loaded, and the class of the error."""
    try:
        call = load(folder)
    except Exception as error:  # whatever the loader raises on what is no model
        return "refused", type(error).__name__
    try:
        return ("right" if np.array_equal(call(), np.asarray(want)) else "wrong"), ""
    except Exception as error:
        return "late", type(error).__name__


def work(loader: str, original: Path, folder: Path) -> None:
    """Load a copy of a model with each damage on stdin; write what becomes of it to stdout."""
    if loader != "runtime":
        from sirius_tf.runtime.op import register_with_tensorflow

        register_with_tensorflow()
    load = LOADERS[loader]
    want = load(original)()
    for k, line in enumerate(sys.stdin):
        damage = Damage(**json.loads(line))
        damage.apply(original, folder)
        print(json.dumps(outcome(load, folder, want)), flush=True)
        for name in damage.files:
            link(original / name, folder / name)
        if k % 50 == 0:
            gc.collect()


def outcomes(loader: str, original: Path, given: list[Damage]) -> list[tuple[str, str]]:
    """What becomes of a model with each damage, in processes of their own."""
    results = list[tuple[str, str]]()
    command = [sys.executable, "-m", "tests.reliability.damaged_models", f"--worker={loader}"]
    with tempfile.TemporaryDirectory(dir=original.parent) as name:
        folder = Path(name, "model")
        while len(results) < len(given):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(original, folder, copy_function=os.link)
            left = given[len(results) : len(results) + BATCH]
            done = subprocess.run(
                [*command, f"--original={original}", f"--copy={folder}"],
                input="".join(json.dumps(asdict(damage)) + "\n" for damage in left),
                capture_output=True,
                text=True,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
                check=False,
            )
            found = [json.loads(line) for line in done.stdout.splitlines()]
            if done.returncode > 0:
                raise AssertionError(done.stderr[-3000:])
            results += [(kind, name) for kind, name in found]
            results += [("killed", str(-done.returncode))] if done.returncode else []
    return results


# ---- the command


def rows(
    models: Mapping[str, Path], count: int, loaders: Iterable[str], jobs: int
) -> tuple[dict[str, Counter[str]], dict[str, Counter[str]]]:
    """How often there was which outcome, by kind of damage, and which error, by loader."""
    kinds = damages(models, count)
    found = {label: Counter[str]() for label in kinds}
    errors = {loader: Counter[str]() for loader in loaders}
    labels = [label for label, given in kinds.items() for _ in given]
    everything = [damage for given in kinds.values() for damage in given]
    tasks = [(loader, k) for loader in errors for k in range(jobs)]

    def run(task: tuple[str, int]) -> list[tuple[str, str]]:
        loader, k = task
        return outcomes(loader, models["model"], everything[k::jobs])

    with ThreadPoolExecutor(jobs) as pool:
        for (loader, k), results in zip(tasks, pool.map(run, tasks), strict=True):
            for label, (kind, error) in zip(labels[k::jobs], results, strict=True):
                found[label][kind] += 1
                errors[loader][f"{kind}: {error}" if error else kind] += 1
    return found, errors


def main(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> int:
    """See the module."""
    if values.worker:
        work(values.worker, Path(values.original), Path(values.copy))
        return 0
    total = Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        with contextlib.redirect_stdout(sys.stderr):
            models = export(Path(name))
        found, errors = rows(models, values.bits, values.loaders, values.jobs)
    print(f"{'damage':44}" + "".join(f"{kind:>9}" for kind in ("all", *OUTCOMES)))
    for label, counts in [*found.items(), ("all", total)]:
        numbers = [counts.total(), *(counts[kind] for kind in OUTCOMES)]
        print(f"{label:44}" + "".join(f"{n:9}" for n in numbers))
        total.update(counts if label != "all" else {})
    for loader, names in errors.items():
        print(f"{loader}: " + ", ".join(f"{n} {name}" for name, n in names.most_common()))
    return int(total["late"] + total["wrong"] + total["killed"] > 0)


def run() -> None:
    """Run the command."""
    flags.DEFINE_integer("bits", 200, "Bits of each part of a file.", lower_bound=1)
    flags.DEFINE_integer("jobs", 2, "Processes at once.", lower_bound=1)
    flags.DEFINE_list("loaders", list(LOADERS), "Who loads the models.")
    flags.DEFINE_string("worker", "", "For itself: the loader of this process.")
    flags.DEFINE_string("original", "", "For itself: the model.")
    flags.DEFINE_string("copy", "", "For itself: the copy that is damaged.")
    app.run(main)


if __name__ == "__main__":
    run()
