# SPDX-License-Identifier: Apache-2.0
"""Values as bytes: the same values come back, and nothing but values."""

import io
import json
import os
import pickle
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import pytest

from sirius_tf.bundle import cache, codec, store
from sirius_tf.compile import compile_program
from sirius_tf.ir.expr import Const, Dim
from sirius_tf.rewrite.check import Measured
from tests.support import programs


def again(value):
    file = io.BytesIO()
    codec.write(value, file)
    file.seek(0)
    return codec.read(file)


@pytest.mark.parametrize(
    "value",
    [
        None, True, -0.0, 1e-320, float("inf"), 2**70, "\ud800\0", "", b"", b"\0\n", (), [], {},
        (1, [2.5, (b"x", None)], {"a": (), (1, "b"): [{}]}), {1: 2, "1": 3, None: 4, b"": b""},
        Dim("x", 0), (Const(2, "int64"), Const(True, "bool"), Const(-0.0, "float32")),
        {"serve": Measured(1e-7, 2.5, 0.1)},
    ],
)  # fmt: skip
def test_values_come_back(value) -> None:
    assert repr(again(value)) == repr(value) and type(again(value)) is type(value)


@pytest.mark.parametrize("dtype", ["f", "d", "e", "?", "b", "u8", "i4", ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_arrays_come_back(dtype, shape) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    for given in (array, array.T, np.broadcast_to(array, (2, *shape))):
        found = again((given, given))
        assert found[0] is found[1] and found[0].dtype == array.dtype
        np.testing.assert_array_equal(found[0], given)


def test_kernels_come_back() -> None:
    kernel = compile_program(programs.dense())
    found = again(kernel)
    assert (found.plan, found.runs, type(found)) == (kernel.plan, kernel.runs, type(kernel))
    for made, given in zip(found.program.tensors, kernel.program.tensors, strict=True):
        assert replace(made, value=None) == replace(given, value=None)
        if given.value is not None:
            np.testing.assert_array_equal(made.value, given.value)
    bare = [replace(k.program, tensors=()) for k in (found, kernel)]
    assert bare[0] == bare[1]


@pytest.mark.parametrize("dtype", ["f", "d", "e", "?", "b", "u8", "i4", ml_dtypes.bfloat16])
def test_scalars_of_numpy_come_back(dtype) -> None:
    scalar = np.ones(1, dtype)[0]
    found = again((scalar, [scalar]))
    assert type(found[0]) is type(found[1][0]) is type(scalar) and found[0] == scalar


@dataclass
class Mine:
    """None of the package's."""

    value: int


@pytest.mark.parametrize("value", [Mine(1), {1, 2}, 1j, print, object(), Dim])
def test_other_values_are_refused(value) -> None:
    with pytest.raises(TypeError, match="are not kept"):
        codec.write((1, value), io.BytesIO())


@pytest.mark.parametrize(
    "row",
    [
        ["os:system", "touch {}"], ["sirius_tf.bundle.store:os.system", "touch {}"],
        ["sirius_tf.bundle.store:os", "touch {}"], ["sirius_tf.bundle.store:_warn", "a"],
        ["tests.bundle.test_codec:Mine", 1], ["builtins:eval", "1"], ["sirius_tf.nothing:Dim"],
        ["sirius_tf.ir.expr:Dim", 1], ["sirius_tf.bundle.cc:CompilerError", "x"],
        ["array", "float32", 8, 2], ["array", "object", 8, 1], ["none"], [[0]], 7,
    ],
)  # fmt: skip
def test_bytes_ask_for_nothing_but_values(row, tmp_path) -> None:
    text = json.dumps({"rows": [row], "value": [0]}).replace("{}", str(tmp_path / "made"))
    with pytest.raises(Exception) as error:
        codec.read(io.BytesIO(text.encode() + b"\n1234"))
    assert isinstance(error.value, (AttributeError, ImportError, TypeError, ValueError, IndexError))
    assert not os.listdir(tmp_path)


class Planted:
    """What a pickle of it runs when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("seal", [True, False])
def test_a_planted_pickle_is_not_run(seal, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = pickle.dumps(Planted(str(tmp_path / "made")), 4)
    assert cache.remembered("kind", "key", lambda: 1) == 1
    (entry,) = (tmp_path / "sirius_tf" / "kind").iterdir()
    if seal:
        store.keep("kind", entry.name, lambda sealed: sealed.write(data))
    else:
        entry.write_bytes(data)
    assert cache.remembered("kind", "key", lambda: 2) == 2
    assert cache.remembered("kind", "key", lambda: 3) == 2
    assert os.listdir(tmp_path) == ["sirius_tf"]
    pickle.loads(data)
    assert (tmp_path / "made").exists()  # it would have
