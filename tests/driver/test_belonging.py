# SPDX-License-Identifier: Apache-2.0
"""Graph, code and weights of rewritten models: what does not belong together is not loaded."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

import sirius_tf
from sirius_tf import runtime
from sirius_tf.errors import SiriusError
from sirius_tf.rewrite import measure

OPTIONS = sirius_tf.Options(keep_slow=True)
X = np.arange(4, dtype="f")


class Line(tf.Module):
    """A line, of which one factor is part of the graph and the other one a variable."""

    def __init__(self, slope, factor):
        super().__init__()
        self.slope, self.factor = slope, tf.Variable(factor)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(self, x):
        return {"y": tf.exp(x * self.slope) * self.factor}


def want(slope, factor):
    return np.exp(X * np.float32(slope)) * np.float32(factor)


@pytest.fixture(scope="module")
def rewritten(tmp_path_factory):
    """Models by slope and factor; saved_model.pb, bundle and weights of each could be another's."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_SECONDS", 0.01)
        for slope, factor in ((2, 1.0), (3, 1.0), (2, 5.0)):
            folder = tmp_path_factory.mktemp("line") / "model"
            module = Line(slope, factor)
            tf.saved_model.save(module, str(folder), signatures=module.serve)
            sirius_tf.optimize(folder, options=OPTIONS)
            made[slope, factor] = folder.with_name("model.sirius")
    return made


def assembled(folder, graph, bundle, variables):
    """A model of the parts of others."""
    shutil.copytree(variables, folder)
    shutil.copy(graph / "saved_model.pb", folder / "saved_model.pb")
    shutil.copy(bundle / "assets" / "model.sirius.so", folder / "assets" / "model.sirius.so")
    return folder


def test_what_belongs_together(rewritten, tmp_path) -> None:
    for (slope, factor), model in rewritten.items():
        folder = assembled(tmp_path / f"{slope} {factor}", model, model, model)
        (y,) = runtime.load(folder)(x=X).values()
        np.testing.assert_allclose(y, want(slope, factor), rtol=1e-6)
        y = tf.saved_model.load(str(folder)).signatures["serving_default"](x=tf.constant(X))["y"]
        np.testing.assert_allclose(y, want(slope, factor), rtol=1e-6)


A, GRAPH, WEIGHTS = (2, 1.0), (3, 1.0), (2, 5.0)


@pytest.mark.parametrize(
    ("graph", "bundle", "variables"),
    [(GRAPH, A, A), (A, GRAPH, A), (WEIGHTS, A, A), (A, WEIGHTS, A), (A, A, WEIGHTS)],
)
def test_what_does_not(graph, bundle, variables, rewritten, tmp_path) -> None:
    parts = (rewritten[key] for key in (graph, bundle, variables))
    folder = assembled(tmp_path / "model", *parts)
    with pytest.raises(SiriusError, match=r"compiled from another graph|its weights are not those"):
        runtime.load(folder)
    model = tf.saved_model.load(str(folder))
    with pytest.raises(tf.errors.FailedPreconditionError):
        model.signatures["serving_default"](x=tf.constant(X))
