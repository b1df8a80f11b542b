# SPDX-License-Identifier: Apache-2.0
"""A wheel, built and used where there is no compiler but the one of the ziglang package."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sirius_tf.bundle import library, store
from tests.support import ROOT

pytestmark = pytest.mark.slow


def python(*words, folder, **environment):
    """Run Python with nothing on the PATH but what is beside it, and with an empty cache."""
    known = {key: os.environ[key] for key in ("HOME", "PYTHONPATH") if key in os.environ}
    known |= {"PATH": str(Path(sys.executable).parent), "XDG_CACHE_HOME": str(folder / "cache")}
    # zig's part of the cache is kept: it takes a minute to fill
    known["ZIG_GLOBAL_CACHE_DIR"] = str(store.directory() / "zig")
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder, env=known | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "sirius_tf", folder / "sirius_tf", ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    options = ["--no-build-isolation", "--no-deps", "--wheel-dir", "dist"]
    done = python("-m", "pip", "wheel", *options, ".", folder=folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (path,) = (folder / "dist").glob("*.whl")
    return path


def test_content(wheel):
    assert "-py3-none-linux_x86_64" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        built = archive.read(f"sirius_tf/native/{library.NAME}")
        entries = next(archive.read(n).decode() for n in names if n.endswith("entry_points.txt"))
    sources = {f"sirius_tf/native/{p.name}" for p in library.native_directory().glob("*.[ch]*")}
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "sirius_tf").rglob("*.py")}
    assert names >= sources | modules | {"sirius_tf/py.typed"}
    assert bytes.fromhex(library.digest()) in built
    assert "sirius-convert = sirius_tf.tools:run_convert" in entries


@pytest.fixture
def installed(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    return tmp_path / "installed"


FIND = """
import sys
for name in sys.argv[1:]:
    sys.modules[name] = None  # importing it fails
from sirius_tf import runtime
from sirius_tf.runtime import native
assert native.isa() >= 0
print(native.library_path())
"""


def test_the_runtime_needs_no_compiler(installed, tmp_path):
    missing = ("tensorflow", "islpy", "ziglang")
    done = python("-c", FIND, *missing, folder=tmp_path, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(installed / "sirius_tf" / "native" / library.NAME)


def test_a_library_of_other_sources_is_not_used(installed, tmp_path):
    with (installed / "sirius_tf" / "native" / "team.h").open("a") as header:
        header.write("/* changed */\n")

    def find():
        done = python("-c", FIND, folder=tmp_path, PYTHONPATH=str(installed))
        assert done.returncode == 0, done.stderr
        path = Path(done.stdout.strip())
        assert path.is_relative_to(tmp_path / "cache" / "sirius_tf")
        return path, path.read_bytes()

    path, built = find()
    path.write_bytes(built[: len(built) // 2])
    assert find() == (path, built)  # what is damaged is built anew


@pytest.mark.parametrize(
    ("name", "usage"),
    [("convert", "INPUT OUTPUT"), ("benchmark", "MODEL ...")],
)
def test_commands(installed, tmp_path, name, usage):
    program = f"import sys, sirius_tf.tools as t; sys.argv.append('--help'); t.run_{name}()"
    done = python("-c", program, folder=tmp_path, PYTHONPATH=str(installed))
    assert f"usage: {name}.py {usage}" in done.stdout, done.stderr
    assert "--threads" in done.stdout
