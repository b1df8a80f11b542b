# SPDX-License-Identifier: Apache-2.0
"""Compile a SavedModel: OUTPUT is the same model with generated code in place of its ops.

usage: convert.py INPUT OUTPUT [--signatures=a,b] [--input_shapes=x=1,100,256]
           [--samples=FILE.npz] [--tolerance=1e-5] [--threads=N]
           [--dump=FOLDER] [--without=PASS,...] [--target=cuda] [--arch=sm_80,sm_90]
           [--cuda_launch=auto]
           [--keep_slow] [--strict_math] [--keep_variables] [--strict] [--force]
           [--refresh]
       convert.py --clear_cache

INPUT itself is not changed. OUTPUT is written only after it was loaded, run on the samples, and
found to return what INPUT returns. The exit code is 0, or 1 with the reason on stderr.
"""

from __future__ import annotations

import collections
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from absl import app, flags, logging
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import sirius_tf
from sirius_tf.bundle import store
from sirius_tf.config import Options, Precision
from sirius_tf.errors import SiriusError
from sirius_tf.report import Result

if TYPE_CHECKING:
    from sirius_tf.frontend.savedmodel import Signature

Shapes = Mapping[str, tuple[int, ...]]

#: How the reasons begin of nodes that cannot be compiled, whatever stands around them.
_NO_WAY = ("there is no rule for this op", "dtype ")
_MOST_NAMES = 5  # of variables, in a sentence


def define_input_shapes(values: flags.FlagValues) -> None:
    """Define the flag that `parse_shapes` reads."""
    flags.DEFINE_multi_string(
        "input_shapes",
        [],
        "INPUT=SIZE,... or SIGNATURE/INPUT=SIZE,...: shape of a made-up sample. May be repeated.",
        flag_values=values,
    )


def define_target(values: flags.FlagValues) -> None:
    """Define the flags that say which GPUs there is code for, and of which kind."""
    default = Options()
    flags.DEFINE_enum(
        "target",
        default.target,
        ["cpu", "cuda"],
        "cuda adds kernels for GPUs to the bundle: emulated, but not run on one yet.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "arch", list(default.arch), "GPU architectures to compile for.", flag_values=values
    )
    flags.DEFINE_enum(
        "cuda_launch",
        default.cuda_launch,
        ["auto", "persistent", "graph"],
        "Phases on a GPU: in one persistent kernel, or as kernels of a CUDA graph where no loop is "
        "around them; auto is by a model of their costs.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "precision",
        default.precision,
        get_args(Precision),
        "What GPUs' matrix units round factors of float32 to; strict: they are not used for these.",
        flag_values=values,
    )


def define_flags(values: flags.FlagValues) -> None:
    """Define the flags of this command."""
    default = Options()
    flags.DEFINE_list(
        "signatures", None, "The signatures to compile; all unless given.", flag_values=values
    )
    define_input_shapes(values)
    flags.DEFINE_string(
        "samples",
        None,
        "An .npz file of inputs to compare and time with. Its keys are INPUT or SIGNATURE/INPUT.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "tolerance",
        default.tolerance,
        "The greatest relative error of an output.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "threads",
        default.threads,
        "Threads to schedule for; 0 is as many as there are.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_string(
        "dump", None, "A folder for the text of every stage of every region.", flag_values=values
    )
    define_target(values)
    flags.DEFINE_list(
        "without", [], "Passes to leave out, to see what each does.", flag_values=values
    )
    for name, text in (
        ("keep_slow", "Keep regions that are slower than TensorFlow's ops."),
        ("strict_math", "Take sums in another order only; Winograd does more to them."),
        ("keep_variables", "Follow what is assigned to variables after loading."),
        ("strict", "Fail if an op that can be compiled stays on TensorFlow."),
        ("force", "Replace OUTPUT if it exists."),
        ("refresh", "Give OUTPUT, which exists, the weights of INPUT, whose graph is the same."),
        ("clear_cache", "Delete what conversions have left for later ones."),
    ):
        flags.DEFINE_boolean(name, False, text, flag_values=values)
    flags.DEFINE_alias("keep-slow", "keep_slow", flag_values=values)


def parse_shapes(items: list[str]) -> dict[str, tuple[int, ...]]:
    """Read `x=1,100,256`; `x=` is a scalar."""
    shapes = {}
    for item in items:
        name, found, sizes = item.partition("=")
        try:
            shape = tuple(int(size) for size in sizes.split(",") if sizes)
        except ValueError:
            shape = (-1,)
        if not name or not found or min(shape, default=0) < 0:
            raise SiriusError(f"--input_shapes={item} is not INPUT=SIZE,SIZE,...")
        shapes[name] = shape
    return shapes


def split_keys(
    items: Mapping[str, Any], inputs: Mapping[str, Collection[str]]
) -> dict[str, dict[str, Any]]:
    """Sort what is given by SIGNATURE/INPUT, or by INPUT: that is for every signature with it.

    `inputs` are those of each signature.
    """
    result: dict[str, dict[str, Any]] = collections.defaultdict(dict)
    for key, value in items.items():
        wanted, _, name = key.rpartition("/")
        among = [wanted] if wanted else list(inputs)
        takers = [signature for signature in among if name in inputs.get(signature, ())]
        if not takers:
            known = ", ".join(f"{s}/{i}" for s, names in inputs.items() for i in names)
            raise SiriusError(f"no signature has an input {key}; the inputs are {known}")
        for signature in takers:
            result[signature].setdefault(name, value)
    return dict(result)


def read_samples(
    path: Path, signatures: list[str] | None, shapes: Shapes, file: str | None
) -> dict[str, dict[str, Any]]:
    """Take samples from the file, and make up those whose shapes are given."""
    if not shapes and file is None:
        return {}
    # imported late: TensorFlow takes seconds, which --help need not
    from sirius_tf.frontend import savedmodel
    from sirius_tf.rewrite import made_up

    model = savedmodel.read(path, signatures).signatures
    inputs = {name: signature.inputs for name, signature in model.items()}
    shaped = {
        name: _with_shapes(model[name], given) for name, given in split_keys(shapes, inputs).items()
    }
    result: dict[str, dict[str, Any]] = {
        name: made_up.first(s.inputs).arrays(s.inputs) for name, s in shaped.items()
    }
    if file is not None:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                others = savedmodel.load_meta_graph(path).signature_def.keys() - model.keys()
                used = {k: a for k, a in arrays.items() if k.rpartition("/")[0] not in others}
                result |= split_keys(used, inputs)
        except (OSError, ValueError) as error:
            raise SiriusError(f"--samples={file}: {error}") from error
    return result


def _with_shapes(signature: Signature, shapes: Shapes) -> Signature:
    """The signature as if its inputs had these shapes."""
    inputs = {
        key: replace(tensor, shape=shapes.get(key, tensor.shape))
        for key, tensor in signature.inputs.items()
    }
    return replace(signature, inputs=inputs)


@contextmanager
def show_progress(console: Console) -> Iterator[Callable[[str], None]]:
    """A bar per stage; what is yielded begins one, and so ends the one before."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:

        def finish() -> None:
            for task in progress.task_ids[-1:]:
                progress.update(task, total=1, completed=1)
                progress.stop_task(task)

        def begin(stage: str) -> None:
            finish()
            progress.add_task(stage, total=None)

        yield begin
        finish()


def report(result: Result) -> RenderableType:
    """Print what became of the model, for people."""
    parts: list[RenderableType] = [_signatures(result), _regions(result)]
    if any(s.left for s in result.signatures):
        parts.append(_left(result))
    for s in (s for s in result.signatures if s.random):
        parts.append(f"{s.name}: random, so that values were not compared: {', '.join(s.random)}.")
    parts.extend(f"{name} stays on TensorFlow: {why}." for name, why in result.skipped.items())
    size = f"{result.output_dir}: {_mb(result.output_bytes)}"
    if result.bundle is not None:
        size += f", of which the bundle, mapped when loaded: {_mb(result.bundle_bytes)}"
    if result.cuda_state:
        parts.append(f"CUDA code: {result.cuda_state}.")
    if names := sorted({name for s in result.signatures for name in s.constants}):
        parts.append(_constants(names))
    if result.strict_because:
        parts.append(f"Converted again with strict arithmetic: {result.strict_because}.")
        parts.append(f"To blame is {result.strict_blame}.")
    parts.append(f"{size}. Converted in {result.seconds:.1f} s and {_mb(peak_memory())} of memory.")
    return Group(*parts)


def table(title: str, *columns: str) -> Table:
    """A table whose first column is text, and the others numbers."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", overflow="fold", no_wrap=i > 0)
    return table


def peak_memory() -> int:
    """The most bytes of memory that this process has had; its compilers' are not among them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _signatures(result: Result) -> Table:
    rows = table("Signatures", "signature", "ops compiled", "time on TF", "ms", "speed", "error")
    for s in result.signatures:
        rows.add_row(
            s.name,
            f"{s.compiled} of {s.ops}",
            f"{s.tf_share_before:.0%} -> {s.tf_share_after:.0%}",
            *_times(s.tf_ms, s.sirius_ms),
            f"{s.max_error:.1e}",
        )
    return rows


def _regions(result: Result) -> Table:
    regions = [r for s in result.signatures for r in s.regions]
    launches = ["launch on GPUs"] if any(r.cuda_launch for r in regions) else []
    rows = table("Regions", "region", "ops", "ms", "speed", "kept", "error", "TF's", *launches)
    for region in regions:
        kept = ("yes, or TF" if region.may_refuse else "yes") if region.kept else "no"
        times = _times(region.tf_ms, region.sirius_ms)
        launch = [region.cuda_launch] if launches else []
        errors = (region.accuracy.sirius, region.accuracy.tensorflow)
        texts = ("-" if error is None else f"{error:.1e}" for error in errors)
        rows.add_row(region.name, str(region.nodes), *times, kept, *texts, *launch)
    return rows


def _left(result: Result) -> Table:
    rows = table("Left on TensorFlow", "reason", "op", "how many")
    counts = collections.Counter((n.reason, n.op) for s in result.signatures for n in s.left)
    for (reason, op), count in counts.most_common():
        rows.add_row(reason, op, str(count))
    return rows


def _constants(names: list[str]) -> str:
    """The sentence that says which variables are constants of the code."""
    listed = ", ".join(names[:_MOST_NAMES])
    if len(names) > _MOST_NAMES:
        listed += f", {len(names) - _MOST_NAMES} more"
    return (
        f"Constants of the code are the values of {len(names)} variables: {listed}. It does not "
        "follow what is assigned to them later; --keep_variables does."
    )


def _times(before: float, after: float) -> tuple[str, str]:
    ratio = f"{before / after:.2f}x" if after > 0 else "-"
    return f"{before:.3f} -> {after:.3f}", ratio


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def complaint(result: Result, strict: bool) -> str | None:
    """The fault of a conversion that succeeded, for which --strict fails; None if there is none."""
    if result.bundle is None:
        return "nothing was compiled"
    if not strict:
        return None
    if result.skipped:
        name, why = next(iter(result.skipped.items()))
        return f"signature '{name}' stays on TensorFlow: {why}"
    left = [n for s in result.signatures for n in s.left if not n.reason.startswith(_NO_WAY)]
    if left:
        first = f"{left[0].node} ({left[0].op}): {left[0].reason}"
        return f"{len(left)} ops that can be compiled stay on TensorFlow, the first is {first}"
    return None


def convert(source: Path, output: Path, values: flags.FlagValues) -> str | None:
    """Convert, and print the report; returns a complaint."""
    console = Console(stderr=True)
    with show_progress(console) as progress:
        options = Options(
            threads=values.threads,
            tolerance=values.tolerance,
            keep_slow=values.keep_slow,
            strict_math=values.strict_math,
            keep_variables=values.keep_variables,
            force=values.force,
            dump=Path(values.dump) if values.dump else None,
            without=tuple(values.without),
            progress=progress,
            target=values.target,
            arch=tuple(values.arch),
            cuda_launch=values.cuda_launch,
            precision=values.precision,
        )
        shapes = parse_shapes(values.input_shapes)
        samples = read_samples(source, values.signatures, shapes, values.samples)
        if values.refresh:
            result = sirius_tf.refresh(output, source, samples=samples or None, options=options)
        else:
            result = sirius_tf.optimize(
                source,
                output,
                signatures=values.signatures,
                samples=samples or None,
                options=options,
            )
    Console().print(report(result))
    return complaint(result, values.strict)


def main(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> int:
    """See the module."""
    logging.set_verbosity(logging.WARNING)  # TensorFlow logs through absl, too
    if len(argv) != (1 if values.clear_cache else 3):
        raise app.UsageError("expected INPUT and OUTPUT, or --clear_cache alone")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is imported
    wrong = None
    try:
        if values.clear_cache:
            print(f"sirius-convert: {_mb(store.clear())} deleted from the cache")
        else:
            wrong = convert(Path(argv[1]), Path(argv[2]), values)
    except SiriusError as error:
        print(f"sirius-convert: error: {error}", file=sys.stderr)
        return 1
    if wrong is not None:
        kind = "error" if values.strict else "warning"
        print(f"sirius-convert: {kind}: {wrong}", file=sys.stderr)
    return int(wrong is not None and values.strict)


def run() -> None:
    """Run the command line of this process."""
    define_flags(flags.FLAGS)
    app.run(main)


if __name__ == "__main__":
    run()
