# SPDX-License-Identifier: Apache-2.0
"""Whether a bisection names the pass, the statement and the element that are wrong first."""

from dataclasses import replace

import numpy as np
import pytest

from sirius_tf.debug import code, reproducer
from sirius_tf.debug.code import in_code
from sirius_tf.debug.differences import wrong
from sirius_tf.debug.passes import in_passes
from sirius_tf.debug.reproducer import Case, bisect, load, needed, reduced, save
from sirius_tf.errors import SiriusError
from sirius_tf.ir.expr import Const
from sirius_tf.ir.interp import run, trace
from sirius_tf.ir.verify import verify
from sirius_tf.ir.widen import widened
from sirius_tf.pipeline import PASSES, Pipeline
from sirius_tf.schedule.machine import cpu
from tests.support import programs
from tests.support.programs import F, b, call, i, lstm, t
from tests.support.programs import load as element


def inputs(program, size=4):
    rng = np.random.default_rng(0)
    sizes = {"B": size, "T": size}
    shapes = {n: [e.evaluate(sizes) for e in program.tensor[n].shape] for n in program.inputs}
    return {
        name: rng.integers(0, 4, shape).astype("int32")
        if program.tensor[name].dtype == "int32"
        else rng.standard_normal(shape).astype(F)
        for name, shape in shapes.items()
    }


def changed(name, **fields):
    """A change of the statement of that name, if there is one."""

    def change(program):
        return replace(
            program,
            statements=tuple(
                replace(s, **fields) if s.name == name else s for s in program.statements
            ),
        )

    return change


def spoiled(name, change):
    """All passes, of which one makes a mistake as well."""

    def apply(one):
        return replace(one, apply=lambda p, c: change(one.apply(p, c)))

    return Pipeline(tuple(apply(p) if p.name == name else p for p in PASSES))


SLIGHTLY = call("mul", call("tanh", element("c", t + 1, b, i)), Const(1.0001, F))


@pytest.mark.parametrize("make", [programs.dense, programs.softmax, lstm, programs.gather])
def test_nothing_is_found_where_nothing_is_wrong(make):
    assert bisect(Case(make(), inputs(make()))) is None
    assert bisect(Case(make(), inputs(make()), arch="sm_90")) is None


@pytest.mark.parametrize("name", ["reroll", "winograd", "hoist", "layout"])
def test_the_pass_the_statement_and_the_element_are_named(name):
    found = in_passes(lstm(), inputs(lstm()), passes=spoiled(name, changed("h1", value=SLIGHTLY)))
    assert found.stage == name and found.tensor == "h"
    assert found.problem.startswith("h[1, 0, 0] is ")  # in the first iteration
    assert found.statement.startswith("h1: h[t + 1, b, i] = tanh(c[t + 1, b, i]) * 1.0001   for")


def test_less_than_rounding_is_no_mistake():
    tiny = call("mul", element("x", b), Const(1 + 2.0**-30, F))
    program = programs.copy()
    quiet = spoiled("simplify", changed("S", value=tiny))
    assert in_passes(program, inputs(program), passes=quiet) is None


def test_a_program_that_is_not_sound_is_found_without_a_run():
    def twice(program):
        again = replace(program.statements[0], name="again")
        return replace(program, statements=(*program.statements, again))

    found = in_passes(lstm(), inputs(lstm()), passes=spoiled("split_dims", twice))
    assert found.stage == "split_dims" and "define the same element" in found.problem


def test_a_pass_that_fails_is_found():
    def fail(program):
        raise ZeroDivisionError("of no rows")

    found = in_passes(lstm(), inputs(lstm()), passes=spoiled("overlap", fail))
    assert (found.stage, found.problem) == ("overlap", "ZeroDivisionError: of no rows")


def test_code_that_is_wrong_is_found(monkeypatch):
    printed = code.print_kernel

    def mistaken(scheduled):
        kernel = printed(scheduled)
        runs = kernel.runs.items()
        return replace(kernel, runs={k: c.replace("sr_exp(", "sr_expm1(") for k, c in runs})

    program = programs.softmax()
    assert in_code(program, inputs(program), cpu(2)) is None
    monkeypatch.setattr(code, "print_kernel", mistaken)
    found = in_code(program, inputs(program), cpu(2))
    assert found.stage == "code" and found.tensor == "e"
    assert found.statement.startswith("S1: e[b, i] = exp(x[b, i] - m[b])")


def test_a_case_is_written_read_and_made_smaller(tmp_path, monkeypatch):
    passes = spoiled("epilogue", changed("h1", value=SLIGHTLY))
    monkeypatch.setattr(reproducer, "PIPELINE", passes)
    case = Case(lstm(), inputs(lstm()), workers=1, without=("fusion",))
    found = bisect(case)
    small = reduced(case, found)
    assert set(small.without) == {p.name for p in PASSES} - {"epilogue"} | {"fusion"}
    assert [o.tensor for o in small.program.outputs] == ["h"]
    assert "out" not in {s.name for s in small.program.statements}
    save(small, tmp_path)
    again = load(tmp_path)
    assert again.program == small.program and again.without == small.without
    assert (again.arch, again.workers, again.tolerance) == ("", 1, 1e-5)
    assert str(bisect(again)) == str(bisect(small)) and bisect(again).stage == "epilogue"
    monkeypatch.undo()
    assert bisect(again) is None
    (tmp_path / "how.json").unlink()
    with pytest.raises(SiriusError, match="has no case that can be replayed"):
        load(tmp_path)


def test_what_a_tensor_needs():
    program = needed(programs.softmax(), "s")
    verify(program)
    assert {s.name for s in program.statements} == {"S0", "S1", "S2"}
    feed = inputs(program)
    np.testing.assert_array_equal(
        run(program, feed)[0], trace(programs.softmax(), feed).arrays["s"]
    )


def test_double_precision():
    program = widened(lstm())
    verify(program)
    feed = inputs(lstm())
    (exact,) = run(program, {name: x.astype("float64") for name, x in feed.items()})
    assert exact.dtype == np.float64
    np.testing.assert_allclose(run(lstm(), feed)[0], exact, rtol=1e-6)


def test_a_run_is_traced():
    found = trace(lstm(), inputs(lstm()))
    h, c = found.made["h"], found.made["c"]
    assert [found.log[k].name for k in (h[0, 0, 0], h[1, 0, 0], c[1, 0, 0])] == ["h0", "h1", "c1"]
    assert c[1, 0, 0] < h[1, 0, 0] < c[2, 0, 0] < h[2, 0, 0]


def test_differences():
    want = np.array([1.0, np.nan, np.inf, 0.0])
    assert not wrong(want, want, 0.0).any()
    got = np.array([1.1, 1.0, -np.inf, 0.05])
    assert wrong(got, want, 0.06).tolist() == [True, True, True, False]
    assert wrong(np.array([1, 2]), np.array([1, 3]), 9.0).tolist() == [False, True]
