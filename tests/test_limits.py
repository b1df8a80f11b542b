# SPDX-License-Identifier: Apache-2.0
"""Limits of CONTRIBUTING.md: sizes of modules, functions and packages, names of files, imports."""

import ast
import collections
import functools
from pathlib import Path

from sirius_tf.ir.scc import components
from tests.support import ROOT

LINES = {".py": 400, ".c": 450, ".cuh": 450}
FUNCTION, PACKAGE, SAME_NAME = 50, 20, 2
#: Imports inside functions, and why they are not at the top.
LATE = {
    "sirius_tf/__init__.py": "bundles are run without TensorFlow and the compiler",
    "sirius_tf/ir/dtypes.py": "ml_dtypes comes with TensorFlow; only half precision needs it",
    **dict.fromkeys(
        (
            "sirius_tf/tools/benchmark.py",
            "sirius_tf/tools/convert.py",
            "sirius_tf/tools/gpu/archive.py",
            "sirius_tf/tools/gpu/kernels.py",
            "sirius_tf/tools/inspect.py",
            "sirius_tf/tools/peers.py",
            "sirius_tf/tools/perf/random_requests.py",
            "sirius_tf/tools/perf/roofline.py",
            "sirius_tf/tools/perf/tune.py",
        ),
        "TensorFlow takes seconds, which --help need not; charts and peers are optional",
    ),
}
PATHS = {
    str(path.relative_to(ROOT)): path
    for path in sorted((ROOT / "sirius_tf").rglob("*"))
    if path.suffix in LINES
}
MODULES = {
    name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): name
    for name in PATHS
    if name.endswith(".py")
}


@functools.cache
def tree(name):
    return ast.parse(PATHS[name].read_text())


def functions(name):
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return [node for node in ast.walk(tree(name)) if isinstance(node, kinds)]


def imports(node):
    return [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]


def test_lines_of_a_file():
    lines = {name: path.read_text().count("\n") for name, path in PATHS.items()}
    assert {n: count for n, count in lines.items() if count > LINES[PATHS[n].suffix]} == {}


def test_lines_of_a_function():
    lines = {
        f"{name}: {node.name}": node.end_lineno - node.lineno + 1
        for name in MODULES.values()
        for node in functions(name)
    }
    assert {n: count for n, count in lines.items() if count > FUNCTION} == {}


def test_modules_of_a_package():
    names = [Path(name) for name in MODULES.values()]
    counts = collections.Counter(n.parent for n in names if n.name != "__init__.py")
    assert {package: count for package, count in counts.items() if count > PACKAGE} == {}


def test_names_of_files():
    names = [Path(name).name for name in MODULES.values() if not name.endswith("__init__.py")]
    assert [n for n, count in collections.Counter(names).items() if count > SAME_NAME] == []


def test_imports_are_at_the_top_but_for_a_reason():
    late = {name for name in MODULES.values() if any(map(imports, functions(name)))}
    assert late == LATE.keys()


def test_no_module_imports_one_that_imports_it():
    """Nor later, inside a function."""
    edges = []
    for module, name in MODULES.items():
        for node in imports(tree(name)):
            for alias in node.names:
                whole = alias.name
                if isinstance(node, ast.ImportFrom):
                    whole = f"{node.module}.{alias.name}"
                used = whole if whole in MODULES else whole.rpartition(".")[0]
                edges += [(module, used)] if used in MODULES else []
    assert [circle for circle in components(list(MODULES), edges) if len(circle) > 1] == []


def test_no_test_is_imported_by_another_one():
    for path in (ROOT / "tests").rglob("*.py"):
        for node in imports(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{name}" for name in names]
            parts = {part for name in names for part in name.split(".")}
            assert not any(part.startswith("test_") for part in parts), path
