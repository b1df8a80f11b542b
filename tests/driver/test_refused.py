# SPDX-License-Identifier: Apache-2.0
"""Calls that a region refuses and TensorFlow does not: the original ops answer them."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import sirius_tf
from sirius_tf import runtime
from sirius_tf.frontend import savedmodel
from sirius_tf.rewrite import measure

W = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)
SIZES = (0, 1, 2, 5)
NAMES = ("rows", "rank", "asserted", "squeezed", "free")
OPTIONS = sirius_tf.Options(keep_slow=True)


class Model(tf.Module):
    """Signatures whose sizes are tied by a sample alone, and one whose are not."""

    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(W)

    @tf.function(input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec([None, 3])])
    def rows(self, a, b):
        return {"y": tf.tanh(tf.matmul(a, self.w)) + tf.matmul(b, self.w)}

    @tf.function(input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec(None)])
    def rank(self, x, p):
        return {"y": tf.nn.relu(tf.matmul(x, self.w) / p)}

    @tf.function(input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec([None, 3])])
    def asserted(self, a, b):
        tf.debugging.assert_less(tf.shape(a)[0], 6)  # for which the variable waits
        return {"y": tf.tanh(tf.matmul(a, self.w)) + tf.matmul(b, self.w)}

    @tf.function(input_signature=[tf.TensorSpec([None, 3])])
    def squeezed(self, x):
        return {"y": tf.tanh(tf.squeeze(tf.matmul(x, self.w)))}

    @tf.function(input_signature=[tf.TensorSpec([None, 3])])
    def free(self, x):
        return {"y": tf.nn.relu(tf.matmul(x, self.w))}


def ones(*shapes):
    return [np.linspace(1, 2, int(np.prod(s)), dtype=np.float32).reshape(s) for s in shapes]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model, the rewritten one, and the result."""
    folder, model = tmp_path_factory.mktemp("refused"), Model()
    tf.saved_model.save(
        model,
        str(folder / "model"),
        signatures={k: getattr(model, k) for k in NAMES},
    )
    samples = {
        "rows": dict(zip("ab", ones((5, 3), (5, 3)), strict=True)),
        "rank": dict(zip("xp", ones((5, 3), ()), strict=True)),
        "asserted": dict(zip("ab", ones((5, 3), (5, 3)), strict=True)),
        "squeezed": {"x": ones((5, 3))[0]},
        "free": {"x": ones((5, 3))[0]},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_SECONDS", 0.0)
        target = folder / "rewritten"
        result = sirius_tf.optimize(folder / "model", target, samples=samples, options=OPTIONS)
    return folder / "model", target, result


def requests():
    """Of each signature, at sizes that need not be accepted."""
    for a, b in itertools.product(SIZES, repeat=2):
        yield "rows", dict(zip("ab", ones((a, 3), (b, 3)), strict=True))
    for shape in ((), (1,), (8,), (5, 1), (2, 8), (1,) * 9, (3, 4)):
        for n in (1, 5):
            yield "rank", dict(zip("xp", ones((n, 3), shape), strict=True))
    for a, b in ((5, 5), (5, 1), (7, 7), (7, 1)):
        yield "asserted", dict(zip("ab", ones((a, 3), (b, 3)), strict=True))
    for n in SIZES:
        yield "squeezed", {"x": ones((n, 3))[0]}
    yield "free", {"x": ones((2, 3))[0]}


def answers(call):
    """For each request the result of a call, or the class of its error."""
    for name, arrays in requests():
        try:
            yield np.asarray(call(name, arrays))
        except tf.errors.OpError as error:
            yield type(error)


def same(got, want):
    pairs = list(zip(got, want, requests(), strict=True))
    refused = [w is g for g, w, _ in pairs if isinstance(w, type)]
    assert refused and all(refused) and len(refused) < len(pairs) / 2
    for g, w, request in pairs:
        if not isinstance(w, type):
            assert not isinstance(g, type), request
            np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6, err_msg=str(request))


def objects(path):
    signatures = tf.saved_model.load(str(path)).signatures

    def call(name, arrays):
        return signatures[name](**{key: tf.constant(a) for key, a in arrays.items()})["y"]

    return call


def session(path):
    made = tf.compat.v1.Session(graph=tf.Graph())
    with made.graph.as_default():
        definition = tf.compat.v1.saved_model.load(made, ["serve"], str(path)).signature_def

    def call(name, arrays):
        signature = definition[name]
        feeds = {signature.inputs[key].name: a for key, a in arrays.items()}
        return made.run(signature.outputs["y"].name, feeds)

    return call


@pytest.mark.parametrize("load", [objects, session])
def test_what_the_original_accepts_the_result_accepts(models, load):
    original, rewritten, _ = models
    same(answers(load(rewritten)), answers(load(original)))


def test_without_tensorflow_what_it_accepts_may_be_refused_with_its_kind_of_error(models):
    call = runtime.load(models[1]).signatures["rows"]
    a, b = ones((4, 3), (1, 3))
    said = r"^signature rows\(a: float32 \[\?, 3\], b: float32 \[\?, 3\]\): input \w+ has extent "
    with pytest.raises(sirius_tf.InvalidArgument, match=said + "1 on axis 0, not 4$"):
        call(a=a, b=b)
    call(a=a, b=a)


def test_only_regions_that_may_refuse_have_the_original_ops_beside_them(models):
    _, rewritten, result = models
    flags = {s.name: s.regions[0].may_refuse for s in result.signatures}
    assert flags == {name: name != "free" for name in NAMES}
    assert all(s.compiled == s.ops for s in result.signatures)
    library = savedmodel.load_meta_graph(rewritten).graph_def.library
    ops = {f.signature.name: {node.op for node in f.node_def} for f in library.function}
    judged = [name for name, found in ops.items() if "SiriusAccepts" in found]
    whole = [name for name, found in ops.items() if "SiriusRegion" in found]
    assert (len(judged), len(whole)) == (2 * 4, 2 * 5)  # of signatures, and of methods
    originals = [f for f in library.function if f.signature.name.startswith("sirius_original_")]
    assert len(originals) == 4 and all(f.attr["_noinline"].b for f in originals)


def test_a_session_of_tf1_with_a_placeholder_without_a_shape(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "_SECONDS", 0.0)
    path, target = tmp_path / "model", tmp_path / "rewritten"
    with tf.Graph().as_default(), tf.compat.v1.Session() as made:
        x = tf.compat.v1.placeholder(tf.float32, [None, 3])
        keep = tf.compat.v1.placeholder(tf.float32)
        w = tf.compat.v1.get_variable("w", initializer=W)
        y = tf.nn.relu(tf.matmul(x, w) / keep)
        made.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.saved_model.simple_save(made, str(path), {"x": x, "keep": keep}, {"y": y})
    (signature,) = sirius_tf.optimize(path, target, options=OPTIONS).signatures
    assert signature.compiled == signature.ops
    for keep in (np.float32(0.5), *ones((1,), (5, 1), (1, 8))):
        arrays = {"x": ones((5, 3))[0], "keep": keep}
        got, want = (session(p)("serving_default", arrays) for p in (target, path))
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_graph_def(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "_SECONDS", 0.0)
    graph = tf.Graph()
    with graph.as_default():
        a, b = (tf.compat.v1.placeholder(tf.float32, [None, 3], name) for name in "ab")
        tf.identity(tf.tanh(tf.matmul(a, W)) + tf.matmul(b, W), "y")
    options = sirius_tf.Options(keep_slow=True, bundle=tmp_path / "y.sirius.so")
    sample = dict(zip("ab", ones((5, 3), (5, 3)), strict=True))
    definition = graph.as_graph_def()
    made = sirius_tf.optimize_graph_def(definition, "ab", "y", samples=sample, options=options)
    assert "SiriusRegion" in {node.op for node in made.node}
    for rows in itertools.product((1, 4), repeat=2):
        results = []
        for graph_def in (definition, made):
            with tf.Graph().as_default(), tf.compat.v1.Session() as session_:
                tf.import_graph_def(graph_def, name="")
                shapes = [(n, 3) for n in rows]
                feeds = dict(zip(("a:0", "b:0"), ones(*shapes), strict=True))
                results.append(session_.run("y:0", feeds))
        np.testing.assert_allclose(*results, rtol=1e-5)
