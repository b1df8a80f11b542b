# SPDX-License-Identifier: Apache-2.0
"""Hazards: the tensors that threads of a block have touched since they last waited for each
other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Touched:
    """The tensors, by what was done."""

    read: frozenset[str] = frozenset()
    written: frozenset[str] = frozenset()

    def __or__(self, other: Touched) -> Touched:
        return Touched(self.read | other.read, self.written | other.written)

    def followed_by(self, now: Touched, memory: Mapping[str, str]) -> tuple[Touched, list[str]]:
        """The tensors touched once `now` is, too, and the barrier of the block before it, if it
        needs one. A tensor in which other elements may have been has a name in `memory`."""
        made = now.read & self.written
        used = {memory.get(name) for name in self.read | self.written}
        again = {name for name in now.written & memory.keys() if memory[name] in used}
        if not made and not again:
            return self | now, []
        reasons = [f"other threads may have made {', '.join(sorted(made))}"] if made else []
        reasons += [f"others may still be using {', '.join(sorted(again))}"] if again else []
        return now, [f"__syncthreads(); // {'; '.join(reasons)}"]
