# SPDX-License-Identifier: Apache-2.0
"""BUILD against the tree: every source file is in one target, and targets name what exists."""

import ast
import collections

import pytest

from tests.support import ROOT

FOLDERS = ("sirius_tf", "tools", "tests")
SUFFIXES = (".py", ".c", ".cpp", ".cuh", ".h")


@pytest.fixture(scope="module")
def targets():
    """The rules of BUILD by name; Starlark as plain as this one is Python, too."""
    text = (ROOT / "BUILD").read_text()
    names = {n.func.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)}
    found = {}

    def rule(*_, name=None, **attributes):
        if name is not None:
            assert name not in found, f"two targets are called {name}"
            found[name] = attributes

    exec(compile(text, "BUILD", "exec"), dict.fromkeys(names, rule) | {"glob": lambda _: []})
    return found


def listed(targets):
    for attributes in targets.values():
        for file in (*attributes.get("srcs", ()), *attributes.get("hdrs", ())):
            if not file.startswith(":"):
                yield file


def test_every_source_file_is_in_one_target(targets):
    counts = collections.Counter(listed(targets))
    files = {
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in SUFFIXES
    }
    assert sorted(files - counts.keys()) == [], "in no target"
    assert [file for file in counts if not (ROOT / file).is_file()] == [], "not there"
    assert [file for file, count in counts.items() if count > 1] == []


def test_dependencies_exist(targets):
    for name, attributes in targets.items():
        for label in (*attributes.get("deps", ()), *attributes.get("data", ())):
            assert label.startswith("@pypi//") or label.removeprefix(":") in targets, (name, label)


def test_layers_depend_on_earlier_ones(targets):
    """Bazel's graph is acyclic, so a target may only name those above it in the file."""
    known = set()
    for name, attributes in targets.items():
        own = {d.removeprefix(":") for d in attributes.get("deps", ()) if d.startswith(":")}
        assert own <= known, name
        known.add(name)
