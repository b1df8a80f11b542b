# SPDX-License-Identifier: Apache-2.0
"""Texts that people read: reasons of refusals, docstrings, and pages in Markdown."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

PACKAGE = ROOT / "sirius_tf"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*DOCS, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
WIDTH = 120
#: A docstring that begins with one of these says its noun last, or never.
RIDDLES = {"What", "That", "Of", "Those", "Who", "Whose", "Where", "Which", "How"}
CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
WORDS = 35
#: What begins a paragraph, beside an empty line: an item of a list, a heading, a row of a table.
ITEM = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*+]|\d+\.|#+|\||<!--) )|(?<=\n)(#.*)\n")


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


def test_docstrings_begin_with_what_is_returned_or_done() -> None:
    riddles = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {text}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(text := node.value.value, str) and re.split(r"\W", text)[0] in RIDDLES
    ]
    assert riddles == []


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text in Markdown, without tables and code."""
    text = re.sub(r"`[^`]*`", "code", CODE.sub("\n\n", text))
    for paragraph in re.split(ITEM, f"\n{text}"):
        lines = (paragraph or "").splitlines()
        prose = (line.strip() for line in lines if not line.startswith(("    ", "|", "<!--")))
        yield from re.split(r"(?<=[.!?])\s+", " ".join(prose))


def too_long(text: str) -> list[str]:
    """The sentences that a tired reader has to read twice."""
    return [s for s in sentences(text) if len(re.findall(r"\w[\w'./-]*", s)) > WORDS]


def test_sentences_end_where_paragraphs_do() -> None:
    half = "word " * 20
    joined = f"{half}\n{half}"
    assert len(too_long(joined)) == 1 and len(too_long(f"# Title\n{joined}")) == 1
    for between in (". ", "\n\n", "\n- ", "\n## Title\n", "\n```\ncode\n```\n"):
        assert too_long(half.strip() + between + half) == []
    assert too_long(f"| {joined} |") == [] == too_long(f"    {half}{half}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_sentences_of_a_page(page: Path) -> None:
    assert too_long(page.read_text()) == []


def test_sentences_of_docstrings() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {sentence}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(text := node.value.value, str)
        for sentence in too_long(inspect.cleandoc(text))
    ]
    assert long == []


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_lines_of_a_page_fit_a_screen(page: Path) -> None:
    lines = enumerate(page.read_text().splitlines(), 1)
    long = [n for n, line in lines if len(line) > WIDTH and not line.startswith("|")]
    assert long == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_a_page_names_exist(page: Path) -> None:
    folders = [ROOT / name for name in ("sirius_tf", "tests", "tools")]
    paths = {f"/{path.relative_to(ROOT)}" for folder in folders for path in folder.rglob("*.*")}
    named = re.findall(
        r"(?<![\w/.*<])(\w[\w/]*\.(?:py|c|h|cuh|cpp))\b", CODE.sub("", page.read_text())
    )
    assert [name for name in named if not any(p.endswith(f"/{name}") for p in paths)] == []


def test_examples_of_contributions_are_in_the_code() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    parts = re.findall(r"^# (\S+)\n((?:    .*\n)+)", "".join(blocks), re.MULTILINE)
    assert len(parts) == 7
    assert [example for path, example in parts if example not in (ROOT / path).read_text()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([\w./]*)(?:#([\w-]+))?\)", page.read_text())
    targets = [(page.parent / name if name else page, place) for name, place in links]
    assert [str(target) for target, _ in targets if not target.exists()] == []
    assert [place for target, place in targets if place and place not in _places(target)] == []


def _places(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_names_of_the_glossary_are_in_the_code() -> None:
    sources = [p for p in PACKAGE.rglob("*.*") if p.suffix in (".py", ".c", ".h", ".cuh")]
    words = {word for path in sources for word in re.findall(r"\w+", path.read_text())}
    named = re.findall(r"`([^`]+)`", (ROOT / "docs" / "glossary.md").read_text())
    unknown = {
        name for name in named for word in re.findall(r"[A-Za-z]\w+", name) if word not in words
    }
    assert unknown == set()
