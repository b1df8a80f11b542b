# SPDX-License-Identifier: Apache-2.0
"""Whole models: converted once, then run at other sizes, moved, and given new weights."""

import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import pytest
import tensorflow as tf

import sirius_tf
from sirius_tf import runtime
from sirius_tf.bundle import cc
from sirius_tf.errors import InvalidArgument
from sirius_tf.rewrite.difference import relative_error, rounding
from sirius_tf.tools.models import fetch, zoo

pytestmark = pytest.mark.slow
tf1 = tf.compat.v1
RNG = np.random.default_rng(5)


@dataclass(frozen=True)
class Model:
    """What is fed to a model, by size, and how many regions and phases a good schedule has."""

    name: str
    sizes: tuple[tuple[int, ...], ...]
    feed: Callable[..., dict[str, np.ndarray]]
    barriers: int


def normal(*shape):
    return RNG.standard_normal(shape).astype("f")


def tokens(batch, length):
    mask = np.ones((batch, length), np.int32)
    mask[:, length // 2 + 1 :] = 0
    return {"ids": RNG.integers(0, 1000, (batch, length), np.int32), "mask": mask}


MODELS = [
    Model("mmoe", ((1,), (7,), (33,)), lambda b: {"x": normal(b, 499)}, 6),
    Model("lstm", ((1, 5), (3, 7), (2, 33)), lambda b, t: {"x": normal(b, t, 256)}, 7),
    Model("bert_small", ((1, 64), (3, 7), (2, 33)), tokens, 5),
    Model("basic_pitch", ((1,), (2,), (3,)), lambda b: {"input_2": 0.1 * normal(b, 43844, 1)}, 60),
    Model("mobilenet", ((1,), (2,)), lambda b: {"x": normal(b, 224, 224, 3)}, 60),
]


def run(path, feed):
    """The default signature in a session, as servers run it."""
    with tf1.Session(graph=tf.Graph()) as session:
        definitions = tf1.saved_model.load(session, ["serve"], str(path)).signature_def
        signature = definitions["serving_default"]
        feeds = {signature.inputs[key].name: value for key, value in feed.items()}
        outputs = sorted(signature.outputs)  # a proto's map has no order
        return session.run({key: signature.outputs[key].name for key in outputs}, feeds)


def assert_same(got, want, floor):
    """Within 1e-5, or what rounding of the inputs alone does to TensorFlow's results."""
    assert got.keys() == want.keys()
    least = None
    for k, key in enumerate(want):
        assert got[key].shape == want[key].shape
        error = relative_error(got[key], want[key])
        if error >= 1e-5:
            least = least or floor()
            assert error <= least[k], key


def floor_of(path, feed):
    """What the last bits of the inputs do to the results."""

    def call(arrays):
        return list(run(path, dict(zip(feed, arrays, strict=True))).values())

    return rounding(call, list(feed.values()))


@pytest.fixture(scope="module", params=MODELS, ids=lambda m: m.name)
def converted(request, tmp_path_factory):
    """The model, where it is, and what became of it, in a directory that it was not made in."""
    folder = tmp_path_factory.mktemp(request.param.name)
    source, made, moved = (folder / name for name in ("model", "made", "elsewhere"))
    if request.param.name == "basic_pitch":
        fetch.fetch(source)
    else:
        keras.backend.clear_session()
        zoo.build(request.param.name, source)
    samples = {"serving_default": request.param.feed(*request.param.sizes[0])}
    if request.param.name in ("mmoe", "lstm", "mobilenet"):  # Keras exports one function twice
        samples["serve"] = samples["serving_default"]
    options = sirius_tf.Options(keep_slow=True, dump=folder / "dump")
    result = sirius_tf.optimize(source, made, samples=samples, options=options)
    made.rename(moved)
    return request.param, source, moved, result, folder / "dump"


def test_one_region_takes_every_op(converted) -> None:
    model, _, _, result, dump = converted
    for signature in result.signatures:
        assert signature.compiled == signature.ops and not signature.left
        assert len(signature.regions) == 1 and signature.regions[0].kept
    loops = list(dump.glob("*.loops.txt"))
    assert loops and all(p.read_text().count("phase\n") <= model.barriers for p in loops)


def test_sizes_that_were_not_compiled_for(converted) -> None:
    model, source, moved, _, _ = converted
    direct = runtime.load(moved)
    for size in model.sizes:
        feed = model.feed(*size)
        want = run(source, feed)
        floor = functools.cache(functools.partial(floor_of, source, feed))
        assert_same(run(moved, feed), want, floor)
        assert_same(direct(**feed), want, floor)


def test_a_wrong_input_is_an_invalid_argument(converted) -> None:
    model, _, moved, _, _ = converted
    feed = model.feed(*model.sizes[0])
    key, value = next(iter(feed.items()))
    if model.name == "bert_small":
        with pytest.raises(tf.errors.InvalidArgumentError, match="index -1 is not in"):
            run(moved, {**feed, key: np.full_like(value, -1)})
        value = value[:, :, np.newaxis]
    with pytest.raises(InvalidArgument):
        runtime.load(moved)(**{**feed, key: value[..., :-1]})


@pytest.mark.parametrize("converted", MODELS[:3], ids=lambda m: m.name, indirect=True)
def test_new_weights_need_no_compiler(converted, tmp_path, monkeypatch) -> None:
    model, source, moved, _, _ = converted
    other, mine = tmp_path / "other", tmp_path / "mine"
    shutil.copytree(moved, mine)
    keras.backend.clear_session()  # layers are called alike
    keras.utils.set_random_seed(1)
    zoo.ZOO[model.name](str(other), np.random.default_rng(1))

    def refuse(*arguments):
        raise AssertionError("the compiler ran")

    monkeypatch.setattr(cc, "run_compiler", refuse)
    feed = model.feed(*model.sizes[1])
    samples = {"serving_default": feed}
    if model.name != "bert_small":
        samples["serve"] = feed
    sirius_tf.refresh(mine, other, samples=samples)
    want = run(other, feed)
    assert_same(run(mine, feed), want, lambda: floor_of(other, feed))
    assert np.linalg.norm(next(iter(want.values())) - next(iter(run(source, feed).values()))) > 0
