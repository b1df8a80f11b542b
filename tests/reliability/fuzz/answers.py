# SPDX-License-Identifier: Apache-2.0
"""What the stages of this compiler answer, beside TensorFlow."""

from __future__ import annotations

import contextlib
import functools
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
from sirius_tf.lower.ops.movement import NOTHING
from sirius_tf.runtime import native
from sirius_tf.transform.simplify import simplify
from tests.reliability.fuzz.batch import bundles
from tests.reliability.fuzz.case import Case, feeds, sizes_of
from tests.reliability.fuzz.oracle import Oracle, Refused, Shaken, Unanswered, denormal, differences
from tests.support.emulated import Emulated

SIZES = ((3, 2), (1, 1), (0, 3), (2, 0), (9, 5), (33, 17))
INTERPRETED = 3  # the greatest size for which the interpreter is asked
WORKERS = (1, 2, 4)
# TensorFlow divides the least integer by -1, and dies; what it does with NaN, and in Atan2, Log
# and Pow with denormals, depends on their place
_TAME = {"Div", "FloorDiv", "FloorMod", "TruncateDiv", "TruncateMod"}
_TAME |= {
    "ClipByValue",
    "MaxPool",
    "MaxPool3D",
    "TopKV2",
    "Atan2",
    "Log",
    "Pow",
    "RGBToHSV",
    "Xlogy",
}


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

    @property
    def effect(self) -> str:
        """The worst that it may do to a user."""
        if " alone refuse: " in self.what:
            return "refused by one only"
        return "wrong" if self.what.startswith(("output ", "other bits")) else "crashed"


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


def _is_of_its_own(node) -> bool:
    """Whether TensorFlow's op of this type is another function at the ends of types: erf of float64
    is NaN where x * x is infinite, and 1 or -1 here, as in numpy; a product of float16 overflows,
    or not, by the order of its factors; a denormal bfloat16 is no zero if it becomes a bool."""
    if node.op == "Cast" and node.attr["DstT"].type == tf.bool.as_datatype_enum:
        return node.attr["SrcT"].type == tf.bfloat16.as_datatype_enum
    dtype = {"Erf": tf.float64, "Prod": tf.float16}.get(node.op)
    return dtype is not None and node.attr["T"].type == dtype.as_datatype_enum


def requests(case: Case, seed: int) -> list[Request]:
    rng = np.random.default_rng((seed, *case.name.encode()))
    found = [Request(s, feeds(case, sizes_of(*s), rng)) for s in SIZES]
    if not any(n.op in _TAME or _is_of_its_own(n) for n in case.nodes):
        found.append(Request((5, 4), feeds(case, sizes_of(5, 4), rng, True), True))
    return found


def quiet(**at: object) -> None:
    """Where a check is matters to nobody."""


def programs(cases: Sequence[Case], report: Report, say=quiet) -> list[tuple[Case, Program]]:
    """The cases that can be lowered."""
    found = []
    for number, case in enumerate(cases):
        say(stage="lowering", case=case.name)
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


def kernels(made: Sequence[tuple[Case, Program]], report: Report, say=quiet) -> dict[str, Kernel]:
    found = {}
    for number, (case, program) in enumerate(made):
        say(stage="compiling", case=case.name)
        try:
            found[case.name] = compile_program(program, WORKERS[number % 3])
        except Unsupported as error:
            report.counts["left on TensorFlow"] += 1
            report.unsupported[f"{error.op}: {error.reason}"] += 1
        except Exception as error:
            report.failures.append(Failure(case, "compile", crash(error)))
    return found


def linked(
    made: dict[str, Kernel], cases, report: Report, level: str
) -> dict[str, dict[str, native.Bundle]]:
    """The bundles of each case, one for all where the compiler takes all."""
    if not made:
        return {}
    try:
        return dict.fromkeys(made, bundles(list(made.values()), level))
    except SiriusError as error:
        if len(made) == 1:
            (name,) = made
            case = next(c for c in cases if c.name == name)
            report.failures.append(Failure(case, "clang", f"CompilerError: {error}"[:2000]))
            return {}
    halves = list(made.items())
    middle = len(halves) // 2
    parts = (linked(dict(h), cases, report, level) for h in (halves[:middle], halves[middle:]))
    return {name: found for part in parts for name, found in part.items()}


Answer = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


def codes(name: str, made: dict[str, native.Bundle]) -> dict[str, Answer]:
    """What answers with the same bits: code for each instruction set and number of workers."""
    return {
        f"C {isa}, {workers} workers": partial(_called, bundle, name, workers)
        for isa, bundle in made.items()
        for workers in WORKERS
    }


def _called(bundle: native.Bundle, name: str, workers: int, arrays) -> list[np.ndarray]:
    with native.exactly(workers):
        return bundle.call(name, arrays)


def _interpreted(program: Program, arrays) -> list[np.ndarray]:
    return list(interp.run(program, dict(zip(program.inputs, arrays, strict=True))))


def answer(stage: Answer, arrays: Sequence[np.ndarray]) -> list[np.ndarray] | Refused:
    try:
        return [np.asarray(x) for x in stage(arrays)]
    except InvalidArgument as error:
        return Refused(str(error))


def compare(
    given: list[np.ndarray] | Refused,
    wanted,
    spread: Callable[[], list[np.ndarray]],
    narrow: frozenset[str],
) -> str:
    """What is wrong with an answer, or nothing. What a check that is `narrow` refuses, the original
    ops answer, and reshapes of nothing are refused (docs/reliability.md)."""
    if isinstance(given, Refused) and (given.message in narrow or given.message.endswith(NOTHING)):
        return ""
    if isinstance(given, Refused) or isinstance(wanted, Refused):
        return refusals(given, wanted, "we", "TensorFlow")
    return differences(given, wanted) and differences(given, wanted, spread())


def refusals(given, wanted, us: str, them: str) -> str:
    """Who alone refuses, or nothing if both do."""
    if isinstance(given, Refused) and isinstance(wanted, Refused):
        return ""
    who, refused = (us, given) if isinstance(given, Refused) else (them, wanted)
    return f"{who} alone refuse: {refused.message}"


def same(given: list[np.ndarray] | Refused, first) -> str:
    """Where an answer of code is not that of other code, bit by bit, or nothing."""
    if isinstance(given, Refused) or isinstance(first, Refused):
        return refusals(given, first, "these", "the others")
    if all(x.tobytes() == y.tobytes() for x, y in zip(given, first, strict=True)):
        return ""
    found = differences(given, first, unit=denormal)  # NaN has a sign of its own
    return found and f"other bits, {found}"


def check(
    cases: Sequence[Case],
    seed: int,
    report: Report,
    cuda: int = 0,
    say: Callable[..., None] = quiet,
    level: str = "-O0",
) -> None:
    """Answer requests of some graphs by all stages; `cuda` of them in the emulator, too. `say` is
    told where this is; clang optimizes as `level` says."""
    for case in cases:
        report.counts["graphs"] += 1
        report.ops.update(set(case.ops))
    made = programs(cases, report, say)
    compiled = kernels(made, report, say)
    say(stage="clang")
    opened = linked(compiled, cases, report, level)
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
    narrow = frozenset(check.message for check in program.checks if check.narrow)
    needed = simplify(program)  # what is not needed need not succeed
    code, shaken = codes(program.name, made), Shaken(case)
    with contextlib.closing(shaken):
        for request in requests(case, seed):
            say(stage="TensorFlow", case=case.name)
            try:
                wanted = oracle(case, request.arrays)
            except Unanswered:
                report.counts["requests without an answer of TensorFlow"] += 1
                continue
            report.counts["requests"] += 1
            report.counts["refused"] += isinstance(wanted, Refused)
            asked = dict(code)
            if max(request.sizes) <= INTERPRETED and not request.wild:
                asked = {"interpreter": partial(_interpreted, needed), **code}
            if emulated is not None and max(request.sizes) <= 9:
                asked["CUDA emulated"] = emulated
            say(stage="calls", case=case.name)
            spread = functools.cache(partial(shaken.spread, request.arrays, wanted))
            judge = partial(compare, wanted=wanted, spread=spread, narrow=narrow)
            stage, what = _fault(asked, code, request.arrays, judge, report.counts)
            if what:
                what = f"{what} at sizes {request.sizes}{', wild' if request.wild else ''}"
                report.failures.append(Failure(case, stage, what))
                return


def _fault(asked, code, arrays, judge, counts) -> tuple[str, str]:
    """The first stage that answers wrongly, and how; the code of all must answer alike."""
    first = None
    for stage, function in asked.items():
        counts["answers"] += 1
        try:
            given = answer(function, arrays)
            alike = first is not None and stage in code
            what = same(given, first) if alike else judge(given)
        except Exception as error:
            what = crash(error)
        if what:
            return stage, what
        if stage in code:
            first = given
    return "", ""
