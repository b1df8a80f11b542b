# SPDX-License-Identifier: Apache-2.0
"""Schedule trees as our own values, and their isl form.

The node kinds and their meaning are isl's (isl manual, "Schedule Trees"). A tree of ours is built
bottom-up and turned into an isl.Schedule by way of isl's YAML, which is far handier than surgery on
isl's nodes. Phases and tiles are isl's marks, which have no meaning to isl. schedule.py prints
trees, and reads them back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import islpy as isl

from sirius_tf.errors import VerifyError
from sirius_tf.ir.affine import Affine
from sirius_tf.poly.isl import union_set
from sirius_tf.poly.scop import Scop


@dataclass(frozen=True)
class Band:
    """Nested loops. Each member maps every statement below it to the value of its loop.

    `coincident[m]`: no dependence is carried by member m, its iterations may run in parallel.
    """

    members: tuple[Mapping[str, Affine], ...]
    child: Node | None = None
    coincident: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Filter:
    """Only the instances of these statements."""

    statements: tuple[str, ...]
    child: Node | None = None


@dataclass(frozen=True)
class Sequence:
    """The children one after the other."""

    children: tuple[Filter, ...]


@dataclass(frozen=True)
class Phase:
    """Clusters that workers run between two barriers.

    `reasons` tell people why it cannot be part of a phase before.
    """

    child: Node | None
    reasons: str = ""


@dataclass(frozen=True)
class Tile:
    """The statements that one worker runs one after the other, each at its points of the tile."""

    child: Sequence

    @property
    def cluster(self) -> str:
        """The name of the cluster that it is a tile of: that of the first statement."""
        return self.child.children[0].statements[0]


def loops_in_tiles(node: Node | None, inside: bool = False) -> Iterator[tuple[str, str]]:
    """Pairs of a statement and an iterator of its that a loop within a tile goes through."""
    match node:
        case Sequence(children):
            for child in children:
                yield from loops_in_tiles(child, inside)
        case Band(members, child):
            if inside:
                yield from ((s, name) for m in members for s, v in m.items() for name in v.names())
            yield from loops_in_tiles(child, inside)
        case Tile(child):
            yield from loops_in_tiles(child, True)
        case Filter(_, child) | Phase(child):
            yield from loops_in_tiles(child, inside)


Node = Band | Filter | Sequence | Phase | Tile
_BAND = isl.schedule_node_type.band


def build(scop: Scop, root: Node) -> isl.Schedule:
    """The isl schedule tree over all instances of `scop`."""
    domain = union_set(scop.domains.values())
    text = f'domain: "{domain}"\nchild:\n' + "\n".join(_indent(_yaml(scop, root)))
    schedule = isl.Schedule.read_from_str(isl.DEFAULT_CONTEXT, text)
    if _members(schedule.get_root()) != _own_members(root):
        raise VerifyError("isl has read a schedule with other loops than were written")
    return schedule


def _members(node: isl.ScheduleNode) -> int:
    """The loops of all bands below a node of isl's."""
    own = node.band_n_member() if isl.schedule_node_type(node.get_type()) == _BAND else 0
    count = node.n_children() if node.has_children() else 0
    return own + sum(_members(node.child(k)) for k in range(count))


def _own_members(node: Node | None) -> int:
    match node:
        case Band(members, child):
            return len(members) + _own_members(child)
        case Sequence(children):
            return sum(map(_own_members, children))
        case None:
            return 0
    return _own_members(node.child)


def _yaml(scop: Scop, node: Node) -> list[str]:
    match node:
        case Band(members, child, coincident):
            pieces = ", ".join(
                "{ " + "; ".join(f"{_tuple(scop, s)} -> [({v})]" for s, v in m.items()) + " }"
                for m in members
            )
            lines = [f'schedule: "{_params(scop)}[{pieces}]"']
            if coincident:
                lines.append(f"coincident: [{', '.join(str(int(c)) for c in coincident)}]")
        case Filter(statements, child):
            points = "; ".join(_tuple(scop, s) for s in statements)
            lines = [f'filter: "{_params(scop)}{{ {points} }}"']
        case Phase(child):
            lines = ['mark: "phase"']
        case Tile(child):
            lines = [f'mark: "tile {node.cluster}"']
        case Sequence(children):
            lines = ["sequence:"]
            for part in children:
                first, *rest = _yaml(scop, part)
                lines += [f"- {first}", *_indent(rest)]
            return lines
    if child is not None:
        lines += ["child:", *_indent(_yaml(scop, child))]
    return lines


def _tuple(scop: Scop, statement: str) -> str:
    return f"{statement}[{_dims(scop.domains[statement], isl.dim_type.set)}]"


def _params(scop: Scop) -> str:
    params = _dims(scop.context, isl.dim_type.param)
    return f"[{params}] -> " if params else ""  # isl reads "[] -> [...]" as no members


def _dims(of: isl.Set, kind: isl.dim_type) -> str:
    return ", ".join(str(of.get_dim_name(kind, k)) for k in range(of.dim(kind)))


def _indent(lines: list[str]) -> list[str]:
    return ["  " + line for line in lines]


def marked(name: str) -> str | None:
    """The cluster that a mark of isl stands for, if it is that of a tile; None for a phase."""
    return name.partition(" ")[2] or None
