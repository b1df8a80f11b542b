# SPDX-License-Identifier: Apache-2.0
"""A mapping to a GPU as text that a person reads, edits, and `parse` reads back.

    launch: persistent                     or: graph
    words: z                               loops whose blocks await words, by what they run first
    half: w_packed0                        constants that are stored in half precision
    shared: 384 bytes                      of a block, beside what leaves stage
      z at 0                               a temporary of a tile
      keep c0: 1 of 2 slices over c1       what a block keeps of constants for a cluster of tiles
        u [., c1 by 16]: 192 bytes at 192
    micro:                                 a leaf, the ranges of its iterators: how it is computed
      z [b ?+? most 4, i 0+12] kept: threads 1 x 2
      y [b ?+? most 64 aligned, i 0+64]: products 16 x 8 of tf32, 2 x 1 tiles, 4 groups, 32 words

What is printed is read back as the same mapping.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from sirius_tf.errors import SiriusError
from sirius_tf.mapping.gpu import GpuMapping, Place
from sirius_tf.mapping.micro import Awaits, Micro, Products, Staged, Threads
from sirius_tf.mapping.residency import Along, Kept, Part, Resident, Shared
from sirius_tf.mapping.tiling import FORMATS, Tiling
from sirius_tf.nest.nodes import Range

_TITLES = ("launch", "words", "half", "shared", "micro")
_TEMPORARY = re.compile(r"  (?P<name>\S+) at (?P<offset>\d+)")
_KEPT = re.compile(
    r"  keep (?P<cluster>\S+): (?P<count>\d+) of (?P<needed>\d+) slices"
    r"( over (?P<over>[\w, ]+?))?( inner (?P<inner>[\w, ]+?))?"
    r"( in room (?P<room>\d+) from (?P<first>\d+) to (?P<end>\d+))?"
)
_PART = re.compile(r"    (?P<name>\S+) \[(?P<along>.*)\]: (?P<bytes>\d+) bytes at (?P<offset>\d+)")
_MICRO = re.compile(r"  (?P<name>\S+) \[(?P<ranges>.*)\](?P<kept> kept)?: (?P<how>.+)")
_RANGE = re.compile(
    r"(?P<name>\w+) (?P<low>\?|-?\d+)\+(?P<size>\?|-?\d+)"
    r"( most (?P<most>-?\d+))?(?P<aligned> aligned)?"
)
_THREADS = re.compile(r"threads (?P<rows>\d+) x (?P<lanes>\d+)(, (?P<warps>\d+) warps to a point)?")
_STAGED = re.compile(r"staged (?P<rows>\d+) x (?P<lanes>\d+)")
_PRODUCTS = re.compile(
    r"products (?P<m>\d+) x (?P<n>\d+) of (?P<form>[\w ]+)(?P<by_lanes>, lanes first)?"
    r", (?P<along_m>\d+) x (?P<along_n>\d+) tiles, (?P<groups>\d+) groups, (?P<words>\d+) words"
)
_AWAITS = re.compile(r"awaits (?P<count>\d+) at once")


def show(mapping: GpuMapping) -> str:
    """The mapping as text, which `parse` reads."""
    resident = mapping.resident
    lines = [f"launch: {'persistent' if mapping.persistent else 'graph'}"]
    lines.append(f"words: {', '.join(mapping.words)}".rstrip())
    lines.append(f"half: {', '.join(mapping.half)}".rstrip())
    lines.append(f"shared: {resident.bytes} bytes")
    lines += [f"  {name} at {offset}" for name, offset in resident.temporaries.items()]
    for cluster, kept in resident.kept.items():
        lines += _show_kept(cluster, kept)
    lines.append("micro:")
    lines += [f"  {_show_place(place)}: {_show_micro(how)}" for place, how in mapping.micro.items()]
    return "".join(f"{line}\n" for line in lines)


def parse(text: str) -> GpuMapping:
    """The mapping of a text. SiriusError says which line is wrong."""
    heads, bodies = dict[str, str](), dict[str, list[tuple[int, str]]]()
    for number, line in enumerate(text.splitlines(), 1):
        title, colon, head = line.partition(":")
        if colon and title in _TITLES:
            heads[title], bodies[title] = head.strip(), []
        elif line.strip() and heads:
            bodies[next(reversed(bodies))].append((number, line))
    if tuple(heads) != _TITLES:
        raise SiriusError(f"the text of a mapping has the parts {', '.join(_TITLES)}, in order")
    if heads["launch"] not in ("persistent", "graph"):
        raise SiriusError(f"a launch is persistent or graph, not {heads['launch']}")
    micro = dict(_read_micro(number, line) for number, line in bodies["micro"])
    return GpuMapping(
        heads["launch"] == "persistent",
        _names(heads["words"]),
        _names(heads["half"]),
        _read_resident(heads["shared"], bodies["shared"]),
        micro,
    )


def _error(number: int, line: str) -> SiriusError:
    return SiriusError(f"line {number} of a mapping: '{line.strip()}' is not understood")


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(text.split(", ")) if text else ()


# Shared memory


def _show_kept(cluster: str, kept: Kept) -> Iterator[str]:
    text = f"  keep {cluster}: {kept.count} of {kept.needed} slices"
    text += f" over {', '.join(kept.over)}" if kept.over else ""
    text += f" inner {', '.join(kept.inner)}" if kept.inner else ""
    if room := kept.shared:
        text += f" in room {room.number} from {room.first} to {room.end}"
    yield text
    for part in kept.parts:
        along = ", ".join("." if a is None else f"{a[0]} by {a[1]}" for a in part.along)
        yield f"    {part.name} [{along}]: {part.bytes} bytes at {part.offset}"


def _read_resident(head: str, lines: list[tuple[int, str]]) -> Resident:
    temporaries, kept, cluster = dict[str, int](), dict[str, Kept](), ""
    for number, line in lines:
        if found := _PART.fullmatch(line):
            if not cluster:
                raise _error(number, line)
            part = Part(
                found["name"], _along(found["along"]), int(found["bytes"]), int(found["offset"])
            )
            kept[cluster] = replace(kept[cluster], parts=(*kept[cluster].parts, part))
        elif found := _KEPT.fullmatch(line):
            cluster, room = found["cluster"], None
            if found["room"]:
                room = Shared(int(found["room"]), int(found["first"]), int(found["end"]))
            counts = int(found["count"]), int(found["needed"])
            kept[cluster] = Kept(_names(found["over"]), _names(found["inner"]), (), *counts, room)
        elif found := _TEMPORARY.fullmatch(line):
            temporaries[found["name"]] = int(found["offset"])
        else:
            raise _error(number, line)
    size = re.fullmatch(r"(\d+) bytes", head)
    if size is None:
        raise SiriusError(f"the size of shared memory is a number of bytes, not '{head}'")
    return Resident(temporaries, kept, int(size[1]))


def _along(text: str) -> tuple[Along, ...]:
    pairs = (part.split(" by ") for part in text.split(", ") if part)
    return tuple(None if pair == ["."] else (pair[0], int(pair[1])) for pair in pairs)


# Leaves


def _show_place(place: Place) -> str:
    name, ranges, kept = place
    return f"{name} [{', '.join(map(_show_range, ranges))}]{' kept' if kept else ''}"


def _show_range(r: Range) -> str:
    low, size = ("?" if n is None else str(n) for n in (r.low, r.size))
    most = "" if r.most is None or r.most == r.size else f" most {r.most}"
    return f"{r.name} {low}+{size}{most}{' aligned' if r.aligned else ''}"


def _show_micro(how: Micro) -> str:
    match how:
        case Threads(rows, lanes, warps):
            return f"threads {rows} x {lanes}" + (
                f", {warps} warps to a point" if warps > 1 else ""
            )
        case Staged(rows, lanes):
            return f"staged {rows} x {lanes}"
        case Awaits(count):
            return f"awaits {count} at once"
        case Products(form, t, words):
            (name,) = (name for name, one in FORMATS.items() if one == form)
            text = f"products {t.m} x {t.n} of {name}{', lanes first' if t.by_lanes else ''}"
            text += f", {t.along[0]} x {t.along[1]} tiles, {t.groups} groups"
            return f"{text}, {words} words"


def _read_micro(number: int, line: str) -> tuple[Place, Micro]:
    found = _MICRO.fullmatch(line)
    how = _micro_of(found["how"]) if found else None
    ranges = [_RANGE.fullmatch(text) for text in _names(found["ranges"])] if found else []
    if found is None or how is None or None in ranges:
        raise _error(number, line)
    place = (found["name"], tuple(_range(r) for r in ranges if r), bool(found["kept"]))
    return place, how


def _range(found: re.Match[str]) -> Range:
    low, size = (None if found[k] == "?" else int(found[k]) for k in ("low", "size"))
    most = int(found["most"]) if found["most"] else size
    return Range(found["name"], low, size, bool(found["aligned"]), most)


def _micro_of(text: str) -> Micro | None:
    """None if it is not understood."""
    if found := _THREADS.fullmatch(text):
        return Threads(int(found["rows"]), int(found["lanes"]), int(found["warps"] or 1))
    if found := _STAGED.fullmatch(text):
        return Staged(int(found["rows"]), int(found["lanes"]))
    if found := _AWAITS.fullmatch(text):
        return Awaits(int(found["count"]))
    found = _PRODUCTS.fullmatch(text)
    return _products(found.groupdict()) if found and found["form"] in FORMATS else None


def _products(found: Mapping[str, str]) -> Products:
    m, n, along_m, along_n, groups, words = (
        int(found[k]) for k in ("m", "n", "along_m", "along_n", "groups", "words")
    )
    tiling = Tiling(m, n, (along_m, along_n), groups, bool(found["by_lanes"]))
    return Products(FORMATS[found["form"]], tiling, words)
