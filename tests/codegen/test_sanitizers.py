# SPDX-License-Identifier: Apache-2.0
"""Generated code and the host's under sanitizers: no access outside of an array or the workspace,
no overflow, and the right results, by one, two and three workers."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from sirius_tf.compile import compile_program
from sirius_tf.ir import interp
from sirius_tf.ir.expr import Const
from sirius_tf.ir.program import Reduce
from tests.support import programs, sanitized
from tests.support.arrays import assert_close
from tests.support.programs import (
    B,
    F,
    b,
    call,
    i,
    index,
    it,
    j,
    k,
    load,
    param,
    program,
    stmt,
    symbol,
    tensor,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("gcc"), reason="gcc has the sanitizers' runtimes"),
]
SIZES = ({"B": 1, "T": 1}, {"B": 7, "T": 33}, {"B": 33, "T": 7})


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    return sanitized.build_host(tmp_path_factory.mktemp("host"))


def layers(width=70):
    """Two layers: what is between them is needed row by row, and every worker has some rows."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((width, width)).astype(F) / width for _ in range(2)]
    constants = [
        tensor(name, [width, width], role="constant", value=value)
        for name, value in zip("uv", weights, strict=True)
    ]
    over, box = Reduce("add", (it("k", width),)), [it("b", B), it("i", width)]
    return program(
        "layers",
        [param("B", "x", 0)],
        [
            tensor("x", [B, width], role="input"),
            *constants,
            *(tensor(name, [B, width]) for name in ("p", "h", "q")),
            tensor("y", [B, width], role="output"),
        ],
        [
            stmt("p1", box, "p", [b, i], call("mul", load("x", b, k), load("u", k, i)), over),
            stmt("h1", box, "h", [b, i], call("tanh", load("p", b, i))),
            stmt("q1", box, "q", [b, i], call("mul", load("h", b, k), load("v", k, i)), over),
            stmt("y1", box, "y", [b, i], call("tanh", load("q", b, i))),
        ],
        [B, width],
    )


def shifted(width=37):
    """Sums of neighbours, and a transposed copy: strides, and vectors that end early."""
    inner = [it("b", B), it("i", width - 2)]
    value = call("add", load("x", b, i), load("x", b, i + 2))
    return program(
        "shifted",
        [param("B", "x", 0)],
        [
            tensor("x", [B, width], role="input"),
            tensor("s", [B, width - 2]),
            tensor("y", [width - 2, B], role="output"),
        ],
        [
            stmt("s1", inner, "s", [b, i], call("mul", value, Const(0.5, F))),
            stmt("y1", [it("j", width - 2), it("b", B)], "y", [j, b], load("s", b, j)),
        ],
        [width - 2, B],
    )


def random_inputs(made, sizes):
    rng = np.random.default_rng(1)
    found = {}
    for name in made.inputs:
        shape = [e.evaluate(sizes) for e in made.tensor[name].shape]
        whole = made.tensor[name].dtype == "int32"  # numbers of rows
        values = rng.integers(0, 4, shape) if whole else rng.standard_normal(shape)
        found[name] = np.asarray(values, made.tensor[name].dtype)
    return found


@pytest.mark.parametrize(
    ("make", "isa"),
    [
        (programs.dense, "v3"),
        (programs.dense, "v4"),
        (programs.softmax, "v3"),
        (programs.lstm, "v3"),
        (programs.lstm, "v4"),
        (programs.growth, "v3"),
        (programs.gather, "v4"),
        (layers, "v3"),
        (layers, "v4"),
        (shifted, "v3"),
        (shifted, "v4"),
    ],
)
def test_programs(host, tmp_path, make, isa) -> None:
    made = make()
    built = sanitized.build(compile_program(made), host, tmp_path / "built", isa)
    for sizes in SIZES:
        inputs = random_inputs(made, sizes)
        wanted = interp.run(made, inputs)
        for results in built.call(list(inputs.values())):
            assert_close(results, wanted, 1e-4)


def test_an_empty_batch(host, tmp_path) -> None:
    made = programs.softmax()
    built = sanitized.build(compile_program(made), host, tmp_path / "built", "v3")
    for (result,) in built.call(list(random_inputs(made, {"B": 0}).values())):
        assert result.shape == (0, 5)


@pytest.mark.parametrize("make", [programs.lstm, layers])
def test_callers_at_once_do_not_race(tmp_path, make) -> None:
    """Of three threads one has the team, and the others are alone or wait."""
    made = make()
    host = sanitized.build_host(tmp_path, sanitized.THREADS)
    built = sanitized.build(
        compile_program(made), host, tmp_path / "built", "v3", sanitized.THREADS
    )
    inputs = random_inputs(made, {"B": 33, "T": 7})
    for results in built.call(list(inputs.values()), workers=[1, -2, -3]):
        assert_close(results, interp.run(made, inputs), 1e-4)


def test_a_workspace_without_room_for_all_workers_is_found(host, tmp_path) -> None:
    """Each has rows of its own between the layers."""
    made = layers()
    kernel = compile_program(made)
    head, brace, body = kernel.plan.partition(" {\n")
    kernel = replace(kernel, plan=f"{head}{brace}  threads = 1;\n{body}")
    built = sanitized.build(kernel, host, tmp_path / "built", "v3")
    inputs = list(random_inputs(made, {"B": 33}).values())
    assert len(built.call(inputs, workers=[1])) == 1
    with pytest.raises(sanitized.SanitizerError, match="heap-buffer-overflow"):
        built.call(inputs, workers=[2])


def test_nothing_is_read_of_a_table_without_rows(host, tmp_path) -> None:
    """The call fails, since there is no row 0, and not by reading it."""
    rows = symbol("R")
    at = call("bounded", load("ids", b, dtype="int32"), index(rows, "int32"), dtype="int32")
    made = program(
        "lookup",
        [param("B", "ids", 0), param("R", "table", 0)],
        [
            tensor("ids", [B], "int32", "input"),
            tensor("table", [rows, 9], role="input"),
            tensor("y", [B, 9], role="output"),
        ],
        [stmt("S", [it("b", B), it("i", 9)], "y", [b, i], load("table", at, i))],
        [B, 9],
    )
    built = sanitized.build(compile_program(made), host, tmp_path / "built", "v3")
    ids, table = np.zeros(5, "int32"), np.ones((1, 9), F)
    for (result,) in built.call([ids, table]):
        np.testing.assert_array_equal(result, np.ones((5, 9), F))
    with pytest.raises(sanitized.SanitizerError, match=r"^1: index 0 is not in \[0, 0\)"):
        built.call([ids, table[:0]])
