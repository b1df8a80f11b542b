# SPDX-License-Identifier: Apache-2.0
"""How the phases of a region are launched on a GPU, and on how many blocks.

One persistent kernel runs them all, and its blocks wait for each other in between. Or each phase is
a kernel, and a CUDA graph runs one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from sirius_tf.codegen.entry import Scheduled, bound_text, nested, slot_bytes
from sirius_tf.codegen.nest import (
    Block,
    Guard,
    Loop,
    LoopNest,
    Phase,
    Tile,
    When,
    bound_names,
    parts_of,
    rectangle_of,
    walk,
)
from sirius_tf.config import Launch
from sirius_tf.errors import VerifyError

#: Microseconds on an H100, none of which was measured by us. A barrier of all blocks is an
#: estimate: three round trips to the second-level cache. For what lies between two kernels of a
#: graph: Spector et al., "Look Ma, No Bubbles!" (Hazy Research, 2025). To await what a tile needs
#: takes longer than to load it, by a way through shared memory and two waits of a block's threads:
#: a guess, as are the bytes that a block loads from there in one.
BARRIER_US, NODE_US, AWAIT_US, BYTES_IN_US = 1.5, 1.3, 0.1, 50_000

GEOMETRY = """\
void {name}_geometry(const int64_t *params, int32_t blocks, int32_t *grids, int64_t *bytes)"""


def kernels(nest: LoopNest, name: str, launch: Launch) -> dict[str, LoopNest]:
    """What each kernel runs, by its name, in the order of the launches.

    `<name>` alone is a persistent one, `<name>_phase<k>` are a graph's. A graph has no loops, and
    no branches that data decides: where such are around phases, the kernel is persistent.
    """
    phases = _phases(nest) if is_straight(nest) else []
    cheaper = len(phases) * NODE_US < (len(phases) - 1) * BARRIER_US
    if phases and (launch == "graph" or (launch == "auto" and cheaper)):
        return {f"{name}_phase{k}": part for k, part in enumerate(phases, 1)}
    return {name: nest}


def is_straight(nest: LoopNest) -> bool:
    """Whether every phase runs once at most, and the host could tell whether it does."""
    match nest:
        case Phase():
            return True
        case Block() | Guard():
            return all(map(is_straight, parts_of(nest)))
    return False


def _phases(nest: LoopNest) -> list[LoopNest]:
    """For each phase a nest that runs it where `nest` does, and nothing else."""
    match nest:
        case Phase():
            return [nest]
        case Block(parts):
            return [one for part in parts for one in _phases(part)]
        case Guard(conditions, body, otherwise):
            others = _phases(otherwise) if otherwise else []
            return [
                *(Guard(conditions, one) for one in _phases(body)),
                *(Guard(conditions, Block(()), one) for one in others),
            ]
    raise VerifyError(f"a phase of a graph is inside of {nest}")


def print_geometry(scheduled: Scheduled, name: str, nests: Sequence[LoopNest]) -> str:
    """C of `<name>_geometry`: the blocks of each kernel, and the bytes of each slot.

    No more blocks than its largest phase has tiles: idle ones would only be waited for. `params`
    are those of plan; slots have room for as many `blocks` as plan was told.
    """
    params = scheduled.program.params
    known = {p.name for p in params}
    body = [f"const int64_t {p.name} = params[{k}];" for k, p in enumerate(params)]
    body += [f"(void){p.name};" for p in params] + ["(void)bytes;"]
    for number, nest in enumerate(nests):
        phases = [_tiles(n.body, known) for n in walk(nest) if isinstance(n, Phase)]
        most = nested("max", list(dict.fromkeys(["1", *phases])))
        body.append(f"grids[{number}] = (int32_t)sirius_min_i64(blocks, {most});")
    body += [f"bytes[{k}] = {size};" for k, size in enumerate(slot_bytes(scheduled, "blocks"))]
    lines = "".join(f"  {line}\n" for line in body)
    return f"{GEOMETRY.format(name=name)} {{\n{lines}}}\n"


def _tiles(phase: LoopNest, known: set[str]) -> str:
    """C of how many blocks have a tile: clusters have others, pieces of a cluster the same ones.

    `blocks` where a bound depends on a loop around the phase.
    """
    pieces: dict[str, list[str]] = {}
    for piece in _pieces(phase):
        count = "1"
        if isinstance(piece, Loop):
            loops, _ = rectangle_of(piece)
            names = {name for loop in loops for name in bound_names(loop)}
            count = " * ".join(map(_count, loops)) if names <= known else "blocks"
        cluster = next(n.cluster for n in walk(piece) if isinstance(n, Tile))
        pieces.setdefault(cluster, []).append(count)
    return " + ".join(nested("max", list(dict.fromkeys(counts))) for counts in pieces.values())


def _pieces(nest: LoopNest) -> list[Loop | Tile]:
    """The outermost loops and the single tiles of a phase."""
    match nest:
        case Loop() | Tile():
            return [nest]
        case Block() | Guard() | When():
            return [piece for part in parts_of(nest) for piece in _pieces(part)]
    raise VerifyError(f"a phase without a tile: {nest}")


def _count(loop: Loop) -> str:
    first, end = bound_text("max", loop.lower), bound_text("min", loop.upper)
    return f"sirius_max_i64(({end} - {first} + {loop.step - 1}) / {loop.step}, 0)"
