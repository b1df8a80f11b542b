# SPDX-License-Identifier: Apache-2.0
"""The schedule of a program: all that is decided between its equations and its loops.

It is a value. It prints as text, the text is read back, and an edited one is as good as one that
the scheduler made: isl verifies both.

    schedule:                      the tree: loops, phases between barriers, tiles (see tree.py)
      in sequence
        y:
          # phase
          parallel y: b by 8
            # tile ...
    plans:                         vectors and register blocks of each statement (see plan.py)
      y: lanes i, rows b
    storage:                       where temporaries lie (see storage.py)
      h: slot 0, window [2, ., .]
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from sirius_tf.errors import SiriusError, VerifyError
from sirius_tf.ir.affine import Affine, FloorDiv
from sirius_tf.ir.parser import parse_affine
from sirius_tf.ir.program import Program
from sirius_tf.poly.scop import Scop
from sirius_tf.schedule.plan import Plan, possible
from sirius_tf.schedule.private import private
from sirius_tf.schedule.storage import Storage, Window, Words
from sirius_tf.schedule.tree import Band, Filter, Node, Phase, Sequence, Tile

_TITLES = ("schedule", "plans", "storage")
_PLAN = re.compile(r"scalar|(?P<kind>lanes|across) (?P<lanes>\w+)(, rows (?P<rows>\w+))?")
_SIZES = r"\[(?P<{}>[\d., ]*)\]"
_PLACE = re.compile(
    rf"slot (?P<slot>\d+)(, window {_SIZES.format('window')})?"
    rf"(, private {_SIZES.format('private')})?(, words (?P<words>\w+) along (?P<time>\d+))?"
)


@dataclass(frozen=True)
class Schedule:
    """The order in which instances run, how each statement is computed, and where temporaries
    lie."""

    tree: Node
    plans: Mapping[str, Plan]
    storage: Storage


def show(schedule: Schedule) -> str:
    """The schedule as text, which `parse` reads."""
    storage = schedule.storage
    plans = [f"  {name}: {show_plan(plan)}\n" for name, plan in schedule.plans.items()]
    places = [f"  {name}: {_show_place(storage, name)}\n" for name in storage.slots]
    return "".join(
        ["schedule:\n", show_tree(schedule.tree, 1), "plans:\n", *plans, "storage:\n", *places]
    )


def parse(text: str) -> Schedule:
    """The schedule of a text. SiriusError says which line is wrong."""
    sections: dict[str, list[tuple[int, str]]] = {}
    title = ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith(" ") and line.removesuffix(":") in _TITLES:
            title = line.removesuffix(":")
            sections[title] = []
        elif line.strip():
            sections.setdefault(title, []).append((number, line.removeprefix("  ")))
    if tuple(sections) != _TITLES:
        raise SiriusError(f"the text of a schedule has the parts {', '.join(_TITLES)}, in order")
    plans, storage = {}, Storage({}, {}, {}, {})
    for number, line in sections["plans"]:
        name, plan = _matched(number, line, _PLAN)
        rows, lanes = plan["rows"], plan["lanes"]
        plans[name] = Plan(lanes, rows, plan["kind"] == "across")
    for number, line in sections["storage"]:
        name, place = _matched(number, line, _PLACE)
        storage = _placed(storage, name, place)
    return Schedule(_Tree(sections["schedule"]).whole(), plans, storage)


def check_complete(program: Program, scop: Scop, schedule: Schedule) -> None:
    """VerifyError unless a schedule decides all that a program leaves open, and no more.

    What isl verifies, the order and the places of elements, is not looked at here.
    """
    plans, storage = schedule.plans, schedule.storage
    statements = {s.name: s for s in program.statements}
    _same("plans", plans.keys(), statements.keys())
    for name, plan in plans.items():
        if plan not in possible(statements[name]):
            raise VerifyError(f"{name} cannot be computed as '{show_plan(plan)}'")
    known = set(scop.shapes)
    _same("places", storage.slots.keys(), {t for t in known if program.tensor[t].role == "temp"})
    numbers = set(storage.slots.values())
    if gaps := set(range(len(numbers))) - numbers:
        raise VerifyError(f"slots are numbered from 0 on, without a gap; none is slot {min(gaps)}")
    for what in (storage.windows, storage.private):
        for name, window in what.items():
            if name not in storage.slots or len(window) != len(program.tensor[name].shape):
                raise VerifyError(f"{name} is no temporary with {len(window)} dimensions")
    own = private(program, schedule.tree)
    for name, tile in storage.private.items():
        if own.get(name) != tile:
            raise VerifyError(f"{name} is needed outside of tiles of the size {list(tile)}")


def _same(what: str, found: Collection[str], wanted: Collection[str]) -> None:
    if missing := sorted(set(wanted) - set(found)):
        raise VerifyError(f"a schedule without {what} of {', '.join(missing)}")
    if strange := sorted(set(found) - set(wanted)):
        raise VerifyError(
            f"a schedule with {what} of {', '.join(strange)}, which the program lacks"
        )


# Plans and places


def show_plan(plan: Plan) -> str:
    """A plan as text."""
    if plan.lanes is None:
        return "scalar"
    rows = f", rows {plan.rows}" if plan.rows else ""
    return f"{'across' if plan.across else 'lanes'} {plan.lanes}{rows}"


def _show_place(storage: Storage, name: str) -> str:
    text = f"slot {storage.slots[name]}"
    for what, windows in (("window", storage.windows), ("private", storage.private)):
        if name in windows:
            text += f", {what} [{', '.join('.' if n is None else str(n) for n in windows[name])}]"
    if name in storage.words:
        text += f", words {storage.words[name].name} along {storage.words[name].time}"
    return text


def _matched(number: int, line: str, pattern: re.Pattern[str]) -> tuple[str, re.Match[str]]:
    """The name at the start of a line, and what a pattern finds behind it."""
    name, _, rest = line.partition(": ")
    found = pattern.fullmatch(rest)
    if not found:
        raise SiriusError(f"line {number} of a schedule: '{rest}' is not understood")
    return name, found


def _placed(storage: Storage, name: str, place: re.Match[str]) -> Storage:
    """The storage with one more temporary."""
    result = replace(storage, slots={**storage.slots, name: int(place["slot"])})
    if place["window"]:
        result = replace(result, windows={**storage.windows, name: _window(place["window"])})
    if place["private"]:
        result = replace(result, private={**storage.private, name: _window(place["private"])})
    if place["words"]:
        words = Words(place["words"], int(place["time"]))
        result = replace(result, words={**storage.words, name: words})
    return result


def _window(text: str) -> Window:
    return tuple(None if n == "." else int(n) for n in text.split(", "))


# The tree


def show_tree(node: Node | None, depth: int = 0) -> str:
    """The tree as text: a line for each node, children indented."""
    pad = "  " * depth
    match node:
        case None:
            return ""
        case Band(members, child, coincident):
            text = ""
            for k, member in enumerate(members):
                kind = "parallel" if coincident and coincident[k] else "loop"
                size = _tile_size(next(iter(member.values())))
                by = f" by {size}" if size > 1 else ""
                values = ", ".join(f"{s}: {_untiled(v, size)}" for s, v in member.items())
                text += f"{pad}{kind} {values}{by}\n"
            return text + show_tree(child, depth + 1)
        case Filter(statements, child):
            return f"{pad}{', '.join(statements)}\n" + show_tree(child, depth + 1)
        case Phase(child, reasons):
            return f"{pad}# phase{': ' if reasons else ''}{reasons}\n" + show_tree(child, depth)
        case Tile(child):
            return f"{pad}# tile\n" + show_tree(child, depth)
        case Sequence(children):
            return f"{pad}in sequence\n" + "".join(show_tree(c, depth + 1) for c in children)


def _tile_size(value: Affine) -> int:
    """The size d of a value d * floor(x / d), else 1."""
    match value.terms:
        case ((FloorDiv(_, divisor), coefficient),) if divisor == coefficient and not value.const:
            return divisor
    return 1


def _untiled(value: Affine, size: int) -> Affine:
    key = value.terms[0][0] if size > 1 else None
    return key.numerator if isinstance(key, FloorDiv) else value


class _Tree:
    """The lines of a tree, of which `at` are read."""

    def __init__(self, lines: list[tuple[int, str]]) -> None:
        self.lines, self.at = lines, 0

    def whole(self) -> Node:
        """The tree of all lines."""
        found = self.node(0)
        if found is None or self.at < len(self.lines):
            raise self.error("this is not where a node can be")
        return found

    def error(self, problem: str) -> SiriusError:
        number, line = self.lines[min(self.at, len(self.lines) - 1)] if self.lines else (1, "")
        return SiriusError(f"line {number} of a schedule: {problem}\n  {line.strip()}")

    def next(self, depth: int) -> str | None:
        """The text of the next line, if it is as deep as that."""
        if self.at == len(self.lines):
            return None
        line = self.lines[self.at][1]
        text = line.lstrip()
        return text if len(line) - len(text) == 2 * depth else None

    def node(self, depth: int) -> Node | None:
        """The node that begins on the next line; None if that is less deep."""
        text = self.next(depth)
        if text is None:
            return None
        if text.startswith(("loop ", "parallel ")) and ":" in text:
            return self.band(depth)
        self.at += 1
        if text == "in sequence":
            return self.sequence(depth)
        if text == "# tile":
            child = self.node(depth)
            if not isinstance(child, Sequence):
                raise self.error("a tile has statements 'in sequence'")
            return Tile(child)
        if text.startswith("# phase"):
            return Phase(self.node(depth), text.removeprefix("# phase").removeprefix(": "))
        return Filter(tuple(text.split(", ")), self.node(depth + 1))

    def sequence(self, depth: int) -> Sequence:
        children = list[Filter]()
        while self.next(depth + 1) is not None:
            child = self.node(depth + 1)
            if not isinstance(child, Filter):
                raise self.error("the parts of a sequence begin with names of statements")
            children.append(child)
        return Sequence(tuple(children))

    def band(self, depth: int) -> Band:
        members, kinds = list[dict[str, Affine]](), list[str]()
        while (text := self.next(depth)) and text.startswith(("loop ", "parallel ")):
            kind, _, rest = text.partition(" ")
            values, _, by = rest.partition(" by ")
            size = int(by or 1)
            member = {}
            for pair in values.split(", "):
                name, _, value = pair.partition(": ")
                try:
                    member[name] = parse_affine(value) // size * size
                except SiriusError as error:
                    raise self.error(str(error)) from None
            members.append(member)
            kinds.append(kind)
            self.at += 1
        parallel = tuple(kind == "parallel" for kind in kinds)
        return Band(tuple(members), self.node(depth + 1), parallel if any(parallel) else ())
