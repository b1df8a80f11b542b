# SPDX-License-Identifier: Apache-2.0
"""Parts of the printers by themselves, which need no compiler to be seen right."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from sirius_tf.codegen.context import Context, Isa, divides
from sirius_tf.codegen.cuda.copies import c_type
from sirius_tf.codegen.cuda.geometry import print_geometry
from sirius_tf.codegen.function import indented
from sirius_tf.codegen.spmd import printable
from sirius_tf.compile import schedule_program
from sirius_tf.ir.affine import symbol
from sirius_tf.mapping.half_weights import in_half, rounded
from sirius_tf.mapping.targets import machine_of
from sirius_tf.nest.nodes import Phase, walk
from sirius_tf.schedule.plan import PANEL, Plan
from sirius_tf.schedule.storage import Storage, Words
from tests.support import programs
from tests.support.programs import call, i, load

pytestmark = pytest.mark.ir

AVX2 = Isa(8, 6, {1: 8, 2: 4, 6: 2})


def context(program, plan=None):
    return Context(program, program.statements[0], plan or Plan(None), AVX2, Storage(), {})


def test_vectors_beside_each_other_fill_whole_panels() -> None:
    assert AVX2.per_panel == PANEL // 8
    assert [AVX2.beside(rows, panels=False) for rows in (1, 2, 5, 6)] == [8, 4, 4, 2]
    assert all(AVX2.beside(rows, panels=True) % AVX2.per_panel == 0 for rows in (1, 2, 3, 6))
    assert AVX2.rows_across <= AVX2.rows


def test_an_index_divides_the_lanes() -> None:
    assert divides(symbol("i") // PANEL, "i")
    assert not divides(symbol("i") // PANEL, "j")
    assert not divides(symbol("i") * PANEL, "i")


def test_parameters_of_the_program_become_arguments() -> None:
    ctx = context(programs.dense())
    assert ctx.integer(symbol("B") * 2 + symbol("b")) == "(b + 2 * n0)"
    assert ctx.integer(symbol("B") - 1) == "(-1 + n0)" and ctx.integers == {"B": "n0"}
    assert (ctx.new_name("v"), ctx.new_name("a")) == ("v1", "a2")


def test_short_sums_of_known_length_are_unrolled() -> None:
    assert not context(programs.dense(499)).unrolled
    assert context(programs.dense(3)).unrolled


def test_a_leaf_stores_its_target_and_the_words_of_it() -> None:
    ctx = context(programs.dense())
    assert ctx.is_written("y") and not ctx.is_written("x")
    ctx.storage = replace(ctx.storage, words={"y": Words("y_words", 0)})
    assert ctx.is_written("y_words")


def test_lines_are_indented() -> None:
    assert indented(["a", "  b"]) == ["  a", "    b"]


@pytest.fixture(scope="module")
def scheduled():
    return schedule_program(programs.softmax(), machine_of("sm_90"))


def test_a_kernel_has_blocks_for_its_largest_phase(scheduled) -> None:
    """A row is for one thread or more; no blocks are for nothing."""
    kernel = printable(scheduled)
    text = print_geometry(kernel, "softmax", [kernel.nest, kernel.nest])
    assert text.startswith("void softmax_geometry(const int64_t *params, int32_t blocks")
    assert "const int64_t P_B = params[0];" in text
    for number in (0, 1):
        assert f"grids[{number}] = (int32_t)sirius_min_i64(blocks, sirius_max_i64(1, " in text
    assert text.count("grids[") == 2
    assert text.count("bytes[") == len(set(kernel.storage.slots.values()))


def test_printers_are_given_names_of_their_own(scheduled) -> None:
    """No variable of C is called as a size is; a phase is known by its number."""
    kernel = printable(scheduled)
    assert [p.name for p in kernel.program.params] == ["P_B"]
    phases = [n for n in walk(kernel.nest) if isinstance(n, Phase)]
    assert phases and not [n for n in walk(scheduled.nest) if n in phases]


def test_weights_of_products_alone_are_rounded() -> None:
    program = programs.dense(4, 4)
    (s,) = program.statements
    assert rounded(program, [(s, True)]) == ("w",)
    assert rounded(program, [(s, False)]) == ()
    assert rounded(program, [(s, True), (s, False)]) == ()
    added = replace(s, value=call("add", *s.value.args))
    assert rounded(program, [(added, True)]) == ()
    finished = replace(s, finish=call("add", s.result, load("w", 0, symbol("n"))))
    assert rounded(program, [(finished, True)]) == ()


def test_rounded_weights_are_widened_where_they_are_read() -> None:
    kernel = schedule_program(programs.dense(4, 4), machine_of("sm_90", "half"))
    (name,) = [t.name for t in kernel.program.tensors if t.role == "constant"]
    made = in_half(kernel, [name]).program
    before, after = kernel.program.tensor[name], made.tensor[name]
    assert (after.dtype, after.value.dtype) == ("float16", np.float16)
    np.testing.assert_array_equal(after.value, before.value.astype(np.float16))
    reads = [x for s in made.statements for x in s.loads if x.tensor == name]
    assert reads and {x.dtype for x in reads} == {"float16"}
    assert in_half(kernel, []).program == kernel.program


def test_half_precision_is_copied_as_its_bits() -> None:
    assert c_type(SimpleNamespace(value=load("w", i, dtype="float16"))) == "uint16_t"
