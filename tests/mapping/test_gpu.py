# SPDX-License-Identifier: Apache-2.0
"""What is decided for a GPU before there is any text, and that the text is a function of it."""

from dataclasses import replace

import pytest

from sirius_tf.codegen.cuda import kernel as cuda
from sirius_tf.codegen.cuda.kernel import print_kernel
from sirius_tf.compile import schedule_program
from sirius_tf.mapping import residency
from sirius_tf.mapping.choose import choose_mapping
from sirius_tf.mapping.micro import Awaits, Products, Staged, Threads
from sirius_tf.mapping.residency import NOTHING, Part, Shared
from sirius_tf.mapping.targets import machine_of
from tests.support import programs

pytestmark = pytest.mark.ir


def scheduled(program, precision="strict", **fields):
    return schedule_program(program, replace(machine_of("sm_90", precision), **fields))


def micro(program, *arguments, **fields):
    found = choose_mapping(scheduled(program, *arguments, **fields)).micro
    return {name: how for (name, *_), how in found.items()}


@pytest.mark.parametrize("launch", ["persistent", "graph"])
def test_a_kernel_is_printed_once(monkeypatch, launch) -> None:
    printed = []
    whole = cuda._Printer.kernel_function

    def counted(self, name, nest):
        printed.append(name)
        return whole(self, name, nest)

    monkeypatch.setattr(cuda._Printer, "kernel_function", counted)
    kernel = print_kernel(scheduled(programs.softmax(), words=True), launch)
    assert kernel.shared_bytes > 0
    assert printed == list(kernel.kernels)


def test_the_mapping_says_what_is_printed() -> None:
    kernel = scheduled(programs.softmax())
    mapping = choose_mapping(kernel, "persistent")
    assert print_kernel(kernel, mapping=mapping) == print_kernel(kernel, "persistent")
    graph = print_kernel(kernel, mapping=replace(mapping, persistent=False))
    assert graph == print_kernel(kernel, "graph")
    emptied = print_kernel(kernel, mapping=replace(mapping, resident=NOTHING))
    assert (emptied.shared_bytes, emptied.slots) == (0, len(set(kernel.storage.slots.values())))
    assert "resident" not in emptied.source


def many(depth, width, rows=2048):
    program = programs.dense(depth, width)
    return replace(program, params=tuple(replace(p, hint=rows) for p in program.params))


@pytest.mark.parametrize(
    ("precision", "kind", "half"),
    [("strict", Staged, ()), ("tf32", Products, ()), ("half", Products, ("w_packed0",))],
)
def test_operands_that_rows_and_lanes_share_are_staged(precision, kind, half) -> None:
    mapping = choose_mapping(scheduled(many(512, 64), precision))
    assert [type(how) for how in mapping.micro.values()] == [kind]
    assert mapping.half == half


def test_four_lanes_are_too_few_to_share_operands() -> None:
    assert micro(many(512, 4), "tf32") == {"S3": Threads(rows=2)}


def test_warps_divide_a_long_sum_of_few_points() -> None:
    assert micro(many(4096, 64, rows=1)) == {"S3": Threads(warps=8)}


def test_what_tiles_await_is_a_leaf_of_its_own() -> None:
    small = {"worth_a_tile": 64, "worth_a_worker": 32}
    kernel = scheduled(programs.lstm(40), words=True, **small)
    mapping = choose_mapping(kernel)
    assert mapping.words == ("z",)
    awaiting = {name for (name, *_), how in mapping.micro.items() if isinstance(how, Awaits)}
    assert awaiting == {"h_near1", "z_near0"}
    assert "sirius_await(" not in print_kernel(scheduled(programs.lstm(40), words=False)).source


def test_slices_share_the_room_that_there_is() -> None:
    """Where a slice of one tensor fits nowhere, the others' take less than a block could have."""
    small, large = (Part(name, (("c1", 8),), size) for name, size in (("u", 256), ("v", 4096)))
    found = [
        residency.Candidate("a", ("c1",), (), (small, large), 1, 2),
        residency.Candidate("b", ("c1",), (), (small,), 1, 2),
    ]
    assert residency._crowded(found, 64, 2048)
    kept, end = residency._share(found, 64, 2048)
    assert end == 64 + 2 * 256 + 2 * 256
    assert {k.shared for k in kept.values()} == {Shared(0, 64, end), Shared(1, 64, end)}
