# SPDX-License-Identifier: Apache-2.0
"""Two SavedModels compared as a conversion compares its result with the original."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from sirius_tf.errors import DifferenceError, SiriusError
from sirius_tf.rewrite import check, measure

X = np.linspace(1, 2, 64, dtype="float32")
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(measure, "_SECONDS", 0.0)


class Model(tf.Module):
    """Results of all kinds, each of which can be changed."""

    def __init__(self, factor=1.0, last=0.0, more=0, flag=True, end=""):
        super().__init__()
        self.factor, self.last, self.more, self.flag, self.end = factor, last, more, flag, end

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(self, x):
        n = tf.size(x)
        last = tf.one_hot(n - 1, n, on_value=tf.constant(self.last), off_value=0.0)
        return {
            "real": x * self.factor + last,
            "whole": tf.cast(x * 1000.0, tf.int32) + self.more,
            "flag": tf.equal(n > 0, self.flag),
            "word": tf.strings.as_string(n) + self.end,
        }


def save(path: Path, **kinds) -> Path:
    module = Model(**kinds)
    tf.saved_model.save(module, str(path), signatures=module.serve)
    return path


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return save(tmp_path_factory.mktemp("original") / "model")


def compare(original: Path, rewritten: Path) -> check.Measured:
    name = "serving_default"
    samples = {name: {"x": X}}
    return check.compare(original, rewritten, ["serve"], samples, {name: TOLERANCE}, {})[name]


def test_the_same_results_are_right(original, tmp_path) -> None:
    assert compare(original, save(tmp_path / "m")).error == 0.0
    near = compare(original, save(tmp_path / "near", factor=1 + 0.5 * TOLERANCE))
    assert near.error == pytest.approx(0.5 * TOLERANCE, rel=0.1)
    assert near.tf_ms > 0 and near.sirius_ms > 0


@pytest.mark.parametrize(
    ("kinds", "output", "error"),
    [
        ({"factor": 1 + 1.5 * TOLERANCE}, "real", "1.5e-05"),
        ({"last": float("nan")}, "real", "inf"),
        ({"last": float("inf")}, "real", "inf"),
        ({"more": 1}, "whole", "inf"),
        ({"flag": False}, "flag", "inf"),
        ({"end": "!"}, "word", "inf"),
    ],
)
def test_what_differs_is_an_error(original, tmp_path, kinds, output, error) -> None:
    message = f"output '{output}' of the rewritten model has an error of {error}, more than 1.0e-05"
    with pytest.raises(DifferenceError, match=message):
        compare(original, save(tmp_path / "m", **kinds))


def spoil_objects(path: Path) -> None:
    """A model of which a session runs the same functions under other names, and objects now
    multiply by 1.5."""
    file = path / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    graph_def = saved.meta_graphs[0].graph_def
    copies = [type(f).FromString(f.SerializeToString()) for f in graph_def.library.function]
    for copy in copies:
        copy.signature.name += "_copy"
    for node in [*graph_def.node, *(n for copy in copies for n in copy.node_def)]:
        if node.attr["f"].func.name:
            node.attr["f"].func.name += "_copy"
        else:
            del node.attr["f"]
    for function in graph_def.library.function:
        for node in function.node_def:
            if node.op == "Const" and node.attr["value"].tensor.float_val[:] == [1.0]:
                node.attr["value"].tensor.float_val[:] = [1.5]
    graph_def.library.function.extend(copies)
    file.write_bytes(saved.SerializeToString())


def test_objects_are_compared_too(original, tmp_path) -> None:
    path = save(tmp_path / "m")
    spoil_objects(path)
    with pytest.raises(DifferenceError, match=r"'real' .* error of 5.0e-01"):
        compare(original, path)


def without_objects(path: Path) -> Path:
    """A model that can be loaded into a session, and not as objects."""
    file = path / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    saved.meta_graphs[0].object_graph_def.concrete_functions.clear()
    file.write_bytes(saved.SerializeToString())
    return path


def test_objects_that_cannot_be_loaded_any_more_are_an_error(original, tmp_path) -> None:
    broken = without_objects(save(tmp_path / "broken"))
    message = r"objects of the rewritten model cannot be loaded, .*: TypeError: cannot unpack"
    with pytest.raises(SiriusError, match=message):  # TensorFlow's own words
        compare(original, broken)
    assert compare(broken, save(tmp_path / "m")).error == 0.0
    assert compare(broken, broken).error == 0.0  # Python code that is not there: sessions only


def test_a_model_that_fails_is_an_error(original, tmp_path) -> None:
    class Failing(Model):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def serve(self, x):
            return {**super().serve(x), "real": tf.debugging.check_numerics(x / 0.0, "bad")}

    module = Failing()
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=module.serve)
    with pytest.raises(SiriusError, match=r"does not run: [^?]*bad : Tensor had Inf"):
        compare(original, tmp_path / "m")


def test_an_output_that_is_gone_is_an_error(original, tmp_path) -> None:
    class Fewer(Model):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def serve(self, x):
            found = super().serve(x)
            return {key: found[key] for key in ("real", "whole", "flag")}

    module = Fewer()
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=module.serve)
    with pytest.raises(DifferenceError, match=r"output 'word' .* error of inf"):
        compare(original, tmp_path / "m")
