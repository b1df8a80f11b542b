# SPDX-License-Identifier: Apache-2.0
"""C of the grids of a launch, which the host computes."""

from __future__ import annotations

from collections.abc import Sequence

from sirius_tf.codegen.entry import bound_text, nested, slot_bytes
from sirius_tf.nest.nodes import (
    Loop,
    LoopNest,
    Phase,
    Tile,
    bound_names,
    pieces,
    rectangle_of,
    walk,
)
from sirius_tf.nest.scheduled import Scheduled

GEOMETRY = """\
void {name}_geometry(const int64_t *params, int32_t blocks, int32_t *grids, int64_t *bytes)"""


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
    clusters: dict[str, list[str]] = {}
    for piece in pieces(phase):
        count = "1"
        if isinstance(piece, Loop):
            loops, _ = rectangle_of(piece)
            names = {name for loop in loops for name in bound_names(loop)}
            count = " * ".join(map(_count, loops)) if names <= known else "blocks"
        cluster = next(n.cluster for n in walk(piece) if isinstance(n, Tile))
        clusters.setdefault(cluster, []).append(count)
    return " + ".join(nested("max", list(dict.fromkeys(counts))) for counts in clusters.values())


def _count(loop: Loop) -> str:
    first, end = bound_text("max", loop.lower), bound_text("min", loop.upper)
    return f"sirius_max_i64(({end} - {first} + {loop.step - 1}) / {loop.step}, 0)"
