# SPDX-License-Identifier: Apache-2.0
"""Mappings to a GPU are printed, read back, edited, replayed, and refused where they are wrong."""

import functools
from dataclasses import replace

import pytest

from sirius_tf.codegen.cuda.kernel import print_kernel
from sirius_tf.compile import schedule_program
from sirius_tf.errors import SiriusError, VerifyError
from sirius_tf.mapping.choose import choose_mapping
from sirius_tf.mapping.gpu import GpuMapping
from sirius_tf.mapping.micro import Awaits, Products, Staged, Threads
from sirius_tf.mapping.residency import Kept, Part, Resident, Shared
from sirius_tf.mapping.targets import machine_of
from sirius_tf.mapping.text import parse, show
from sirius_tf.mapping.tiling import FORMATS, Tiling
from sirius_tf.nest.nodes import Range
from tests.support import programs

pytestmark = pytest.mark.ir

PART = Part("u", (None, ("c1", 16)), 192, 256)
MAPPING = GpuMapping(
    True,
    ("z", "y"),
    ("w", "v"),
    Resident(
        {"h": 0, "c": 64},
        {
            "z": Kept(("c1",), ("c2", "c3"), (PART, replace(PART, name="v", along=())), 2, 3),
            "y": Kept((), (), (PART,), 1, 1, Shared(0, 512, 1024)),
        },
        2048,
    ),
    {
        ("z", (Range("b", None, None, False, 4), Range("i", 0, 12, True, 12)), True): Threads(1, 2),
        ("z", (Range("b", None, None, True), Range("i", -1, None, False)), False): Threads(4, 4),
        ("s", (), False): Threads(warps=8),
        ("p", (), False): Products(FORMATS["split tf32"], Tiling(16, 8, (2, 1), 4, True), 32),
        ("q", (), False): Products(FORMATS["bf16"], Tiling(32, 16, (1, 1), 1, False), 16),
        ("r", (), False): Staged(2, 4),
        ("h_near", (Range("w", 3, 4, False, 4),), False): Awaits(4),
    },
)


def test_every_kind_of_decision_is_read_back() -> None:
    assert parse(show(MAPPING)) == MAPPING
    other = replace(MAPPING, persistent=False, words=(), half=(), resident=Resident(), micro={})
    assert parse(show(other)) == other


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("words: z, y\n", "", "has the parts launch, words, half, shared, micro, in order"),
        ("persistent", "twice", "a launch is persistent or graph, not twice"),
        ("2048 bytes", "2048", "is a number of bytes, not '2048'"),
        ("h at 0", "h in 0", "line 5 of a mapping: 'h in 0' is not understood"),
        ("staged 2 x 4", "staged 2 by 4", r"r \[\]: staged 2 by 4' is not understood"),
        ("of bf16", "of tf16", "is not understood"),
        ("b \\?\\+\\?", "b ?", "is not understood"),
    ],
)
def test_what_is_no_mapping_is_an_error(right, wrong, problem) -> None:
    text, right = show(MAPPING), right.replace("\\", "")
    assert right in text
    with pytest.raises(SiriusError, match=problem):
        parse(text.replace(right, wrong))


@functools.cache
def recurrence():
    """Of which blocks exchange words, and keep weights."""
    small = {"worth_a_tile": 64, "worth_a_worker": 32, "words": True}
    return schedule_program(programs.lstm(40), replace(machine_of("sm_90"), **small))


@functools.cache
def product(precision):
    program = programs.dense(512, 64)
    program = replace(program, params=tuple(replace(p, hint=2048) for p in program.params))
    return schedule_program(program, machine_of("sm_90", precision))


@functools.cache
def softmax():
    return schedule_program(programs.softmax(), machine_of("sm_90"))


@functools.cache
def mapped(make):
    """The text of the mapping that is chosen."""
    return show(choose_mapping(make()))


strict, tf32, half = (functools.partial(product, p) for p in ("strict", "tf32", "half"))


@pytest.mark.parametrize("make", [recurrence, softmax, half])
def test_a_mapping_is_replayed(make) -> None:
    kernel = make()
    text = mapped(make)
    assert show(parse(text)) == text
    assert print_kernel(kernel, mapping=parse(text)) == print_kernel(kernel)


def edited(make, edits):
    text = mapped(make)
    for old, new in edits.items():
        assert old in text, text
        text = text.replace(old, new)
    return make(), parse(text)


@pytest.mark.parametrize(
    ("make", "edits", "here"),
    [
        (softmax, {"launch: persistent": "launch: graph"}, "softmax_cuda_phase1("),
        (softmax, {"shared: 256": "shared: 320", "m at 0": "m at 256"}, "(resident + 256)"),
        (half, {"half: w_packed0": "half:"}, "const float *T_w_packed0"),
        (tf32, {"16 x 8": "32 x 8", "2 x 1": "1 x 1"}, "sums[2][1][4]"),
        (strict, {"staged 1 x 1": "threads 2 x 1"}, "acc_1_0"),
    ],
)
def test_an_edited_mapping_is_printed(make, edits, here) -> None:
    kernel, mapping = edited(make, edits)
    source = print_kernel(kernel, mapping=mapping).source
    assert here in source
    assert here not in print_kernel(kernel).source


@pytest.mark.parametrize(
    ("make", "old", "new", "problem"),
    [
        (softmax, "m at 0", "m at 32", "m cannot lie at 32"),
        (softmax, "s at 64", "s at 128", "slot . and slot . share bytes of shared memory"),
        (softmax, "shared: 256", "shared: 192", "lies beyond the 192 bytes of shared memory"),
        (softmax, "shared: 256", "shared: 256000", "a block has .* bytes of memory, and not 256"),
        (softmax, "m at 0", "x at 0", "x cannot lie in shared memory"),
        (softmax, "words:", "words: S0", "the loop of S0 needs barriers"),
        (softmax, "half:", "half: x", "x must keep its precision"),
        (softmax, "S0 [b ?+? most 4]", "S0 [b ?+? most 8]", "a leaf of S0 (without|that does not)"),
        (
            softmax,
            "1 x 1\n  S1",
            "3 x 1\n  S1",
            "a leaf of S0 cannot be computed by Threads.rows=3",
        ),
        (recurrence, "words: z", "words:", "a leaf of h_near1 that does not exist"),
        (recurrence, "  z_near0 at 0\n", "", "z_near0 must lie in shared memory"),
        (recurrence, "persistent", "graph", "a phase of a graph of kernels is inside of"),
        (recurrence, "  keep z", "  keep y: 1 of 1 slices\n  keep z", "tiles of y read no slice"),
        (recurrence, "u [., .]", "u [., c1 by 8]", "tiles of z do not read such slices"),
        (recurrence, "at 320", "at 64", "share bytes of shared memory"),
        (recurrence, "awaits 1 at once", "threads 1 x 1", "h_near1 cannot be computed by Threads"),
        (tf32, "half:", "half: w_packed0", "w_packed0 must keep its precision"),
        (tf32, "of tf32", "of f16", "S3 cannot be computed by Products"),
        (tf32, "2 x 1 tiles", "1 x 1 tiles", "S3 cannot be computed by Products"),
        (softmax, "threads 1 x 1", "staged 1 x 1", "S0 cannot be computed by Staged"),
    ],
)
def test_a_broken_mapping_is_refused(make, old, new, problem) -> None:
    kernel, mapping = edited(make, {old: new})
    with pytest.raises(VerifyError, match=problem):
        print_kernel(kernel, mapping=mapping)
