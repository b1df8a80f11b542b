# SPDX-License-Identifier: Apache-2.0
"""Tables in Markdown, as commands print them and docs hold them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A line for the heads, one below, and one for each row."""
    head, *lines = (f"| {' | '.join(row)} |" for row in (heads, *rows))
    return "\n".join((head, "|---" * len(heads) + "|", *lines))
