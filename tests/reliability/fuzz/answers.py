# SPDX-License-Identifier: Apache-2.0
"""What the stages of this compiler answer, beside TensorFlow."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import tensorflow as tf

from sirius_tf.codegen.cpu.kernel import Kernel
from sirius_tf.compile import compile_program
from sirius_tf.errors import InvalidArgument, SiriusError, Unsupported
from sirius_tf.frontend.savedmodel import graph_of
from sirius_tf.ir import interp
from sirius_tf.ir.program import Program
from sirius_tf.lower.graph import lower
from sirius_tf.runtime import native
from sirius_tf.transform.simplify import simplify
from tests.reliability.fuzz.batch import bundles
from tests.reliability.fuzz.case import Case, feeds, sizes_of
from tests.reliability.fuzz.oracle import Oracle, Refused, Unanswered, differences, spread_of
from tests.support.emulated import Emulated

SIZES = ((3, 2), (1, 1), (0, 3), (2, 0), (9, 5), (33, 17))
INTERPRETED = 3  # the greatest size for which the interpreter is asked
WORKERS = (1, 2, 4)
# TensorFlow divides the least integer by -1, and dies; what it does with NaN depends on its place
_TAME = {"Div", "FloorDiv", "FloorMod", "TruncateDiv", "TruncateMod"}
_TAME |= {"ClipByValue", "MaxPool", "MaxPool3D", "TopKV2"}


@dataclass(frozen=True)
class Failure:
    """A graph, and what is wrong with what a stage answers."""

    case: Case
    stage: str
    what: str

    @property
    def kind(self) -> tuple[str, str]:
        """What shrinking keeps."""
        return self.stage.split()[0], self.what.split(":")[0].split(" is ")[0].split("[")[0]


@dataclass
class Report:
    """Counts of what was done, and the failures."""

    counts: Counter = field(default_factory=Counter)
    ops: Counter = field(default_factory=Counter)
    unsupported: Counter = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True)
class Request:
    """The arrays of one call, and whether there are ends of types among them."""

    sizes: tuple[int, int]
    arrays: list[np.ndarray]
    wild: bool = False


def _is_wide_erf(node) -> bool:
    """Whether it is the erf of float64, which TensorFlow says is NaN where x * x is infinite; it is
    1 or -1 here, as in numpy."""
    return node.op == "Erf" and tf.dtypes.as_dtype(node.attr["T"].type) == tf.float64


def requests(case: Case, seed: int) -> list[Request]:
    rng = np.random.default_rng((seed, *case.name.encode()))
    found = [Request(s, feeds(case, sizes_of(*s), rng)) for s in SIZES]
    if not any(n.op in _TAME or _is_wide_erf(n) for n in case.nodes):
        found.append(Request((5, 4), feeds(case, sizes_of(5, 4), rng, True), True))
    return found


def programs(cases: Sequence[Case], report: Report) -> list[tuple[Case, Program]]:
    """The cases that can be lowered."""
    found = []
    for number, case in enumerate(cases):
        outputs = {name: f"{name}:0" for name in case.outputs}
        try:
            graph = graph_of(case.graph_def, case.name, case.inputs, outputs, {})
            found.append((case, replace(lower(graph), name=f"k{number}")))
        except Unsupported as error:
            report.counts["left on TensorFlow"] += 1
            report.unsupported[f"{error.op}: {error.reason}"] += 1
        except Exception as error:
            report.failures.append(Failure(case, "lower", crash(error)))
    return found


def crash(error: Exception) -> str:
    places = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__}: {error} ({places[-1].name}:{places[-1].lineno})"


def kernels(made: Sequence[tuple[Case, Program]], report: Report) -> dict[str, Kernel]:
    found = {}
    for number, (case, program) in enumerate(made):
        try:
            found[case.name] = compile_program(program, WORKERS[number % 3])
        except Unsupported as error:
            report.counts["left on TensorFlow"] += 1
            report.unsupported[f"{error.op}: {error.reason}"] += 1
        except Exception as error:
            report.failures.append(Failure(case, "compile", crash(error)))
    return found


def linked(made: dict[str, Kernel], cases, report: Report) -> dict[str, dict[str, native.Bundle]]:
    """The bundles of each case, one for all where the compiler takes all."""
    if not made:
        return {}
    try:
        return dict.fromkeys(made, bundles(list(made.values())))
    except SiriusError as error:
        if len(made) == 1:
            (name,) = made
            case = next(c for c in cases if c.name == name)
            report.failures.append(Failure(case, "clang", f"CompilerError: {error}"[:2000]))
            return {}
    halves = list(made.items())
    middle = len(halves) // 2
    parts = (linked(dict(h), cases, report) for h in (halves[:middle], halves[middle:]))
    return {name: found for part in parts for name, found in part.items()}


Answer = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


def stages(program: Program, made: dict[str, native.Bundle], request: Request):
    """What answers a request: names and functions."""
    if max(request.sizes) <= INTERPRETED and not request.wild:
        inputs = dict(zip(program.inputs, request.arrays, strict=True))
        needed = simplify(program)  # what is not needed need not succeed
        yield "interpreter", lambda _: list(interp.run(needed, inputs))
    for isa, bundle in made.items():
        for workers in WORKERS:
            yield f"C {isa}, {workers} workers", partial(_called, bundle, program.name, workers)


def _called(bundle: native.Bundle, name: str, workers: int, arrays) -> list[np.ndarray]:
    with native.exactly(workers):
        return bundle.call(name, arrays)


def answer(stage: Answer, arrays: Sequence[np.ndarray]) -> list[np.ndarray] | Refused:
    try:
        return [np.asarray(x) for x in stage(arrays)]
    except InvalidArgument as error:
        return Refused(str(error))


def compare(case: Case, given: list[np.ndarray] | Refused, wanted, request: Request) -> str:
    """What is wrong with an answer, or nothing."""
    if isinstance(given, Refused) or isinstance(wanted, Refused):
        if isinstance(given, Refused) and isinstance(wanted, Refused):
            return ""
        who = "TensorFlow" if isinstance(wanted, Refused) else "we"
        message = (wanted if isinstance(wanted, Refused) else given).message
        return f"{who} alone refuse: {message}"
    found = differences(given, wanted)
    if not found:
        return ""
    return differences(given, wanted, spread_of(case, request.arrays, wanted))


def quiet(**at: object) -> None:
    """Where a check is matters to nobody."""


def check(
    cases: Sequence[Case],
    seed: int,
    report: Report,
    cuda: int = 0,
    say: Callable[..., None] = quiet,
) -> None:
    """Answer requests of some graphs by all stages; `cuda` of them in the emulator, too. `say` is
    told where it is, in case that it ends the process."""
    for case in cases:
        report.counts["graphs"] += 1
        report.ops.update(set(case.ops))
    say(stage="compiling")
    made = programs(cases, report)
    compiled = kernels(made, report)
    opened = linked(compiled, cases, report)
    oracle = Oracle([case for case, _ in made if case.name in opened])
    try:
        for case, program in made:
            if case.name in opened:
                report.counts["compiled"] += 1
                program = replace(program, name=compiled[case.name].program.name)
                emulated = _emulated(case, program, report) if cuda > 0 else None
                cuda -= 1
                _check(case, program, opened[case.name], oracle, seed, report, emulated, say)
    finally:
        oracle.close()


def _emulated(case: Case, program: Program, report: Report):
    try:
        report.counts["emulated"] += 1
        return Emulated(program, edit=lambda source: source)
    except Unsupported:
        return None
    except Exception as error:
        report.failures.append(Failure(case, "CUDA", crash(error)))
        return None


def _check(case, program, made, oracle, seed, report, emulated, say) -> None:
    for request in requests(case, seed):
        say(stage="TensorFlow", case=case.name)
        try:
            wanted = oracle(case, request.arrays)
        except Unanswered:
            report.counts["requests without an answer of TensorFlow"] += 1
            continue
        report.counts["requests"] += 1
        report.counts["refused"] += isinstance(wanted, Refused)
        all_stages = list(stages(program, made, request))
        if emulated is not None and max(request.sizes) <= 9:
            all_stages.append(("CUDA emulated", emulated))
        say(stage="calls", case=case.name)
        for stage, function in all_stages:
            report.counts["answers"] += 1
            try:
                what = compare(case, answer(function, request.arrays), wanted, request)
            except Exception as error:
                what = crash(error)
            if what:
                what = f"{what} at sizes {request.sizes}{', wild' if request.wild else ''}"
                report.failures.append(Failure(case, stage, what))
                return
