# SPDX-License-Identifier: Apache-2.0
"""Storage folding: how many elements of a tensor are alive at once along each dimension.

    h[t + 1, b, j] from h[t, b, j], T steps   ->   h kept as h[t mod 2, b, j]

Time is counted in phases: inside one, workers run in no known order. The window of a dimension is
found after those before it (Lefebvre and Feautrier 1998, "successive modulo").
"""

from __future__ import annotations

from collections.abc import Mapping

import islpy as isl

from sirius_tf.ir.affine import Affine, affine
from sirius_tf.ir.program import Program
from sirius_tf.poly.scop import Scop
from sirius_tf.schedule.tree import Band, Filter, Mark, Node, Sequence

Window = tuple[int | None, ...]  # per dimension: slots kept, or None for all of them


def phase_times(
    node: Node | None, prefix: tuple[Affine, ...] = ()
) -> dict[str, tuple[Affine, ...]]:
    """When each statement's phase runs: positions in sequences and values of sequential loops."""
    match node:
        case Sequence(children):
            times: dict[str, tuple[Affine, ...]] = {}
            for k, child in enumerate(children):
                times |= phase_times(child, (*prefix, affine(k)))
            return times
        case Filter(statements, Mark("phase", _)):
            return dict.fromkeys(statements, prefix)
        case Filter(statements, None):
            return dict.fromkeys(statements, prefix)
        case Filter(_, child):
            return phase_times(child, prefix)
        case Band(members, child, _, _):
            inner = phase_times(child, prefix)
            start = len(prefix)
            return {s: (*t[:start], *(m[s] for m in members), *t[start:]) for s, t in inner.items()}
        case Mark(_, child):
            return phase_times(child, prefix)
        case None:
            return {}


def windows(program: Program, scop: Scop, root: Node) -> dict[str, Window]:
    """Slots that each temporary needs; tensors that need all of theirs are left out."""
    times = _time_maps(scop, root)
    found = {}
    for tensor in program.tensors:
        if tensor.role == "temp" and tensor.name in scop.shapes:
            window = _window(scop, times, tensor.name)
            if any(w is not None for w in window):
                found[tensor.name] = window
    return found


def storage_maps(scop: Scop, folded: Mapping[str, Window]) -> dict[str, isl.Map]:
    """Each window as a map { T[...] -> T[... mod window ...] } for `check_reflow`."""
    found = {}
    for name, window in folded.items():
        axes = [f"o{k}" for k in range(len(window))]
        kept = [a if w is None else f"{a} mod {w}" for a, w in zip(axes, window, strict=True)]
        found[name] = isl.Map(f"{{ {name}[{', '.join(axes)}] -> {name}[{', '.join(kept)}] }}")
    return found


def _time_maps(scop: Scop, root: Node) -> dict[str, isl.Map]:
    """{ S[i] -> [time] }, all of one length."""
    times = phase_times(root)
    length = max(map(len, times.values()), default=0)
    maps = {}
    for name, time in times.items():
        domain = scop.domains[name]
        rank = domain.dim(isl.dim_type.set)
        dims = [str(domain.get_dim_name(isl.dim_type.set, k)) for k in range(rank)]
        values = [*map(str, time), *["0"] * (length - len(time))]
        text = f"{{ {name}[{', '.join(dims)}] -> [{', '.join(values)}] }}"
        maps[name] = isl.Map(text).intersect_domain(domain)
    return maps


def _window(scop: Scop, times: Mapping[str, isl.Map], tensor: str) -> Window:
    """Two elements conflict if each is defined no later than the phase of the other's last use."""
    defined = _touched(times, {s: (w,) for s, w in scop.writes.items()}, tensor)
    used = _touched(times, scop.reads, tensor)
    if defined is None or used is None:
        return (None,) * scop.shapes[tensor].dim(isl.dim_type.set)
    last = used.union(defined).lexmax()
    before = defined.apply_range(isl.Map.lex_le(defined.get_space().range()))
    reaches = before.apply_range(last.reverse())
    deltas = reaches.intersect(reaches.reverse()).deltas()
    window: list[int | None] = []
    for k in range(scop.shapes[tensor].dim(isl.dim_type.set)):
        bound = deltas.dim_max_val(k)
        window.append(bound.to_python() + 1 if bound.is_int() else None)
        # elements that differ here have slots of their own now
        deltas = deltas.fix_val(isl.dim_type.set, k, isl.Val(0))
    return tuple(window)


def _touched(
    times: Mapping[str, isl.Map], accesses: Mapping[str, tuple[isl.Map, ...]], tensor: str
) -> isl.Map | None:
    """{ T[...] -> [time] } of all accesses to `tensor`."""
    found: isl.Map | None = None
    for statement, maps in accesses.items():
        for access in maps:
            if access.get_tuple_name(isl.dim_type.out) == tensor:
                touch = access.reverse().apply_range(times[statement])
                found = touch if found is None else found.union(touch)
    return found
