# SPDX-License-Identifier: Apache-2.0
"""Coverage-guided fuzzing of what reads files of others, by atheris: libFuzzer for Python and C.

usage: python -m tests.reliability.coverage_fuzz saved_model|bundle|request FOLDER [--seconds=N]

"saved_model" reads a model, and cuts it into regions as a conversion does: whatever there is in
saved_model.pb, that works, or a SiriusError says why not. "bundle" is the C that looks at a bundle
before it is mapped, built with UBSan's traps: what was changed is refused, and what was changed and
sealed again is looked at without harm. "request" calls regions, built with AddressSanitizer, with
inputs of any shape, type and numbers: a call has results, or an error. FOLDER keeps the inputs
that reach new code, for runs to come, and in findings/ those at which a process has ended. Another
process goes on behind these.

Needs `pip install atheris`, which is in no extra: not all versions of Python have a wheel of it.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sirius_tf.bundle import cc, library, seal
from sirius_tf.errors import SiriusError
from tests.reliability import request_fuzz

CHECKED = ("bundle_file.c", "crc32c.c", "sha256.c")
FLAGS = (
    *("-std=gnu11", "-O1", "-g1", "-fsanitize=undefined", "-fsanitize-trap=undefined"),
    "-fsanitize-coverage=inline-8bit-counters,pc-table,trace-cmp",
)
SEAL = 32  # bytes
OK, DAMAGED = 0, 5  # SIRIUS_* in host.h
READERS = ["sirius_tf.frontend", "sirius_tf.lower", "sirius_tf.rewrite"]
MEMORY = 3500  # MB
Target = Callable[[bytes], None]


def libfuzzer() -> ctypes.CDLL:
    """Let C that is loaded later find the functions by which it counts. They are there when
    libFuzzer runs."""
    core = importlib.util.find_spec("atheris.core_with_libfuzzer")
    return ctypes.CDLL(core.origin, ctypes.RTLD_GLOBAL)


# ---- a bundle


def build_checker(folder: Path) -> None:
    """Compile what looks at bundles, with libFuzzer's counters, and with traps."""
    sources = [library.native_directory() / name for name in CHECKED]
    cc.compile_shared(sources, folder / "checker.so", FLAGS)


def bundles() -> list[bytes]:
    """A bundle as it is written."""
    from sirius_tf.bundle.link import link
    from sirius_tf.compile import compile_program
    from tests.support import programs

    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "bundle.so")
        link([compile_program(programs.softmax(5))], path, {}, isas=["v3"])
        return [path.read_bytes()]


def bundle_target(folder: Path) -> Target:
    """Return what looks at a file as it is, and at one of the same content that is sealed."""
    whole = {path.read_bytes() for path in (folder / "seeds").iterdir()}

    @functools.cache
    def checker() -> ctypes.CDLL:
        libfuzzer()
        return ctypes.CDLL(str(folder / "checker.so"))

    def code_of(data: bytes) -> int:
        file, error = os.memfd_create("bundle"), ctypes.create_string_buffer(1024)
        try:
            os.write(file, data)
            return int(checker().sirius_check_file(file, error, len(error)))
        finally:
            os.close(file)

    def target(data: bytes) -> None:
        code = code_of(data)
        assert code == (OK if data in whole else DAMAGED), code
        code = code_of(b"".join(seal.sealed([data[:-SEAL]])))
        assert code in (OK, DAMAGED), code

    return target


# ---- a SavedModel


def saved_models(folder: Path) -> list[bytes]:
    """The graphs of small models: with control flow, with a variable, which comes into a folder,
    and of TF1."""
    import tensorflow as tf

    class Layer(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(tf.ones([4, 3]))

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": tf.nn.softmax(x @ self.w)}

    class Loop(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([3], tf.float32, name="x")])
        def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            rows = tf.TensorArray(tf.float32, 4)
            for k in tf.range(4):
                x = tf.cond(x[0] > 1, lambda: x - 1, lambda: x * 2)  # noqa: B023  traced at once
                rows = rows.write(k, x)
            return {"y": rows.stack()}

    with tempfile.TemporaryDirectory() as name:
        for model in (Layer(), Loop()):
            folder = Path(name, type(model).__name__)
            tf.saved_model.save(model, str(folder), signatures=model.serve)
        with tf.compat.v1.Session(graph=tf.Graph()) as session:
            x = tf.compat.v1.placeholder(tf.float32, [None, 2], name="x")
            y = tf.compat.v1.while_loop(lambda v: tf.reduce_sum(v) < 9, lambda v: v * 2 + 1, [x])
            tf.compat.v1.saved_model.simple_save(session, f"{name}/tf1", {"x": x}, {"y": y})
        shutil.copytree(f"{name}/Layer/variables", folder / "variables", dirs_exist_ok=True)
        return [path.read_bytes() for path in sorted(Path(name).glob("*/saved_model.pb"))]


def saved_model_target(folder: Path) -> Target:
    """Return what does with a model what a conversion does of it before it compiles."""
    import atheris

    with atheris.instrument_imports(include=READERS):
        from sirius_tf.frontend import savedmodel
        from sirius_tf.rewrite import regions
    place = Path(tempfile.mkdtemp(dir=folder))
    (place / "variables").symlink_to(folder.absolute() / "variables")

    def target(data: bytes) -> None:
        (place / "saved_model.pb").write_bytes(data)
        try:
            for signature in savedmodel.read(place).signatures.values():
                regions.cut(signature.graph, "region")
        except SiriusError:
            pass

    return target


# ---- a request


def requests() -> list[bytes]:
    """A call of each region by two workers, of small numbers."""
    return [bytes([k, 1, *[0, 5] * 40]) for k in range(request_fuzz.CASES)]


def request_target(folder: Path) -> Target:
    """Return what calls a region."""

    @functools.cache
    def answer() -> Target:
        return request_fuzz.target(folder, libfuzzer())

    return lambda data: answer()(data)


# ---- the command


@dataclass(frozen=True)
class Kind:
    """What is fuzzed: what is compiled for it, its first inputs, and what is called with each."""

    build: Callable[[Path], None]
    seeds: Callable[[Path], list[bytes]]
    target: Callable[[Path], Target]
    preloaded: Callable[[], str] = str


KINDS = {
    "saved_model": Kind(lambda _: None, saved_models, saved_model_target),
    "bundle": Kind(build_checker, lambda _: bundles(), bundle_target),
    "request": Kind(request_fuzz.build, lambda _: requests(), request_target, request_fuzz.runtime),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=[*KINDS])
    parser.add_argument("folder", type=Path, help="of inputs, gone on with if it is there")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        fuzz(flags.what, flags.folder, flags.seconds)
        return
    for name in ("seeds", "corpus", "findings"):
        (flags.folder / name).mkdir(parents=True, exist_ok=True)
    kind = KINDS[flags.what]
    kind.build(flags.folder)
    for k, data in enumerate(kind.seeds(flags.folder)):
        (flags.folder / "seeds" / str(k)).write_bytes(data)
    until = time.monotonic() + flags.seconds
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "LD_PRELOAD": kind.preloaded()}
    environment["ASAN_OPTIONS"] = "detect_leaks=0:allocator_may_return_null=1"
    command = [sys.executable, "-m", "tests.reliability.coverage_fuzz", *sys.argv[1:], "--child"]
    while (left := int(until - time.monotonic())) > 0:
        subprocess.run([*command, f"--seconds={left}"], env=environment, check=False)
    found = sorted((flags.folder / "findings").iterdir())
    print(f"{len(found)} findings", *found, sep="\n")


def fuzz(what: str, folder: Path, seconds: int) -> None:
    """Run libFuzzer in this process, which it ends."""
    import atheris

    folders = [str(folder / name) for name in ("corpus", "seeds")]
    prefix = f"-artifact_prefix={folder}/findings/"
    arguments = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY}", prefix, "-timeout=60"]
    arguments = [sys.argv[0], *arguments, "-print_final_stats=1", *folders]
    options = {}
    if what == "saved_model":
        from tests.reliability.other_messages import mutated

        options = {"custom_mutator": mutated}
    atheris.Setup(arguments, KINDS[what].target(folder), **options)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
