# SPDX-License-Identifier: Apache-2.0
"""Golden files: printed text that is reviewed as prose, renewed by --update-golden."""

import os
import sys

import hypothesis
import pytest

from tests.support import ROOT

# TensorFlow's own kernels are the oracle, on every processor: oneDNN's, which it prefers where
# there is AVX-512, give a fused convolution of no images the channels of its input.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("SIRIUS_CHECK", "1")  # what every pass makes is verified

hypothesis.settings.register_profile("busy", deadline=None)  # machines are
hypothesis.settings.load_profile("busy")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="renew testdata/golden")


def pytest_ignore_collect(collection_path, config):
    """`-m ir` is the quick tier: what is not in it is not even imported."""
    if config.option.markexpr == "ir" and collection_path.name.startswith("test_"):
        return "pytest.mark.ir" not in collection_path.read_text() or None
    return None


def pytest_collection_modifyitems(items):
    """What runs in the emulator is slow."""
    for item in items:
        if item.get_closest_marker("cuda_emu"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def quick(request):
    """A test of the quick tier that imports TensorFlow is in the wrong one."""
    yield
    if request.config.option.markexpr == "ir":
        assert "tensorflow" not in sys.modules


@pytest.fixture
def golden(request):
    """Check text against testdata/golden/<module>/<name>.txt."""
    folder = ROOT / "testdata" / "golden" / request.module.__name__.rpartition(".")[2]

    def check(name: str, text: str) -> None:
        path = folder / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.read_text() == text, f"{path} differs: see --update-golden"

    return check
