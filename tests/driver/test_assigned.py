# SPDX-License-Identifier: Apache-2.0
"""Variables that are assigned after loading: the code follows them where it was asked to."""

import numpy as np
import pytest
import tensorflow as tf

import sirius_tf
from sirius_tf import runtime
from sirius_tf.rewrite import measure
from sirius_tf.tools.convert import report

tf1 = tf.compat.v1
WEIGHTS = {"table": (5, 3), "w": (3, 3), "bias": (3,), "out": (3, 2)}
IDS = np.array([[1, 4, 0], [2, 2, 3]], np.int32)


@pytest.fixture(scope="module", autouse=True)
def short():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_SECONDS", 0.01)
        yield


def values(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype("f") for name, shape in WEIGHTS.items()}


class Cell(tf.Module):
    """A recurrence over rows of a table: variables are read in a loop, and looked up."""

    def __init__(self, seed):
        super().__init__()
        for name, value in values(seed).items():
            setattr(self, name, tf.Variable(value, name=name))

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, name="ids")])
    def serve(self, ids):
        rows = tf.transpose(tf.gather(self.table, ids), [1, 0, 2])
        h = tf.zeros_like(rows[0])
        for t in tf.range(tf.shape(rows)[0]):
            h = tf.tanh(rows[t] + tf.matmul(h, self.w) + self.bias)
        return {"y": tf.matmul(h, self.out)}


def expected(seed):
    cell = Cell(seed)
    return cell.serve(tf.constant(IDS))["y"].numpy()


def result_of(model):
    return model.signatures["serving_default"](ids=tf.constant(IDS))["y"].numpy()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assigned") / "model"
    module = Cell(0)
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    return folder


def converted(source, target, **options):
    options = sirius_tf.Options(keep_slow=True, **options)
    samples = {"serving_default": {"ids": IDS}}
    return sirius_tf.optimize(source, target, samples=samples, options=options)


@pytest.fixture(scope="module")
def following(source):
    """A model whose code follows its variables, and the report on it."""
    target = source.with_name("following")
    return target, converted(source, target, keep_variables=True)


def assign(model, seed):
    for name, value in values(seed).items():
        getattr(model, name).assign(value)


def test_all_is_compiled_and_no_variable_is_a_constant(following):
    (signature,) = following[1].signatures
    assert signature.compiled == signature.ops and len(signature.regions) == 1
    assert signature.constants == ()


def test_what_is_assigned_to_objects_is_followed(following):
    model = tf.saved_model.load(str(following[0]))
    np.testing.assert_allclose(result_of(model), expected(0), rtol=1e-5, atol=1e-6)
    assign(model, 1)
    np.testing.assert_allclose(result_of(model), expected(1), rtol=1e-5, atol=1e-6)


def test_a_checkpoint_that_is_restored_is_followed(following, tmp_path):
    saved = tf.train.Checkpoint(model=Cell(2)).save(str(tmp_path / "weights"))
    model = tf.saved_model.load(str(following[0]))
    tf.train.Checkpoint(model=model).restore(saved).expect_partial()
    np.testing.assert_allclose(result_of(model), expected(2), rtol=1e-5, atol=1e-6)


def test_what_is_assigned_in_a_session_is_followed(following):
    with tf1.Session(graph=tf.Graph()) as session:
        definitions = tf1.saved_model.load(session, ["serve"], str(following[0])).signature_def
        signature = definitions["serving_default"]
        for name, value in values(3).items():
            handle = session.graph.get_tensor_by_name(f"{name}:0")
            session.run(tf.raw_ops.AssignVariableOp(resource=handle, value=value))
        feed = {signature.inputs["ids"].name: IDS}
        y = session.run(signature.outputs["y"].name, feed)
    np.testing.assert_allclose(y, expected(3), rtol=1e-5, atol=1e-6)


def test_without_tensorflow_it_has_the_checkpoint_s_values(following):
    y = runtime.load(following[0])(ids=IDS)["y"]
    np.testing.assert_allclose(y, expected(0), rtol=1e-5, atol=1e-6)


def test_new_weights_are_followed_as_before(source, following, tmp_path):
    other, target = tmp_path / "other", tmp_path / "mine"
    module = Cell(4)
    tf.saved_model.save(module, str(other), signatures=module.serve)
    converted(source, target, keep_variables=True)
    sirius_tf.refresh(target, other, samples={"serving_default": {"ids": IDS}})
    model = tf.saved_model.load(str(target))
    np.testing.assert_allclose(result_of(model), expected(4), rtol=1e-5, atol=1e-6)
    assign(model, 5)
    np.testing.assert_allclose(result_of(model), expected(5), rtol=1e-5, atol=1e-6)


def test_the_report_says_which_variables_are_constants(source, tmp_path):
    result = converted(source, tmp_path / "fixed")
    (signature,) = result.signatures
    assert signature.constants == ("bias", "out", "table", "w")
    lines = "".join(str(part) for part in report(result).renderables if isinstance(part, str))
    assert "the values of 4 variables: bias, out, table, w." in lines
    model = tf.saved_model.load(str(tmp_path / "fixed"))
    assign(model, 1)
    np.testing.assert_allclose(result_of(model), expected(0), rtol=1e-5, atol=1e-6)
