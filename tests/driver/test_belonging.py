# SPDX-License-Identifier: Apache-2.0
"""Graph, code and weights of rewritten models: what does not belong together is not loaded."""

import gc
import shutil
from functools import partial

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.saved_model import loader_impl

import sirius_tf
from sirius_tf import runtime
from sirius_tf.errors import SiriusError
from sirius_tf.rewrite import measure
from tests.support import models

OPTIONS = sirius_tf.Options(keep_slow=True)
X = np.arange(4, dtype="f")
BUNDLE = "assets/model.sirius.so"


@pytest.fixture(scope="module", autouse=True)
def short():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_SECONDS", 0.01)
        yield


class Line(tf.Module):
    """A line, of which one factor is part of the graph and the other one a variable."""

    def __init__(self, slope, factor):
        super().__init__()
        self.slope, self.factor = slope, tf.Variable(factor)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(self, x):
        return {"y": tf.exp(x * self.slope) * self.factor}


A, GRAPH, WEIGHTS = (2, 1.0), (3, 1.0), (2, 5.0)


def want(slope, factor):
    return np.exp(X * np.float32(slope)) * np.float32(factor)


def save(kind, folder):
    module = Line(*kind)
    tf.saved_model.save(module, str(folder), signatures=module.serve)


@pytest.fixture(scope="module")
def rewritten(tmp_path_factory):
    """Models by slope and factor; saved_model.pb, bundle and weights of each could be another's."""
    made = {}
    for kind in (A, GRAPH, WEIGHTS):
        folder = tmp_path_factory.mktemp("line") / "model"
        save(kind, folder)
        sirius_tf.optimize(folder, options=OPTIONS)
        made[kind] = folder.with_name("model.sirius")
    return made


@pytest.fixture
def model(rewritten, tmp_path):
    return shutil.copytree(rewritten[A], tmp_path / "copy")


def assembled(folder, graph, bundle, variables):
    """A model of the parts of others."""
    shutil.copytree(variables, folder)
    shutil.copy(graph / "saved_model.pb", folder / "saved_model.pb")
    shutil.copy(bundle / BUNDLE, folder / BUNDLE)
    return folder


def objects(folder):
    """Load a model as objects; returns what calls its signature."""
    loaded = tf.saved_model.load(str(folder))

    def call(x=X, loaded=loaded):
        return loaded.signatures["serving_default"](x=tf.constant(x))["y"].numpy()

    return call


def session(folder):
    """Load a model into a session; returns what calls its signature."""
    opened = tf.compat.v1.Session(graph=tf.Graph())
    with opened.graph.as_default():
        graph = loader_impl.SavedModelLoader(str(folder)).load(opened, ["serve"])
    signature = graph.signature_def["serving_default"]

    def call(x=X):
        return opened.run(signature.outputs["y"].name, {signature.inputs["x"].name: x})

    return call


LOADERS = [objects, session]


def refuse(folder, error, message):
    for load in LOADERS:
        with pytest.raises(error, match=message):
            load(folder)


def test_what_belongs_together(rewritten, tmp_path) -> None:
    for (slope, factor), model in rewritten.items():
        folder = assembled(tmp_path / f"{slope} {factor}", model, model, model)
        (y,) = runtime.load(folder)(x=X).values()
        np.testing.assert_allclose(y, want(slope, factor), rtol=1e-6)
        for load in LOADERS:
            np.testing.assert_allclose(load(folder)(), want(slope, factor), rtol=1e-6)


@pytest.mark.parametrize(
    ("graph", "bundle", "variables"),
    [(GRAPH, A, A), (A, GRAPH, A), (WEIGHTS, A, A), (A, WEIGHTS, A), (A, A, WEIGHTS)],
)
def test_what_does_not(graph, bundle, variables, rewritten, tmp_path) -> None:
    parts = (rewritten[key] for key in (graph, bundle, variables))
    folder = assembled(tmp_path / "model", *parts)
    message = r"compiled from another graph|its weights are not those"
    with pytest.raises(SiriusError, match=message):
        runtime.load(folder)
    refuse(folder, tf.errors.FailedPreconditionError, message)


def test_a_missing_bundle(model) -> None:
    (model / BUNDLE).unlink()
    refuse(model, (tf.errors.NotFoundError, FileNotFoundError), "No such file")


def test_a_damaged_bundle(model) -> None:
    data = bytearray((model / BUNDLE).read_bytes())
    data[len(data) // 2] ^= 1
    (model / BUNDLE).write_bytes(data)
    refuse(model, tf.errors.DataLossError, "is damaged")


def test_a_damaged_graph(model) -> None:
    data = (model / "saved_model.pb").read_bytes()
    name = b"_user_specified_name"  # means nothing
    assert name in data
    (model / "saved_model.pb").write_bytes(data.replace(name, name.swapcase(), 1))
    refuse(model, tf.errors.DataLossError, "is damaged, or was changed after it was written")


def test_other_kinds_of_models(tmp_path) -> None:
    kinds = {
        "references": partial(models.save_tf1, resource=False),
        "resources": partial(models.save_tf1, resource=True),
        "vocabulary": models.save_vocabulary,
    }
    for name, save_model in kinds.items():
        folder = tmp_path / name
        folder.mkdir()
        save_model(folder / "in")
        sirius_tf.optimize(folder / "in", folder / "out", options=OPTIONS)
        bundle = folder / "out" / "assets" / "in.sirius.so"
        data = bytearray(bundle.read_bytes())
        data[len(data) // 2] ^= 1
        bundle.write_bytes(data)
        with pytest.raises(tf.errors.DataLossError):
            tf.saved_model.load(str(folder / "out"))
        with pytest.raises(tf.errors.DataLossError):
            session(folder / "out")


@pytest.mark.parametrize("load", LOADERS)
def test_what_was_loaded_goes_on_when_the_model_is_replaced(load, rewritten, tmp_path) -> None:
    """Also with what runs for the first time then."""
    live = shutil.copytree(rewritten[A], tmp_path / "live")
    old = load(live)
    for part in (rewritten[WEIGHTS], rewritten[GRAPH]):
        shutil.rmtree(live)
        shutil.copytree(part, live)
        new = load(live)
        np.testing.assert_allclose(old(), want(*A), rtol=1e-6)
        kind = next(key for key, value in rewritten.items() if value == part)
        np.testing.assert_allclose(new(), want(*kind), rtol=1e-6)
    shutil.rmtree(live)
    np.testing.assert_allclose(old(), want(*A), rtol=1e-6)


def test_a_model_that_is_dropped_leaves_nothing(rewritten, tmp_path) -> None:
    def mapped():
        gc.collect()
        with open("/proc/self/maps") as maps:
            return sum(str(tmp_path) in line for line in maps)

    for k in range(3):
        folder = shutil.copytree(rewritten[A], tmp_path / str(k))
        call = objects(folder)
        np.testing.assert_allclose(call(), want(*A), rtol=1e-6)
        assert mapped() > 0
        del call
        assert mapped() == 0


def test_a_frozen_graph(tmp_path) -> None:
    """Nothing is checked before the first request, and everything then."""
    bundle = tmp_path / "b.so"
    options = sirius_tf.Options(keep_slow=True, bundle=bundle, force=True)
    graphs = []
    for factor in (1.0, 2.0):
        with tf.Graph().as_default() as graph:
            x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
            tf.multiply(tf.exp(x), factor, name="y")
        made = sirius_tf.optimize_graph_def(graph.as_graph_def(), ["x"], ["y"], options=options)
        graphs.append(made)

    def run(graph_def):
        with tf.Graph().as_default(), tf.compat.v1.Session() as opened:
            tf.import_graph_def(graph_def, name="")
            return opened.run("y:0", {"x:0": X})

    np.testing.assert_allclose(run(graphs[1]), 2 * np.exp(X), rtol=1e-6)
    with pytest.raises(tf.errors.FailedPreconditionError, match="from another graph"):
        run(graphs[0])
    content = bundle.read_bytes()
    bundle.write_bytes(content[:-1])
    with pytest.raises(tf.errors.DataLossError, match="cut short"):
        run(graphs[1])
    bundle.unlink()
    with pytest.raises(tf.errors.NotFoundError):
        run(graphs[1])
