# SPDX-License-Identifier: Apache-2.0
"""Slices that stay in shared memory: where their copies lie, and which elements are copied."""

import re
from dataclasses import replace

import pytest

from sirius_tf.codegen.cuda.slices import copied, counted, held, pointers, reason, temporaries
from sirius_tf.mapping.residency import Kept, Part, Resident, Shared
from tests.support.programs import dense, softmax

pytestmark = pytest.mark.ir

PART = Part("w", (None, ("c1", 8)), 6 * 8 * 4, 256)
KEPT = Kept(("c1",), (), (PART,), 2, 3)
BESIDE = replace(KEPT, parts=(replace(PART, offset=0),), shared=Shared(1, 256, 4096))


def copied_elements(lines, **names):
    """The number of each element of `w` that is copied, in the order of the copies; C and Python
    divide numbers that are not negative alike."""
    text = "\n".join(lines).replace("/", "//")
    (count,) = re.findall(r"for \(int e = threadIdx\.x; e < (\d+); e \+= blockDim\.x\)", text)
    places = re.findall(r"const int64_t (k\d) = (.*);", text)
    ((test, source),) = re.findall(r"^ *(?:if (.*) )?R_w\[e\] = T_w\[(.*)\];", text, re.MULTILINE)
    for e in range(int(count)):
        at = names | {name: eval(place, {"e": e}) for name, place in places}
        if eval(test or "True", at):
            yield e, eval(source, at)


@pytest.mark.parametrize(("width", "columns"), [(16, 8), (13, 5)])
def test_a_slice_is_copied_once_and_whole(width, columns) -> None:
    """The columns from 8 on of a matrix of 6 rows, as far as there are some, row by row."""
    found = copied_elements(copied(dense(6, width), KEPT), c1=8)
    inside = [(row, column) for row in range(6) for column in range(columns)]
    assert list(found) == [(8 * row + j, width * row + 8 + j) for row, j in inside]


def test_places_follow_from_the_number_of_a_slice() -> None:
    program = dense(6, 16)
    assert pointers(program, KEPT) == ["float *const R_w = (float *)(resident + 256 + kept * 192);"]
    once = replace(KEPT, over=())
    assert pointers(program, once) == ["float *const R_w = (float *)(resident + 256);"]
    (found,) = pointers(program, BESIDE)
    assert found == "float *const R_w = (float *)(resident + held[1][0] + kept * 192 + 0);"


def test_clusters_beside_each_other_share_room() -> None:
    """Each takes what there is behind those before it, while a slice fits."""
    lines = copied(dense(6, 16), BESIDE)
    assert "; room + (kept + 1) * 192 <= 4096)" in lines[0]
    assert lines[-2:] == ["  count = kept + 1;", "}"]
    assert counted(KEPT, lines) == lines
    first, second = (counted(replace(BESIDE, shared=Shared(k, 256, 4096)), []) for k in (0, 1))
    assert first[0] == "int64_t room = 256, count;" and second[0] == "count = 0;"
    assert second[-1] == "room += count * 192;"
    assert held([KEPT]) == []
    assert held([KEPT, BESIDE])[0].startswith("__shared__ int32_t held[2][2];")


def test_temporaries_have_pointers_into_the_memory() -> None:
    tensors = softmax().tensors
    assert temporaries(Resident(), tensors) == []
    assert temporaries(Resident({"m": 0, "s": 64}, bytes=128), tensors) == [
        "extern __shared__ __align__(16) char resident[];",
        "float *const T_m = (float *)(resident + 0);",
        "float *const T_s = (float *)(resident + 64);",
    ]


def test_a_comment_says_what_there_was_no_room_for() -> None:
    assert reason(KEPT).endswith("keeps 2 slices of 192 bytes of w (of 3, for want of room)")
    assert reason(replace(KEPT, over=(), count=1, needed=1)).endswith("keeps 192 bytes, w")
