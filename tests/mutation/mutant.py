# SPDX-License-Identifier: Apache-2.0
"""A mutant: a small change of one source file, as text."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """`before` becomes `after` in `file`. `line`, where known, is where `before` began: the nearest
    place counts. `tests` are those that should notice it, and `reason` says why none can."""

    file: str
    before: str
    after: str
    line: int = 0
    name: str = ""
    tests: tuple[str, ...] = ()
    reason: str = ""

    def applied(self, text: str) -> str:
        """The text of the mutated file, or an error if the mutant is older than the file."""
        places = [k for k in range(len(text)) if text.startswith(self.before, k)]
        if not places or (len(places) > 1 and not self.line):
            raise ValueError(f"{self.file}: {self.before!r} occurs {len(places)} times, not once")
        place = min(places, key=lambda k: abs(text.count("\n", 0, k) + 1 - self.line))
        return text[:place] + self.after + text[place + len(self.before) :]


def replaced(file: str, text: str, start: int, end: int, new: str) -> Mutant:
    """The mutant that puts `new` in place of text[start:end], as whole lines."""
    first = text.rfind("\n", 0, start) + 1
    last = text.find("\n", end) + 1 or len(text)
    after = text[first:start] + new + text[end:last]
    return Mutant(file, text[first:last], after, text.count("\n", 0, first) + 1)


def sources(root: Path, folders: list[str]) -> list[str]:
    """The Python and C files below the folders (or files), in order."""
    files = [p for f in folders for p in [root / f, *(root / f).rglob("*")]]
    return sorted({str(p.relative_to(root)) for p in files if p.suffix in (".py", ".c", ".h")})
