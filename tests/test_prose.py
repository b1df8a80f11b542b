# SPDX-License-Identifier: Apache-2.0
"""Texts that people read: reasons of refusals, and the pages of docs/."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support import ROOT

PACKAGE = ROOT / "sirius_tf"


def calls(path: Path, name: str) -> Iterator[ast.Call]:
    """The calls of a method in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(ast.Attribute(attr=attr)) if attr == name:
                yield node


def test_reasons_of_refusals_are_clauses() -> None:
    """Behind "node (op): " a reader wants to know what is wrong, not a word of ours."""
    short = [
        f"{path.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call.args[0])}"
        for path in sorted((PACKAGE / "lower").rglob("*.py"))
        for call in calls(path, "unsupported")
        if isinstance(call.args[0], ast.Constant | ast.JoinedStr)
        and len(ast.unparse(call.args[0]).split()) < 4
    ]
    assert short == []
