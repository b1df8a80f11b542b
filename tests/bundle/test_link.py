# SPDX-License-Identifier: Apache-2.0
"""Bundles: new weights in old code, and objects that are compiled once."""

import tempfile
from dataclasses import replace

import numpy as np
import pytest

from sirius_tf.bundle import cache, cc, marks
from sirius_tf.bundle.link import link, repack, weights
from sirius_tf.compile import compile_program
from sirius_tf.errors import SiriusError
from sirius_tf.ir import interp
from sirius_tf.runtime import native
from tests.support import programs
from tests.support.programs import scaled


def fnv(data: bytes) -> str:
    """FNV-1a of 64 bits, in hex."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


@pytest.fixture
def inputs():
    return [np.random.default_rng(0).standard_normal((3, 499)).astype("f")]


def test_repacked_weights_compute_what_a_conversion_would(tmp_path, inputs, monkeypatch) -> None:
    old, new = programs.dense(), scaled(programs.dense(), 2.0)
    (tmp_path / "variables").mkdir()
    assets = tmp_path / "assets"
    assets.mkdir()
    index = tmp_path / "variables" / "variables.index"
    index.write_bytes(b"old")
    link([compile_program(old)], assets / "old.so", {"n": 1}, fnv(b"old"))

    def refuse(*arguments):
        raise AssertionError("the compiler ran")

    monkeypatch.setattr(cc, "run_compiler", refuse)
    kernel = compile_program(new)
    repack(assets / "old.so", assets / "new.so", [kernel], {"n": 2}, fnv(b"new"))
    (kept,) = native.Bundle(assets / "old.so").call("dense", inputs)
    index.write_bytes(b"new")
    bundle = native.Bundle(assets / "new.so")
    (want,) = interp.run(new, {"x": inputs[0]})
    np.testing.assert_allclose(bundle.call("dense", inputs)[0], want, rtol=1e-5, atol=1e-5)
    assert bundle.manifest["n"] == 2
    assert not np.allclose(kept, want)


def test_another_graph_is_not_repacked(tmp_path) -> None:
    link([compile_program(programs.dense())], tmp_path / "old.so", {})
    other = replace(programs.softmax(), name="dense")
    with pytest.raises(SiriusError, match="of another graph"):
        repack(tmp_path / "old.so", tmp_path / "new.so", [compile_program(other)], {}, "")
    assert not (tmp_path / "new.so").exists()


def test_what_is_no_bundle_is_not_repacked(tmp_path) -> None:
    (tmp_path / "old.so").write_bytes(b"\x7fELF")
    kernel = compile_program(programs.dense())
    with pytest.raises(SiriusError, match="not a sirius_tf bundle"):
        repack(tmp_path / "old.so", tmp_path / "new.so", [kernel], {}, "")


def test_objects_are_compiled_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled = []
    original = cc.run_compiler

    def count(arguments, *others):
        compiled.append(arguments)
        original(arguments, *others)

    monkeypatch.setattr(cc, "run_compiler", count)
    kernel = compile_program(programs.softmax())
    link([kernel], tmp_path / "a.so", {})
    first = len(compiled)
    link([kernel], tmp_path / "b.so", {})
    assert first == 5  # a plan, two instruction sets, tables, the link
    assert len(compiled) == first
    link([kernel], tmp_path / "c.so", {"other": 1})
    assert len(compiled) - first == 2  # tables and the link


def test_an_object_is_compiled_again_for_another_header(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    header, text = tmp_path / "number.h", '#include "number.h"\nint number(void) { return NUMBER; }'
    made = []
    for number in (1, 2, 1):
        header.write_text(f"#define NUMBER {number}\n")
        made.append(cache.compiled(text, ["-O2"], tmp_path))
    assert made[0] != made[1] and made[0] == made[2]


def test_weights_are_in_the_file_and_were_never_linked(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernel = compile_program(programs.dense())
    link([kernel], tmp_path / "a.so", {})
    data = (tmp_path / "a.so").read_bytes()
    (code,) = (tmp_path / "sirius_tf" / "code").iterdir()
    (place,) = marks.places(data, "weights")
    assert data[place] == b"".join(weights(kernel.program))
    size = place.stop - place.start
    assert code.stat().st_size < len(data) - size + 4096
    assert size > 2 * 4096


def test_a_bundle_does_not_depend_on_where_it_was_made(tmp_path, monkeypatch) -> None:
    bundles = []
    for name in ("first", "second"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
        (tmp_path / name).mkdir()
        bundles.append(tmp_path / name / f"{name}.so")
        link([compile_program(programs.softmax())], bundles[-1], {})
    assert bundles[0].read_bytes() == bundles[1].read_bytes()


def test_without_a_cache_everything_is_made_again(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    made = []
    with pytest.warns(RuntimeWarning, match="works without its cache"):
        for _ in range(2):
            assert cache.remembered("kind", "key", lambda: made.append(1) or 7) == 7
            link([compile_program(programs.softmax())], tmp_path / "a.so", {})
    assert made == [1, 1]
    (result,) = native.Bundle(tmp_path / "a.so").call("softmax", [np.ones((2, 5), "f")])
    np.testing.assert_allclose(result, np.full((2, 5), 1 / 5), rtol=1e-6)
