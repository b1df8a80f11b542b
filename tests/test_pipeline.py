# SPDX-License-Identifier: Apache-2.0
"""Passes as data: which are run, what observers see of them, and what is left out."""

from dataclasses import replace

import numpy as np
import pytest

from sirius_tf import observers
from sirius_tf.compile import laid_out, schedule_program
from sirius_tf.errors import SiriusError, VerifyError
from sirius_tf.ir.interp import run as interpret
from sirius_tf.ir.parser import parse
from sirius_tf.mapping.targets import machine_of
from sirius_tf.pipeline import PASSES, PIPELINE, STRICT, Pass, Pipeline, run
from sirius_tf.schedule.machine import CPU
from tests.support import programs
from tests.support.programs import F, load, lstm, stmt

ALL = [programs.dense, programs.softmax, programs.lstm, programs.gather]


def inputs(program, size=4):
    rng = np.random.default_rng(0)
    sizes = {t.name: [e.evaluate({"B": size, "T": size}) for e in t.shape] for t in program.tensors}
    return {
        name: rng.integers(0, 4, sizes[name]).astype("int32")
        if program.tensor[name].dtype == "int32"
        else rng.standard_normal(sizes[name]).astype(F)
        for name in program.inputs
    }


@pytest.mark.parametrize("name", PIPELINE.names("cpu"))
@pytest.mark.parametrize("make", ALL)
def test_each_can_be_left_out(make, name):
    program, passes = make(), PIPELINE.without([name])
    scheduled = schedule_program(program, passes=passes)
    feed = inputs(program)
    for want, got in zip(interpret(program, feed), interpret(scheduled.program, feed), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)
    assert name not in {p.name for p in passes.passes}
    assert getattr(passes.options, name, False) is False


def test_what_is_left_out_stays_out():
    names = ["layout", "fusion", "hoist"]
    passes = PIPELINE.without(names[:2]).without(names[2:])
    assert not set(names) & {p.name for p in passes.passes}
    assert (passes.options.fusion, passes.options.hoist, passes.options.private) == (0, 0, 1)


def test_an_unknown_name_is_an_error_that_lists_those_there_are():
    with pytest.raises(SiriusError, match=r"no 'epilogues' .* epilogue, fusion, .* winograd"):
        PIPELINE.without(["layout", "epilogues"])


def test_strict_arithmetic_is_without_what_does_more_than_reorder():
    assert {p.name for p in PASSES} - {p.name for p in STRICT.passes} == {
        "powers",
        "scale_weights",
        "winograd",
    }


def test_targets_have_passes_of_their_own():
    def seen(machine):
        rows = []
        laid_out(lstm(), machine, watching=[observers.times(rows)])
        return [name for name, seconds, _ in rows if seconds >= 0]

    cpu, cuda = seen(CPU), seen(machine_of("sm_90"))
    assert {*cpu} - {*cuda} == {"overlap", "versions"}
    assert {*cuda} - {*cpu} == {"split_k"}
    assert cpu == [p.name for p in PASSES if p.name in cpu]


def test_what_changed_is_dumped_and_can_be_read_back():
    texts = {}
    program, _ = laid_out(lstm(), dump=texts.__setitem__)
    assert list(texts) == ["program", "epilogue"]
    assert parse(texts["program"]) == lstm()
    assert parse(texts["epilogue"]) == program
    title, *lines = texts["epilogue"].split("\nprogram")[0].splitlines()
    assert title == "# epilogue: 7 statements before, 6 now"
    assert [line[:8] for line in lines] == ["# - z: z", "# - hu: ", "# + z: z"]


def broken(change):
    """A pipeline with a pass that changes the statement h1, or adds one."""
    one = Pass("mistake", lambda p, c: replace(p, statements=change(*p.statements)))
    return Pipeline((*PASSES[:5], one, *PASSES[5:]))


def twice(*statements):
    return (*statements, replace(statements[1], name="again"))


def missing(*statements):
    return tuple(s for s in statements if s.name != "h0")


def unknown(*statements):
    return (*statements, stmt("S", [], "nothing", [], load("h", 0, 0, 0)))


@pytest.mark.parametrize(
    "change, message",
    [
        (twice, "h1 and again define"),
        (missing, "out reads what nothing defines"),
        (unknown, "nothing is no tensor"),
    ],
)
def test_a_pass_that_breaks_a_program_is_named(monkeypatch, change, message):
    monkeypatch.setenv("SIRIUS_CHECK", "1")
    with pytest.raises(VerifyError, match=f"behind the pass mistake: (.|\n)*({message})"):
        laid_out(lstm(), passes=broken(change))


def test_dependences_are_those_of_the_last_program_that_has_others():
    def shorter(*statements):
        """y is of h[0], not of h[T]."""
        first = load("h", 0, programs.b, programs.i)
        return tuple(replace(s, value=first) if s.name == "out" else s for s in statements)

    _, context = run(lstm(), pipeline=broken(shorter))
    assert {f.source for f in context.flows if f.sink == "out"} == {"h0"}
    kept = replace(broken(shorter).passes[5], keeps_flows=True)
    late = Pipeline((*PASSES[:10], kept, *PASSES[10:]))  # behind what has asked for dependences
    _, context = run(lstm(), pipeline=late)
    assert {f.source for f in context.flows if f.sink == "out"} == {"h0", "h1"}
