# SPDX-License-Identifier: Apache-2.0
"""Look at a model on its way through the compiler, and find what makes a result wrong.

usage: inspect.py MODEL [--region=NAME] [--stage=STAGE] [--samples=FILE.npz] [--input_shapes=...]
           [--signatures=a,b] [--threads=N] [--target=cuda] [--arch=sm_90] [--without=PASS,...]
           [--schedule=FILE] [--mapping=FILE]
       inspect.py MODEL --bisect [--save=FOLDER]
       inspect.py --replay=FOLDER

Lists regions, what each pass did, and stages; --stage prints one: graph, program, the name of a
pass, schedule, loops, plan, c (for x86-64-v3), c_v4, asm, asm_v4; mapping and cuda for a GPU.
--schedule takes the text of a region's schedule, perhaps an edited one, in place of the
scheduler's. It is verified, and refused with an example if it is wrong; stages behind it are then
those of that schedule. --mapping does the same for what is decided of a GPU behind the loops.

--bisect interprets the program after each pass on the samples, then has it scheduled, then runs
the code. It says which pass, statement and element differ first by more than rounding, and writes
a folder that --replay takes. The exit code is 1 if something is wrong.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from absl import app, flags, logging
from rich.console import Console

from sirius_tf import observers, pipeline
from sirius_tf.bundle.link import assembly
from sirius_tf.compile import compile_cuda, compile_program
from sirius_tf.debug.reproducer import Case, bisect, load, reduced, save
from sirius_tf.errors import SiriusError
from sirius_tf.frontend.graph import show
from sirius_tf.mapping.gpu import GpuMapping
from sirius_tf.mapping.text import parse as parse_mapping
from sirius_tf.pipeline import PASSES, PIPELINE
from sirius_tf.runtime import native
from sirius_tf.schedule.schedule import Schedule, parse
from sirius_tf.tools import convert

if TYPE_CHECKING:
    from sirius_tf.driver.sampled import Sampled

CODE = {"c": "v3", "c_v4": "v4", "asm": "v3", "asm_v4": "v4"}
"""Stages that are of one instruction set."""
STAGES = ("graph", "program", *(p.name for p in PASSES), "schedule", "loops", "plan", *CODE)
STAGES += ("mapping", "cuda")


def define_flags(values: flags.FlagValues) -> None:
    """Define the flags of this command."""
    convert.define_input_shapes(values)
    convert.define_target(values)
    flags.DEFINE_list("signatures", None, "The signatures; all unless given.", flag_values=values)
    flags.DEFINE_list("without", [], "Passes to leave out.", flag_values=values)
    flags.DEFINE_integer(
        "threads", 0, "Threads to schedule for; 0 is all.", lower_bound=0, flag_values=values
    )
    for name, text in (
        ("samples", "An .npz file of inputs. Its keys are INPUT or SIGNATURE/INPUT."),
        ("region", "The region; all unless given."),
        ("save", "Where a wrong result goes; MODEL.reproducer unless given."),
        ("replay", "A folder that --bisect has written."),
        ("schedule", "A file with the schedule of the region."),
        ("mapping", "A file with the mapping of the region to a GPU."),
    ):
        flags.DEFINE_string(name, None, text, flag_values=values)
    flags.DEFINE_enum("stage", None, STAGES, "The stage to print.", flag_values=values)
    flags.DEFINE_boolean("bisect", False, "Find what is wrong first.", flag_values=values)


def regions(model: Path, values: flags.FlagValues) -> list[Sampled]:
    """The regions of a model that are asked for."""
    # imported late: TensorFlow takes seconds, which --help need not
    from sirius_tf.driver.sampled import sampled

    shapes = convert.parse_shapes(values.input_shapes)
    samples = convert.read_samples(model, values.signatures, shapes, values.samples)
    found = sampled(model, signatures=values.signatures, samples=samples or None)
    wanted = [region for region in found if values.region in (None, region.name)]
    if not wanted:
        names = ", ".join(region.name for region in found) or "none at all"
        raise SiriusError(f"{model} has no region {values.region}, but {names}")
    return wanted


def case_of(region: Sampled, values: flags.FlagValues) -> Case:
    """A region as a case to bisect."""
    arch = values.arch[-1] if values.target == "cuda" else ""
    workers = values.threads or native.default_threads()
    return Case(region.program, region.inputs, arch, workers, tuple(values.without))


def stage_of(
    region: Sampled,
    case: Case,
    stage: str,
    given: Schedule | None = None,
    mapping: GpuMapping | None = None,
) -> str:
    """The text of a stage, with the schedule and the mapping that are given, if they are."""
    if stage == "graph":
        return show(region.graph)
    texts: dict[str, str] = {}
    dump, passes = texts.__setitem__, PIPELINE.without(case.without)
    if case.arch:
        compile_cuda(region.program, case.arch, dump, passes, given=given, mapping=mapping)
        texts = {name.removeprefix("cuda_"): text for name, text in texts.items()}
    else:
        kernel = compile_program(region.program, case.workers, dump, passes, given=given)
        texts["plan"] = kernel.plan
        texts |= {s: kernel.runs[isa] for s, isa in CODE.items() if s.startswith("c")}
        if stage.startswith("asm"):
            texts[stage] = assembly(kernel, CODE[stage])
    if stage not in texts and stage in (p.name for p in PASSES):
        return f"# {stage} changes nothing"
    if stage not in texts:
        raise SiriusError(f"there is no {stage} for this target, but {', '.join(texts)}")
    return texts[stage]


def summary(region: Sampled, case: Case) -> Iterator[tuple[str, ...]]:
    """A row for each pass: its name, milliseconds, statements behind it, what it changed."""
    rows: list[pipeline.Step] = []
    pipeline.run(region.program, case.machine, PIPELINE.without(case.without), [rows.append])
    yield "program", "", str(len(region.program.statements)), ""
    for step in rows:
        changed = len(observers.changes(step).splitlines()) - 1 if step.changed else 0
        count = str(len(step.after.statements))
        yield step.name, f"{1e3 * step.seconds:.0f}", count, str(changed or "")


def search(case: Case, folder: Path, console: Console) -> bool:
    """Bisect a case; whether something is wrong, which is then printed and written to a folder."""
    found = bisect(case, lambda what: console.print(f"  {what}", style="dim"))
    if found is None:
        print(f"{case.program.name}: all passes and the code agree")
        return False
    print(f"{case.program.name}: {found}")
    save(reduced(case, found), folder)
    print(f"see {folder}; --replay={folder} does this again")
    return True


def inspect(argv: list[str], values: flags.FlagValues) -> bool:
    """Do what the flags say; whether something is wrong."""
    console = Console(stderr=True)
    if values.replay:
        found = bisect(load(Path(values.replay)))
        print(found or "all passes and the code agree")
        return found is not None
    model = Path(argv[1])
    wrong = False
    if (values.schedule or values.mapping) and not values.stage:
        raise SiriusError("--schedule and --mapping show in the text of a --stage")
    if values.mapping and values.target != "cuda":
        raise SiriusError("--mapping is for --target=cuda")
    given = parse(Path(values.schedule).read_text()) if values.schedule else None
    mapping = parse_mapping(Path(values.mapping).read_text()) if values.mapping else None
    for region in regions(model, values):
        case = case_of(region, values)
        if values.bisect:
            folder = Path(values.save or f"{model.name}.reproducer") / region.name
            wrong |= search(case, folder, console)
        elif values.stage:
            print(stage_of(region, case, values.stage, given, mapping))
        else:
            table = convert.table(region.name, "stage", "ms", "statements", "changed")
            for row in summary(region, case):
                table.add_row(*row)
            Console().print(table)
    return wrong


def main(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> int:
    """See the module."""
    logging.set_verbosity(logging.WARNING)  # TensorFlow logs through absl, too
    if len(argv) != (1 if values.replay else 2):
        raise app.UsageError("expected MODEL, or --replay=FOLDER")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is imported
    try:
        return int(inspect(argv, values))
    except SiriusError as error:
        print(f"sirius-inspect: error: {error}", file=sys.stderr)
        return 1


def run() -> None:
    """Run the command line of this process."""
    define_flags(flags.FLAGS)
    app.run(main)


if __name__ == "__main__":
    run()
