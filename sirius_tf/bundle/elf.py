# SPDX-License-Identifier: Apache-2.0
"""Contents for a section that a shared object was linked without.

A linker would read hundreds of megabytes of weights, hold them, and write them. It need know no
more than how many there are: a section of type NOBITS has its place in memory, and none in the
file. The program loader maps a segment from the file up to `filesz`, so that where the file is
widened there, and `filesz` with it, the section has contents.

    file:   before | behind       becomes   before | contents, up to a page | behind
    memory: before | section | behind       stays as it is

Sections, segments and their fields are those of the System V ABI, for 64 bits, without prefixes.
"""

from __future__ import annotations

import numpy as np

from sirius_tf.errors import SiriusError


def _fields(names: str, formats: str) -> np.dtype[np.void]:
    return np.dtype({"names": names.split(), "formats": formats.split()})


_HEADER = _fields(
    "ident type machine version entry phoff shoff flags ehsize phentsize phnum shentsize shnum"
    " shstrndx",
    "S16 <u2 <u2 <u4 <u8 <u8 <u8 <u4 <u2 <u2 <u2 <u2 <u2 <u2",
)
_SEGMENT = _fields(
    "type flags offset vaddr paddr filesz memsz align", "<u4 <u4 <u8 <u8 <u8 <u8 <u8 <u8"
)
_SECTION = _fields(
    "name type flags addr offset size link info addralign entsize",
    "<u4 <u4 <u8 <u8 <u8 <u8 <u4 <u4 <u8 <u8",
)
_LOAD = 1  # a segment that is mapped
_PROGBITS = 1  # a section with contents


def around(linked: bytes, name: str) -> tuple[bytes, bytes]:
    """The file before and behind the contents of section `name`, of which `linked` has none.

    The section is of type NOBITS, and no section behind it in its segment has contents.
    SiriusError if there is no such section, or a table is not inside of the file.
    """
    try:
        return _around(linked, name)
    except (IndexError, ValueError) as error:
        raise SiriusError(
            f"not a shared object with room for a section .{name}: {error}"
        ) from error


def _around(linked: bytes, name: str) -> tuple[bytes, bytes]:
    data = bytearray(linked)
    header = np.frombuffer(data, _HEADER, 1)
    segments = np.frombuffer(data, _SEGMENT, int(header["phnum"][0]), int(header["phoff"][0]))
    sections = np.frombuffer(data, _SECTION, int(header["shnum"][0]), int(header["shoff"][0]))
    names = int(sections["offset"][header["shstrndx"][0]])
    label = f".{name}".encode() + b"\0"
    (s,) = (k for k, at in enumerate(sections["name"]) if data.startswith(label, names + int(at)))
    address, size = int(sections["addr"][s]), int(sections["size"][s])
    ends = segments["vaddr"] + segments["memsz"]
    inside = (segments["vaddr"] <= address) & (address < ends) & (segments["type"] == _LOAD)
    (p,) = np.flatnonzero(inside)
    offset = int(segments["offset"][p])
    end = offset + int(segments["filesz"][p])
    start = offset + address - int(segments["vaddr"][p])
    page = int(segments["align"].max())
    grown = start + size - end
    if not end <= start < end + page or end > len(data):
        raise ValueError("its segment does not end before the section")
    moved = -(-grown // page) * page
    for table, field in ((segments, "offset"), (sections, "offset"), (header, "shoff")):
        table[field][table[field] >= end] += moved
    segments["filesz"][p] = start + size - offset
    sections["type"][s], sections["offset"][s] = _PROGBITS, start
    return bytes(data[:end]) + bytes(start - end), bytes(moved - grown) + bytes(data[end:])
