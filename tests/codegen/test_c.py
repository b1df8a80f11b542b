# SPDX-License-Identifier: Apache-2.0
"""Programs through every stage to a bundle that runs, against the interpreter."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sirius_tf.bundle.link import link
from sirius_tf.codegen.cpu.kernel import print_run
from sirius_tf.codegen.entry import print_plan
from sirius_tf.compile import compile_program, schedule_program
from sirius_tf.errors import DeadlineExceeded, InvalidArgument
from sirius_tf.ir import interp
from sirius_tf.ir.expr import Const, substitute
from sirius_tf.ir.program import Program, Reduce
from sirius_tf.pipeline import PIPELINE
from sirius_tf.runtime import limited, native
from sirius_tf.tools.perf import traffic
from tests.support import programs, workers
from tests.support.programs import (
    B,
    F,
    T,
    b,
    call,
    i,
    it,
    j,
    k,
    load,
    param,
    program,
    random_inputs,
    stmt,
    t,
    tensor,
)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")

    def build_one(program: Program) -> native.Bundle:
        path: Path = folder / f"{program.name}.so"
        if not path.exists():
            link([compile_program(program)], path, {"program": program.name})
        return native.Bundle(path)

    return build_one


@pytest.mark.parametrize("sizes", [{"B": 1, "T": 1}, {"B": 7, "T": 33}, {"B": 33, "T": 7}])
@pytest.mark.parametrize("make", [programs.dense, programs.softmax, programs.lstm])
def test_a_bundle_computes_what_the_interpreter_does(compiled, make, sizes) -> None:
    program = make()
    inputs = random_inputs(program, sizes)
    wanted = interp.run(program, inputs)
    got = workers.call(compiled(program), program.name, list(inputs.values()))
    for want, have in zip(wanted, got, strict=True):
        np.testing.assert_allclose(have, want, rtol=2e-5, atol=2e-5)


def fixed(program: Program, sizes: dict[str, int]) -> Program:
    """The program for one size of everything."""

    def iters(box):
        return tuple(replace(i, extent=i.extent.substitute(sizes)) for i in box)

    statements = tuple(
        replace(
            s,
            iters=iters(s.iters),
            reduce=replace(s.reduce, iters=iters(s.reduce.iters)) if s.reduce else None,
        )
        for s in program.statements
    )
    tensors = tuple(
        replace(t, shape=tuple(e.substitute(sizes) for e in t.shape)) for t in program.tensors
    )
    outputs = tuple(
        replace(o, shape=tuple(substitute(e, sizes) for e in o.shape)) for o in program.outputs
    )
    return replace(
        program, params=(), context=(), tensors=tensors, statements=statements, outputs=outputs
    )


@pytest.mark.parametrize("rows", [4, 64])
def test_statements_of_a_tile_are_one_workers(compiled, rows) -> None:
    """isl takes a loop of a single iteration apart, a statement at a time."""
    program = replace(fixed(programs.softmax(), {"B": rows}), name=f"softmax{rows}")
    run = print_run(schedule_program(program), "v3")
    assert run.count("worker +") == 0 and run.count("== 0 &&") + run.count("mine = worker;") >= 1
    inputs = random_inputs(program, {})
    (wanted,) = interp.run(program, inputs)
    (got,) = workers.call(compiled(program), program.name, list(inputs.values()))
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5)


def votes() -> Program:
    """In every step all rows are weighed by all of z, and each row takes up the result."""
    loop, row = it("t", T, loop=True), it("b", B)
    both, total = Reduce("add", (it("j", B), it("k", T))), load("total", t)
    weighed = call("mul", load("h", t, j), load("z", k))
    result = call("mul", call("tanh", call("mul", total, Const(1e-3, F))), load("z", t))
    halved = call("mul", load("h", t, b), Const(0.5, F))
    return program(
        "votes",
        [param("B", "x", 0), param("T", "z", 0)],
        [
            tensor("x", [B], role="input"),
            tensor("z", [T], role="input"),
            tensor("h", [T + 1, B]),
            tensor("total", [T]),
            tensor("y", [B], role="output"),
        ],
        [
            stmt("h0", [row], "h", [0, b], load("x", b)),
            stmt("sum", [loop], "total", [t], weighed, both),
            stmt("h1", [loop, row], "h", [t + 1, b], call("add", halved, result)),
            stmt("out", [row], "y", [b], load("h", T, b)),
        ],
        [B],
    )


@pytest.mark.parametrize("rows", [0, 1, 16, 40])
def test_phases_that_one_worker_runs_alone_have_no_barrier_between(compiled, rows) -> None:
    run = print_run(schedule_program(votes()), "v3")
    assert run.count("> 16) {\n      sirius_barrier(call);") == 1
    assert run.count("sirius_barrier(call);") == 3
    inputs = random_inputs(votes(), {"B": rows, "T": 300})
    (wanted,) = interp.run(votes(), inputs)
    (got,) = workers.call(compiled(votes()), "votes", list(inputs.values()))
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5)


def layers(width=512):
    """Two products one after the other: those of a tile take long."""
    over, box = Reduce("add", (it("k", width),)), [it("b", B), it("i", width)]
    return program(
        "layers",
        [param("B", "x", 0)],
        [
            tensor("x", [B, width], role="input"),
            tensor("u", [width, width], role="input"),
            tensor("h", [B, width]),
            tensor("y", [B, width], role="output"),
        ],
        [
            stmt("h1", box, "h", [b, i], call("mul", load("x", b, k), load("u", k, i)), over),
            stmt("y1", box, "y", [b, i], call("mul", load("h", b, k), load("u", k, i)), over),
        ],
        [B, width],
    )


def test_a_call_ends_within_a_tile_whose_statements_take_long(compiled) -> None:
    tile, second = "layers_v3_leaf0(call,", "/* y1 */"
    run = print_run(schedule_program(layers()), "v3").split("void layers_run_v3")[1]
    first, _, rest = run.partition("/* h1 */")
    assert tile in first and "goto left;" in first
    assert "goto left;" in rest.partition(second)[0] and "left:;" in rest.partition(second)[2]
    inputs = random_inputs(layers(), {"B": 33})
    (wanted,) = interp.run(layers(), inputs)
    (got,) = workers.call(compiled(layers()), "layers", list(inputs.values()))
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)
    with pytest.raises(DeadlineExceeded), native.exactly(1), limited(1e-6):
        compiled(layers()).call("layers", list(inputs.values()))


def test_empty_batch(compiled) -> None:
    program = programs.softmax()
    (got,) = compiled(program).call("softmax", list(random_inputs(program, {"B": 0}).values()))
    assert got.shape[0] == 0


def test_gather_out_of_range_is_an_error(compiled) -> None:
    program = programs.gather()
    bundle = compiled(program)
    inputs = random_inputs(program, {"B": 5})
    inputs["ids"] = np.array([3, 0, 1, 3, 2], "int32")
    (want,) = interp.run(program, inputs)
    (got,) = bundle.call("gather", list(inputs.values()))
    np.testing.assert_array_equal(got, want)
    inputs["ids"][2] = 4
    with pytest.raises(InvalidArgument, match=r"index 4 is not in \[0, 4\)"):
        bundle.call("gather", list(inputs.values()))


def test_a_wrong_extent_is_an_error(compiled) -> None:
    program = programs.dense()
    inputs = random_inputs(program, {"B": 2})
    name = program.inputs[0]
    inputs[name] = inputs[name][:, :-1]
    with pytest.raises(InvalidArgument, match="has extent 498 on axis 1, not 499"):
        compiled(program).call("dense", list(inputs.values()))


def test_a_bundle_without_folding_needs_more_workspace(compiled) -> None:
    """The folded state is what makes the workspace independent of the number of steps."""

    def bytes_of(scheduled, steps):
        params = (replace(p, hint=steps if p.name == "T" else 2) for p in program.params)
        hinted = replace(scheduled.program, params=tuple(params))
        return traffic.workspace(replace(scheduled, program=hinted))

    program = programs.lstm()
    folded = schedule_program(program)
    assert any(w[0] == 2 for w in folded.storage.windows.values())
    whole = replace(folded, storage=replace(folded.storage, windows={}))
    states = [name for name, (steps, *_) in folded.storage.windows.items() if steps == 2]
    for name in states:
        t = folded.program.tensor[name]
        assert "T" in str(whole.storage.shape(t)[0]) and str(folded.storage.shape(t)[0]) == "2"
    assert bytes_of(whole, 90) - bytes_of(whole, 50) > bytes_of(folded, 90) - bytes_of(folded, 50)
    assert print_plan(whole) != print_plan(folded)
    assert print_run(whole, "v3") != print_run(folded, "v3")


def test_what_no_statement_touches_has_no_place() -> None:
    """Where `simplify` is left out, loops over lists leave such temporaries."""
    program = programs.dense()
    program = replace(program, tensors=(*program.tensors, tensor("untouched", [4])))
    scheduled = schedule_program(program, passes=PIPELINE.without(["simplify"]))
    assert "untouched" in scheduled.program.tensor
    assert "untouched" not in print_run(scheduled, "v3")


def test_names_of_c_and_of_generated_code_are_fine_for_tensors(tmp_path) -> None:
    x, e, y = (
        tensor(n, [T, 5], role=r) for n, r in (("int", "input"), ("c0", "temp"), ("y", "output"))
    )
    box = [it("i", T), it("j", 5)]
    total = call("add", load("c0", i, 4 - j), load("c0", i, j))
    made = program(
        "names",
        [param("T", "int", 0)],
        (x, e, y),
        [
            stmt("worker", box, "c0", (i, j), call("exp", load("int", i, j))),
            stmt("call", box, "y", (i, j), total),
        ],
        (T, 5),
    )
    link([compile_program(made)], tmp_path / "names.so", {})
    feed = np.random.default_rng(0).standard_normal((3, 5)).astype("f")
    (want,) = interp.run(made, {"int": feed})
    (have,) = native.Bundle(tmp_path / "names.so").call("names", [feed])
    np.testing.assert_allclose(have, want, rtol=1e-6)
