# SPDX-License-Identifier: Apache-2.0
"""Opening and closing bundles: what is refused, what a replaced file does, what is left behind."""

import ctypes
import gc
import hashlib
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sirius_tf.bundle import cc, seal
from sirius_tf.errors import SiriusError
from sirius_tf.runtime import native
from tests.support.example import build_example, renamed, sealed

X = np.arange(5, dtype="f")


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return build_example(tmp_path_factory.mktemp("example"))


def call(bundle):
    (y,) = bundle.call("axpb", [X, np.float32(3), X])
    np.testing.assert_array_equal(y, 4 * X)


def mapped(*paths):
    """How many mappings this process has of files of these names."""
    gc.collect()
    text = Path("/proc/self/maps").read_text()
    return sum(any(str(path) in line for path in paths) for line in text.splitlines())


@pytest.mark.parametrize(
    ("define", "message"),
    [("CONSTRUCTOR", "would run code, or load other"), ("IMPORT", "that no bundle needs")],
)
def test_what_is_no_bundle_is_not_loaded(define, message, tmp_path) -> None:
    path = build_example(tmp_path, "other.so", [f"-D{define}"])
    with pytest.raises(SiriusError, match=message):
        native.Bundle(path)
    assert mapped(path) == 0


def places(data):
    """Where an object has the headers of its segments, its dynamic section, and relocations."""
    count, first = struct.unpack_from("<H", data, 56)[0], struct.unpack_from("<Q", data, 32)[0]
    headers = [first + 56 * k for k in range(count)]
    kinds = [struct.unpack_from("<II", data, at) for at in headers]
    loads = [at for at, (kind, _) in zip(headers, kinds, strict=True) if kind == 1]
    (dynamic,) = (at for at, (kind, _) in zip(headers, kinds, strict=True) if kind == 2)
    start, size = (struct.unpack_from("<Q", data, dynamic + at)[0] for at in (8, 32))
    tags = {struct.unpack_from("<Q", data, at)[0]: at for at in range(start, start + size, 16)}
    (relocations,) = struct.unpack_from("<Q", data, tags[7] + 8)
    return loads, dynamic, tags, relocations


LATER = 1 << 40
CHANGES = {
    "32 bits": (lambda *_: 4, "B", 1, "no shared object for x86-64"),
    "an executable": (lambda *_: 16, "H", 2, "no shared object for x86-64"),
    "for another machine": (lambda *_: 18, "H", 183, "no shared object for x86-64"),
    "headers behind the end": (lambda *_: 32, "Q", LATER, "no shared object for x86-64"),
    "headers beyond all sizes": (lambda *_: 32, "Q", (1 << 64) - 8, "no shared object"),
    "more headers than any has": (lambda *_: 56, "H", 65535, "no shared object for x86-64"),
    "another kind of segment": (lambda loads, *_: loads[1], "I", 3, "segment of type 0x3"),
    "a segment behind the end": (lambda loads, *_: loads[1] + 8, "Q", LATER, "not inside"),
    "a longer segment": (lambda loads, *_: loads[-1] + 32, "Q", LATER, "not inside"),
    "an endless segment": (lambda loads, *_: loads[-1] + 40, "Q", (1 << 64) - 8, "not inside"),
    "an address beyond all": (lambda loads, *_: loads[-1] + 16, "Q", 1 << 63, "not inside"),
    "overlapping segments": (lambda loads, *_: loads[0] + 40, "Q", 1 << 16, "overlap"),
    "writable code": (lambda loads, *_: loads[-1] + 4, "I", 7, "code that may be written"),
    "a dynamic section elsewhere": (lambda loads, d, *_: d + 8, "Q", 0, "no bundle needs"),
    "a dynamic section in no segment": (lambda loads, d, *_: d + 16, "Q", LATER, "no bundle needs"),
    "an object that it needs": (lambda loads, d, tags, r: tags[30], "Q", 1, "load other objects"),
    "code run at last": (lambda loads, d, tags, r: tags[30], "Q", 26, "would run code"),
    "an endless dynamic section": (lambda loads, d, tags, r: tags[0], "Q", 4, "without an end"),
    "relocations behind the end": (lambda loads, d, tags, r: tags[8] + 8, "Q", LATER, "inside"),
    "a relocation by name": (lambda loads, d, tags, r: r + 8, "Q", 6, "relocation that no bundle"),
    "a relocation of code": (lambda loads, d, tags, r: r, "Q", 8, "relocation that no bundle"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_object_that_no_linker_of_ours_makes(change, example, tmp_path) -> None:
    find, kind, value, message = CHANGES[change]
    data = bytearray(example.read_bytes())
    del data[seal.content_size(data, example) :]
    struct.pack_into(f"<{kind}", data, find(*places(data)), value)
    seal.write_sealed(tmp_path / "changed.so", [data])
    with pytest.raises(SiriusError, match=message):
        native.Bundle(tmp_path / "changed.so")
    assert mapped(tmp_path) == 0


def test_no_file(tmp_path) -> None:
    for path, message in ((tmp_path, "not a file"), (tmp_path / "no", "No such file")):
        with pytest.raises(SiriusError, match=message):
            native.Bundle(path)


def test_a_bundle_is_unmapped_when_nobody_has_it(example, tmp_path) -> None:
    path = shutil.copy(example, tmp_path / "used.so")
    bundle, again = native.Bundle(path), native.Bundle(path)
    once = mapped(path)
    region = again.regions["axpb"]
    del bundle, again
    assert mapped(path) == once > 0
    np.testing.assert_array_equal(region([X, np.float32(3), X])[0], 4 * X)
    del region
    assert mapped(path) == 0


def test_a_replaced_file_is_another_bundle(example, tmp_path) -> None:
    path = shutil.copy(example, tmp_path / "replaced.so")
    former = native.Bundle(path)
    renamed(path, b"renewed", path)
    bundle = native.Bundle(path)
    assert [b.manifest["name"] for b in (former, bundle)] == ["example", "renewed"]
    call(former)
    call(bundle)


def test_an_overwritten_file_is_an_error_while_the_old_one_is_in_use(example, tmp_path) -> None:
    path = shutil.copy(example, tmp_path / "overwritten.so")
    former = native.Bundle(path)
    renamed(path, b"renewed", tmp_path / "renewed.so")
    shutil.copyfile(tmp_path / "renewed.so", path)  # the same inode
    with pytest.raises(SiriusError, match="overwritten while in use"):
        native.Bundle(path)
    del former
    gc.collect()
    assert native.Bundle(path).manifest["name"] == "renewed"


def test_a_file_that_was_moved_is_the_same(example, tmp_path) -> None:
    path = shutil.copy(example, tmp_path / "first.so")
    bundle = native.Bundle(path)
    mappings = mapped(tmp_path)
    path.chmod(0o400)
    again = native.Bundle(path)
    path.rename(tmp_path / "moved.so")
    moved = native.Bundle(tmp_path / "moved.so")
    assert mapped(tmp_path) == mappings
    del again, bundle
    assert mapped(tmp_path) == mappings
    call(moved)
    del moved
    assert mapped(tmp_path) == 0


def test_reloads_leave_nothing_behind(example, tmp_path) -> None:
    def counts():
        gc.collect()
        descriptors = os.listdir("/proc/self/fd")
        return len(descriptors), len(Path("/proc/self/maps").read_text().splitlines())

    path = tmp_path / "reloaded.so"
    for turn in range(500):
        renamed(example, b"%07d" % turn, path)
        bundle = native.Bundle(path)
        assert bundle.manifest["name"] == f"{turn:07d}"
        call(bundle)
        if turn == 10:
            before = counts()
    assert counts() == before


def test_versions_that_are_open_at_once(example, tmp_path) -> None:
    bundles = []
    for turn in range(100):  # descriptors' numbers come again, names must not
        renamed(example, b"%07d" % turn, tmp_path / "version.so")
        bundles.append(native.Bundle(tmp_path / "version.so"))
    assert [int(b.manifest["name"]) for b in bundles] == list(range(100))


IN_TENSORFLOW = """
import gc, sys
import numpy as np, tensorflow as tf
from sirius_tf.runtime.op import sirius_region
folder = sys.argv[1]
x = np.arange(5, dtype="f")

@tf.function
def call(path):
    return sirius_region([x, np.float32(3), x], path, "axpb", [tf.float32])[0]

def mapped():
    return {line.split()[-1] for line in open("/proc/self/maps") if folder in line}

paths = [f"{folder}/{k}.so" for k in range(9)]
for path in [*paths, *paths[::-1], *paths[:2] * 50]:
    np.testing.assert_array_equal(call(tf.constant(path)), 4 * x)
    assert len(mapped()) <= 5, mapped()
try:
    call(tf.constant(paths[0] + "\\0"))
    raise SystemExit("no error")
except tf.errors.InvalidArgumentError as e:
    assert "NUL" in str(e), e
try:
    sirius_region([x, np.float32(3), x], paths[0], "axpb", [tf.float32], "of another graph")
    raise SystemExit("no error")
except tf.errors.FailedPreconditionError as e:
    assert "another graph" in str(e), e
del call
gc.collect()
assert not mapped(), mapped()
"""


def test_in_tensorflow(example, tmp_path) -> None:
    for k in range(9):
        renamed(example, b"%07d" % k, tmp_path / f"{k}.so")
    done = subprocess.run(
        [sys.executable, "-c", IN_TENSORFLOW, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_an_object_of_another_kind(tmp_path) -> None:
    (tmp_path / "empty.c").write_text("int x;")
    cc.compile_shared([tmp_path / "empty.c"], tmp_path / "empty.so", ["-nostdlib"])
    with pytest.raises(SiriusError, match="not a bundle of this version"):
        native.Bundle(tmp_path / "empty.so")
    with pytest.raises(SiriusError, match="no symbol sirius_bundle"):
        native.Bundle(sealed(tmp_path / "empty.so"))


def test_a_copy_may_be_overwritten(example, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SIRIUS_BUNDLE_COPY", "1")
    path = shutil.copy(example, tmp_path / "copied.so")
    former = native.Bundle(path)
    assert mapped(path) == 0 < mapped("memfd:sirius_bundle")
    renamed(path, b"renewed", tmp_path / "renewed.so")
    shutil.copyfile(tmp_path / "renewed.so", path)  # the same inode
    again = native.Bundle(path)
    path.write_bytes(b"")
    assert [b.manifest["name"] for b in (former, again)] == ["example", "renewed"]
    call(former)
    call(again)
    del former, again
    assert mapped("memfd:sirius_bundle") == 0


def test_bundles_that_are_not_in_the_list(example, tmp_path, monkeypatch) -> None:
    path = shutil.copy(example, tmp_path / "listed.so")
    known = hashlib.sha256(path.read_bytes()).hexdigest()
    trusted = tmp_path / "trusted"
    monkeypatch.setenv("SIRIUS_TRUSTED", str(trusted))
    with pytest.raises(SiriusError, match=r"names .*/trusted, which cannot be read \(No such"):
        native.Bundle(path)
    for text in ("", f"{known[:-1]}\n", f"{known}0 longer\n", f"# {known}\n"):
        trusted.write_text(text)
        with pytest.raises(SiriusError, match=f"its SHA-256 {known} is not in .*/trusted"):
            native.Bundle(path)
    for text in (known, f"00  other\n{known.upper()}  {path}\n"):
        trusted.write_text(text)
        bundle = native.Bundle(path)
        call(bundle)
        assert mapped(path) == 0  # what was hashed is a copy that nobody can change
        del bundle
        gc.collect()


def test_hashes_are_sha_256() -> None:
    library = native.library()
    data = np.random.default_rng(0).bytes(1000)
    for size in (0, 1, 55, 56, 63, 64, 65, 119, 120, 1000):
        sha, digits = ctypes.create_string_buffer(256), ctypes.create_string_buffer(65)
        library.sirius_sha256_begin(sha)
        for part in (data[: size // 3], data[size // 3 : size]):
            library.sirius_sha256_add(sha, part, ctypes.c_size_t(len(part)))
        library.sirius_sha256_end(sha, digits)
        assert digits.value.decode() == hashlib.sha256(data[:size]).hexdigest()
