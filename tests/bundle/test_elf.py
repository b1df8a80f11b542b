# SPDX-License-Identifier: Apache-2.0
"""A section that a shared object was linked without is given contents."""

import ctypes

import numpy as np
import pytest

from sirius_tf.bundle import cc, elf
from sirius_tf.errors import SiriusError

SIZE = 100_000
FLAGS = ["-nostdlib", "-O1", "-g0", "-fvisibility=hidden"]
SOURCE = f"""
__asm__(".section .here,\\"a\\",@nobits\\n.hidden room\\n.globl room\\n"
        "room: .zero {SIZE}\\n.text\\n");
extern const char room[];
#define CALLED __attribute__((visibility("default")))
CALLED int first(void) {{ return room[0]; }}
CALLED int last(void) {{ return room[{SIZE - 1}]; }}
CALLED int other = 7;
CALLED int seven(void) {{ return other; }}
"""


@pytest.fixture(scope="module")
def linked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elf")
    (folder / "code.c").write_text(SOURCE)
    cc.compile_shared([folder / "code.c"], folder / "code.so", FLAGS)
    return (folder / "code.so").read_bytes()


def test_the_section_is_mapped_from_the_file(linked, tmp_path) -> None:
    before, behind = elf.around(linked, "here")
    path = tmp_path / "code.so"
    path.write_bytes(before + b"\5" + bytes(SIZE - 2) + b"\6" + behind)
    library = ctypes.CDLL(str(path))
    assert (library.first(), library.last(), library.seven()) == (5, 6, 7)
    assert len(linked) < SIZE < path.stat().st_size


@pytest.mark.parametrize("name", ["there", "her"])
def test_a_section_that_is_not_there(linked, name) -> None:
    with pytest.raises(SiriusError, match=rf"no.* room for a section \.{name}: "):
        elf.around(linked, name)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_that_was_cut_short(linked, share) -> None:
    with pytest.raises(SiriusError, match="not a shared object with room"):
        elf.around(linked[: int(len(linked) * share)], "here")


def test_a_segment_that_does_not_end_before_the_section(linked) -> None:
    data = bytearray(linked)
    header = np.frombuffer(data, elf._HEADER, 1)
    segments = np.frombuffer(data, elf._SEGMENT, int(header["phnum"][0]), int(header["phoff"][0]))
    grown = segments["memsz"] >= SIZE
    sections = np.frombuffer(data, elf._SECTION, int(header["shnum"][0]), int(header["shoff"][0]))
    (address,) = sections["addr"][sections["size"] == SIZE]
    segments["filesz"][grown] = address + 1 - segments["vaddr"][grown]
    with pytest.raises(SiriusError, match="its segment does not end before the section"):
        elf.around(bytes(data), "here")
