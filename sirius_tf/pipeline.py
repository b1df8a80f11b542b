# SPDX-License-Identifier: Apache-2.0
"""The passes of the compiler in running order, all from Program to Program, and their runner.

A new pass is a function in a module of its own and a line of PASSES.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Literal

from sirius_tf.errors import SiriusError
from sirius_tf.ir.program import Program
from sirius_tf.ir.verify import verify
from sirius_tf.poly.dependence import Flow, check_defined, check_single_assignment, flow
from sirius_tf.poly.scop import extract
from sirius_tf.schedule.hoist import release
from sirius_tf.schedule.layout import lay_out
from sirius_tf.schedule.machine import ALL, CPU, Machine, ScheduleOptions, Target
from sirius_tf.schedule.overlap import overlap
from sirius_tf.schedule.split_k import in_pieces
from sirius_tf.schedule.versions import number_versions
from sirius_tf.schedule.wavefront import wavefronts
from sirius_tf.transform.epilogue import finish_reductions
from sirius_tf.transform.lookup_sums import pick_sums
from sirius_tf.transform.powers import multiply_out
from sirius_tf.transform.reroll import reroll
from sirius_tf.transform.scale_weights import scale_weights
from sirius_tf.transform.simplify import simplify
from sirius_tf.transform.split_dims import split
from sirius_tf.transform.winograd import winograd

Rounding = Literal["none", "order", "more"]
"""The change of a pass to floating-point results: none, that of another order of the terms of sums,
or another one (which `strict_math` forbids)."""


@dataclass(frozen=True)
class Context:
    """The input of passes beside the program: the target, the switches, and dependences.

    These are of `program`, the last one whose statements had other instances or flows. They are
    found when they are first asked for.
    """

    program: Program
    machine: Machine = CPU
    options: ScheduleOptions = ALL

    @cached_property
    def flows(self) -> tuple[Flow, ...]:
        """The flow dependences of the program; VerifyError unless every element that is read is
        defined, and none is defined twice."""
        scop = extract(self.program)
        check_single_assignment(scop)
        check_defined(scop)
        return flow(scop)


@dataclass(frozen=True)
class Pass:
    """A step from a program to an equal one.

    `keeps_flows`: instances of statements need each other as before.
    """

    name: str
    apply: Callable[[Program, Context], Program]
    rounding: Rounding = "none"
    targets: tuple[Target, ...] = ("cpu", "cuda")
    keeps_flows: bool = False


def _wavefronts(program: Program, context: Context) -> Program:
    """The program with wavefronts, which are of what hoisting leaves of loops."""
    if not context.options.hoist:
        return program
    return wavefronts(program, context.flows, context.machine)


PASSES = (
    Pass("reroll", lambda p, c: reroll(p)),
    Pass("simplify", lambda p, c: simplify(p)),
    Pass("powers", lambda p, c: multiply_out(p), "more"),
    Pass("lookup_sums", lambda p, c: pick_sums(p), "order"),
    Pass("split_dims", lambda p, c: split(p)),
    Pass("epilogue", lambda p, c: finish_reductions(p), "order"),
    Pass("scale_weights", lambda p, c: scale_weights(p), "more"),
    Pass("winograd", lambda p, c: winograd(p), "more"),
    # What repeated work costs blocks is not known.
    Pass("overlap", lambda p, c: overlap(p, c.machine.workers), targets=("cpu",)),
    Pass("versions", lambda p, c: number_versions(p), targets=("cpu",)),
    Pass("hoist", lambda p, c: release(p, c.flows), keeps_flows=True),
    Pass("split_k", lambda p, c: in_pieces(p, c.machine), "order", targets=("cuda",)),
    Pass("wavefront", _wavefronts, keeps_flows=True),
    Pass("layout", lambda p, c: lay_out(p, c.machine), keeps_flows=True),
)


@dataclass(frozen=True)
class Pipeline:
    """The passes that are run, and the switches of the scheduler behind them."""

    passes: tuple[Pass, ...] = PASSES
    options: ScheduleOptions = ALL

    def without(self, names: Collection[str]) -> Pipeline:
        """The pipeline without some passes and parts of the scheduler; SiriusError if one of the
        names is not known."""
        switches = asdict(self.options)
        known = {*(p.name for p in PASSES), *switches}
        for name in names:
            if name not in known:
                choice = ", ".join(sorted(known))
                raise SiriusError(f"there is no '{name}' that can be left out, but {choice}")
        passes = tuple(p for p in self.passes if p.name not in names)
        options = {name: on and name not in names for name, on in switches.items()}
        return Pipeline(passes, ScheduleOptions(**options))

    def strict(self) -> Pipeline:
        """The pipeline without passes that do more to sums than take their terms in another
        order."""
        return self.without([p.name for p in self.passes if p.rounding == "more"])

    def names(self, target: Target) -> tuple[str, ...]:
        """Names of the passes for a target, and of the switches: all that can be left out."""
        passes = (p.name for p in self.passes if target in p.targets)
        return tuple(dict.fromkeys((*passes, *asdict(self.options))))

    def before(self, name: str) -> Pipeline:
        """The passes that run before one."""
        names = [p.name for p in self.passes]
        return replace(self, passes=self.passes[: names.index(name)])


PIPELINE = Pipeline()
STRICT = PIPELINE.strict()


@dataclass(frozen=True)
class Step:
    """A pass that has run, its place among those of the target, and the seconds that it took."""

    number: int
    name: str
    rounding: Rounding
    before: Program
    after: Program
    seconds: float

    @cached_property
    def changed(self) -> bool:
        """Whether the pass found something to do."""
        return self.after != self.before


Observer = Callable[[Step], None]


def run(
    program: Program,
    machine: Machine = CPU,
    pipeline: Pipeline = PIPELINE,
    watching: Collection[Observer] = (),
) -> tuple[Program, Context]:
    """The program behind all passes for a machine, and the context, which has its dependences.

    Observers are shown every pass.
    """
    verify(program)
    context = Context(program, machine, pipeline.options)
    for number, one in enumerate(p for p in pipeline.passes if machine.target in p.targets):
        start = time.perf_counter()
        after = one.apply(program, context)
        seconds = time.perf_counter() - start
        for observe in watching:
            observe(Step(number, one.name, one.rounding, program, after, seconds))
        if after is not program and not one.keeps_flows:
            context = replace(context, program=after)
        program = after
    return program, context
