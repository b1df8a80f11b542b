# SPDX-License-Identifier: Apache-2.0
"""Stamps: for each region, in the bundle's file, the result of a check of its CUDA code on a GPU.

Code is emulated when it is made (tests/emulator); tools/gpu_check.py compares and times it on a
GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

from sirius_tf.bundle import marks, seal
from sirius_tf.errors import SiriusError

STAMP_BYTES = 4


class Stamp(IntEnum):
    """SiriusStamp of sirius_abi.h."""

    EMULATED = 0
    CONFIRMED = 1
    OFF = 2


def declaration(kernel: str, region: str) -> str:
    """C of `<kernel>_stamp`, whose member `stamp` is the region's."""
    name = region.encode()
    return (
        f"static const struct {{ _Alignas({marks.ALIGN}) char mark[{marks.MARK_BYTES}];\n"
        f"  int64_t bytes; _Alignas({marks.ALIGN}) int32_t stamp; char region[{len(name)}];\n"
        f"}} {kernel}_stamp __attribute__((used)) = {{\n"
        f'  "sirius stamp", {STAMP_BYTES + len(name)}, {Stamp.EMULATED}, "{region}"}};\n'
    )


def read_stamps(bundle: Path) -> dict[str, Stamp]:
    """The stamps of a bundle's regions, of those that have CUDA code."""
    data = bundle.read_bytes()
    return {name: Stamp(_number(data[place])) for name, place in _places(data).items()}


def write_stamps(bundle: Path, stamps: Mapping[str, Stamp], state: str) -> None:
    """Stamp regions of a bundle, in its file; its manifest says `state` of its CUDA code.

    SiriusError if it has no CUDA code for one of the regions. What a process has loaded stays as it
    was.
    """
    data = bytearray(bundle.read_bytes())
    del data[seal.content_size(data, bundle) :]
    found = _places(data)
    if missing := stamps.keys() - found.keys():
        names = ", ".join(sorted(missing))
        raise SiriusError(f"{bundle} has no CUDA code for {names}: convert with --target=cuda")
    for name, stamp in stamps.items():
        at = found[name].start
        data[at : at + STAMP_BYTES] = int(stamp).to_bytes(STAMP_BYTES, "little")
    now = {name: Stamp(_number(data[place])).name.lower() for name, place in found.items()}

    def change(manifest: dict[str, Any]) -> None:
        manifest["cuda"] |= {"state": state, "stamps": now}

    marks.edit_manifest(data, bundle, change)
    seal.write_sealed(bundle, [data])


def _places(data: bytes | bytearray) -> dict[str, slice]:
    """The places of the stamps in a bundle's file, by region."""
    return {
        bytes(data[place.start + STAMP_BYTES : place.stop]).decode(): place
        for place in marks.places(data, "stamp")
    }


def _number(content: bytes | bytearray) -> int:
    return int.from_bytes(content[:STAMP_BYTES], "little")
