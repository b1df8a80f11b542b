# SPDX-License-Identifier: Apache-2.0
"""SavedModels rewritten end to end."""

import json
import os
import shutil
import subprocess
import sys
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.saved_model import loader_impl

import sirius_tf
from sirius_tf import runtime
from sirius_tf.bundle import files
from sirius_tf.errors import SiriusError
from sirius_tf.frontend import savedmodel
from sirius_tf.rewrite import check, measure
from sirius_tf.rewrite.asset import ASSET
from sirius_tf.runtime.native import Bundle
from sirius_tf.runtime.op import sirius_region
from tests.support import models

OPTIONS = sirius_tf.Options(keep_slow=True)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(measure, "_SECONDS", 0.01)


@pytest.fixture(scope="module")
def mmoe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mmoe")
    models.export_mmoe(folder / "model")
    stages = []
    options = sirius_tf.Options(keep_slow=True, progress=stages.append, dump=folder / "dump")
    result = sirius_tf.optimize(folder / "model", options=options)
    assert stages == ["read", "regions", "compile", "link", "time", "rewrite", "check", "write"]
    return folder, result


def run(path, signature, **arrays):
    """A signature of a model, loaded as objects and into a session."""
    model = tf.saved_model.load(str(path))
    feeds = {key: tf.constant(value) for key, value in arrays.items()}
    objects = {k: v.numpy() for k, v in model.signatures[signature](**feeds).items()}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loader = loader_impl.SavedModelLoader(str(path))
        definition = loader.load(session, ["serve"]).signature_def[signature]
        given = {definition.inputs[key].name: value for key, value in arrays.items()}
        tensors = {key: info.name for key, info in definition.outputs.items()}
        fetched = session.run(tensors, given)
    for key in objects:
        np.testing.assert_allclose(objects[key], fetched[key], rtol=1e-5, atol=1e-6)
    return fetched


def same(original, rewritten, signature, **arrays):
    want, got = run(original, signature, **arrays), run(rewritten, signature, **arrays)
    assert want.keys() == got.keys()
    for key in want:
        np.testing.assert_allclose(got[key], want[key], rtol=1e-5, atol=1e-6)


def test_values_are_gone_once_they_are_linked(tmp_path, monkeypatch) -> None:
    models.export_mmoe(tmp_path / "model")
    values, alive = [], {}
    read = savedmodel.read

    def watched(*arguments):
        model = read(*arguments)
        nodes = [node for s in model.signatures.values() for node in s.graph.nodes]
        arrays = [a for node in nodes for a in node.attrs.values() if isinstance(a, np.ndarray)]
        values.extend(weakref.ref(a) for a in arrays if a.size > 1)
        return model

    def begun(stage):
        alive[stage] = sum(value() is not None for value in values)

    monkeypatch.setattr(savedmodel, "read", watched)
    options = sirius_tf.Options(keep_slow=True, progress=begun)
    sirius_tf.optimize(tmp_path / "model", options=options)
    assert alive["compile"] == len(values) > 0
    assert alive["time"] == alive["check"] == 0


def definitions(path):
    return savedmodel.load_meta_graph(path).signature_def


def test_signatures_that_are_the_same_share_a_kernel(mmoe) -> None:
    folder, result = mmoe
    assert result.output_dir == folder / "model.sirius"
    assert list(Bundle(result.bundle).regions) == ["serve_0"]
    assert [s.name for s in result.signatures] == ["serve", "serving_default"]
    for signature in result.signatures:
        assert not signature.left and signature.compiled == signature.ops > 10
        assert [r.kept for r in signature.regions] == [True]
        assert signature.max_error < 1e-6
        assert signature.tf_share_after < signature.tf_share_before == 1.0
    assert result.bundle_bytes < result.output_bytes
    assert {p.name.split(".")[2] for p in (folder / "dump").glob("serve_0.*.txt")} >= {"graph", "c"}


def test_a_moved_model_works_for_every_batch(mmoe, tmp_path) -> None:
    folder, result = mmoe
    moved = tmp_path / "moved"
    shutil.copytree(result.output_dir, moved)
    for batch in (1, 5):
        x = np.random.default_rng(batch).standard_normal((batch, 8)).astype("f")
        same(folder / "model", moved, "serving_default", x=x)
    assert definitions(moved) == definitions(folder / "model")


def test_shapes_are_known_behind_a_region(mmoe) -> None:
    model = tf.saved_model.load(str(mmoe[1].output_dir))
    outputs = model.signatures["serve"].structured_outputs
    assert [tuple(t.shape) for t in outputs.values()] == [(None, 1), (None, 1)]


def test_a_wrong_shape_is_an_error_of_tensorflow(mmoe) -> None:
    result = mmoe[1]
    meta_graph = savedmodel.load_meta_graph(result.output_dir)
    assert "SiriusRegion" in {op.name for op in meta_graph.meta_info_def.stripped_op_list.op}
    digest = Bundle(result.bundle).regions["serve_0"].digest
    for shape in ((2, 7), (8,)):
        with pytest.raises(tf.errors.InvalidArgumentError):
            sirius_region([tf.zeros(shape)], result.bundle, "serve_0", [tf.float32] * 2, digest)


def test_what_was_compared_once_is_not_loaded_again(mmoe, tmp_path, monkeypatch) -> None:
    folder, result = mmoe
    compared = []
    monkeypatch.setattr(check, "compare", lambda *given: compared.append(given) or {}["stop"])
    again = sirius_tf.optimize(folder / "model", tmp_path / "again", options=OPTIONS)
    assert again.bundle.read_bytes() == result.bundle.read_bytes() and not compared
    x = np.random.default_rng().standard_normal((3, 8)).astype("float32")
    samples = {"serve": {"x": x}, "serving_default": {"x": x}}
    with pytest.raises(SiriusError, match="stop"):
        sirius_tf.optimize(folder / "model", tmp_path / "other", samples=samples, options=OPTIONS)


def test_another_process_can_load_the_model(mmoe) -> None:
    program = (
        "import sys, tensorflow as tf\n"
        "from sirius_tf.runtime.op import register_with_tensorflow\n"
        "register_with_tensorflow()\n"
        "model = tf.saved_model.load(sys.argv[1])\n"
        "print(len(model.signatures['serve'](x=tf.ones((2, 8)))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(mmoe[1].output_dir)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.stdout == "2\n", done.stderr


def test_the_manifest_says_how_to_do_without_tensorflow(mmoe) -> None:
    manifest = Bundle(mmoe[1].bundle).manifest
    json.dumps(manifest)
    entry = manifest["signatures"]["serving_default"]
    assert entry["region"] == "serve_0"
    assert entry["arguments"] == [{"input": "x"}]
    assert entry["inputs"] == {"x": {"dtype": "float32", "shape": [None, 8]}}
    assert entry["results"] == {"output_0": {"output": 0}, "output_1": {"output": 1}}


def test_a_bundle_refuses_other_weights(mmoe, tmp_path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(mmoe[1].output_dir, moved)
    bundle = moved / "assets" / mmoe[1].bundle.name
    Bundle(bundle)
    index = moved / "variables" / "variables.index"
    index.write_bytes(index.read_bytes() + b"\0")
    with pytest.raises(SiriusError, match="sirius-convert --refresh"):
        Bundle(bundle)
    index.unlink()
    with pytest.raises(SiriusError, match="sirius-convert --refresh"):
        Bundle(bundle)


def test_lookups_side_effects_and_assets_survive(tmp_path) -> None:
    (tmp_path / "in").mkdir()
    models.save_vocabulary(tmp_path / "in" / "model")
    words = np.array([b"a", b"zzz", b"c"])
    result = sirius_tf.optimize(
        tmp_path / "in" / "model",
        tmp_path / "out",
        samples={"serve": {"words": words}},
        options=OPTIONS,
    )
    shutil.rmtree(tmp_path / "in")  # the vocabulary too
    moved = tmp_path / "moved"
    (tmp_path / "out").rename(moved)
    model = tf.saved_model.load(str(moved))
    for _ in range(2):
        out = model.signatures["serve"](words=tf.constant(words))["out"].numpy()
        np.testing.assert_array_equal(out, [[2.0, 3.0]] * 3)
    counted = model.signatures["count"](x=tf.zeros((1, 2)))["out"].numpy()
    np.testing.assert_array_equal(counted, [[2.0, 2.0]])
    with pytest.raises(tf.errors.InvalidArgumentError):
        model.signatures["serve"](words=tf.constant([], tf.string))
    model.reset()
    reasons = {left.op: left.reason for s in result.signatures for left in s.left}
    assert reasons["AssignAddVariableOp"] == "there is no rule for this op"


@pytest.mark.parametrize(
    ("save", "signature", "arrays"),
    [
        (partial(models.save_tf1, resource=False), "serving_default", {"x": np.ones((2, 3), "f")}),
        (partial(models.save_tf1, resource=True), "serving_default", {"x": np.ones((2, 3), "f")}),
        (models.save_partitioned, "cut", {"half": np.ones((3, 2), "f")}),
        (models.save_gathers, "serving_default", {"ids": np.array([[1, 5], [0, 2]], "int32")}),
        (
            models.save_control,
            "serving_default",
            {"x": np.ones((2, 3), "f"), "n": np.int32(3), "any": np.ones((1, 2, 1), "f")},
        ),
    ],
)
def test_models_of_every_kind(save, signature, arrays, tmp_path) -> None:
    save(tmp_path / "model")
    sirius_tf.optimize(tmp_path / "model", samples={signature: arrays}, options=OPTIONS)
    same(tmp_path / "model", tmp_path / "model.sirius", signature, **arrays)
    assert definitions(tmp_path / "model") == definitions(tmp_path / "model.sirius")


def test_signatures_of_one_main_graph_do_not_disturb_each_other(tmp_path) -> None:
    tf1 = tf.compat.v1
    with tf.Graph().as_default(), tf1.Session() as session:
        x = tf1.placeholder(tf.float32, [None, 2], name="x")
        middle = tf.exp(x, name="middle")
        y = tf.nn.relu(middle, name="y")
        builder = tf1.saved_model.builder.SavedModelBuilder(str(tmp_path / "model"))
        made = tf1.saved_model.signature_def_utils.predict_signature_def
        signatures = {"all of": made({"x": x}, {"y": y}), "rest": made({"m": middle}, {"y": y})}
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()
    sirius_tf.optimize(tmp_path / "model", tmp_path / "out", options=OPTIONS)
    same(tmp_path / "model", tmp_path / "out", "all of", x=np.array([[0, 1]], "f"))
    same(tmp_path / "model", tmp_path / "out", "rest", m=np.array([[-1, 1]], "f"))


def test_control_flow_of_a_tf1_graph(tmp_path) -> None:
    tf1 = tf.compat.v1
    with tf.Graph().as_default():
        tf1.disable_control_flow_v2()
        x = tf1.placeholder(tf.float32, [None, 3], name="x")
        k = tf1.placeholder(tf.int32, [], name="k")

        def step(i, a):
            return i + 1, tf1.cond(i > 0, lambda: tf.exp(a) * 0.1, lambda: a * 2.0)

        shapes = [tf.TensorShape([]), tf.TensorShape([None, 3])]
        _, a = tf1.while_loop(lambda i, a: i < k, step, [0, tf.nn.relu(x) + 1.0], shapes)
        tf.multiply(tf.exp(-tf.ensure_shape(a, [None, 3])), 3.0, name="y")
        graph_def = tf1.get_default_graph().as_graph_def()
        tf1.enable_control_flow_v2()
    options = sirius_tf.Options(keep_slow=True, bundle=tmp_path / "b.so")
    made = sirius_tf.optimize_graph_def(graph_def, ["x", "k"], ["y"], options=options)
    ops = {node.op for node in made.node}
    assert ops == {"Placeholder", "SiriusRegion", "EnsureShape", "Const"}
    feeds = {"x:0": np.ones((2, 3), "f"), "k:0": np.int32(3)}
    results = [run_graph_def(definition, feeds) for definition in (graph_def, made)]
    np.testing.assert_allclose(results[0], results[1], rtol=3e-5)  # an exp of exps


def run_graph_def(graph_def, feeds):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(graph_def, name="")
        return session.run("y:0", feeds)


def test_assets_and_initialization_of_a_tf1_model(tmp_path) -> None:
    tf1 = tf.compat.v1
    (tmp_path / "words.txt").write_text("a\nb\n")
    with tf.Graph().as_default(), tf1.Session() as session:
        words = tf1.placeholder(tf.string, [None], name="words")
        file = tf.constant(str(tmp_path / "words.txt"))
        tf1.add_to_collection(tf1.GraphKeys.ASSET_FILEPATHS, file)
        table = tf.lookup.TextFileInitializer(file, tf.string, 0, tf.int64, -1)
        ids = tf.ensure_shape(tf.lookup.StaticHashTable(table, -1).lookup(words), [None])
        large = tf.constant(np.arange(64, dtype="f"), name="large")
        y = tf.multiply(tf.exp(tf.cast(ids, tf.float32))[:, None], large, name="y")
        session.run(tf1.tables_initializer())
        made = tf1.saved_model.signature_def_utils.predict_signature_def
        builder = tf1.saved_model.builder.SavedModelBuilder(str(tmp_path / "model"))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {"s": made({"words": words}, {"y": y})},
            assets_collection=tf1.get_collection(tf1.GraphKeys.ASSET_FILEPATHS),
            main_op=tf1.tables_initializer(),
        )
        builder.save()
    (tmp_path / "words.txt").unlink()
    result = sirius_tf.optimize(tmp_path / "model", tmp_path / "out", options=OPTIONS)
    assert result.bundle is not None
    same(tmp_path / "model", tmp_path / "out", "s", words=np.array([b"b", b"a", b"x"]))
    nodes = {n.name: n.op for n in savedmodel.load_meta_graph(tmp_path / "out").graph_def.node}
    assert nodes["y"] == "EnsureShape" and "large" not in nodes


class Lookup(tf.Module):
    """An embedding large enough to be read where it is."""

    def __init__(self):
        self.table = tf.Variable(np.random.default_rng(0).standard_normal((1 << 15, 8)).astype("f"))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="ids")])
    def serve(self, ids):
        return {"out": tf.exp(tf.gather(self.table, ids)), "ids": ids}


def test_a_table_is_read_where_it_is(tmp_path) -> None:
    module = Lookup()
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.serve)
    result = sirius_tf.optimize(tmp_path / "model", tmp_path / "out", options=OPTIONS)
    assert result.bundle_bytes < module.table.numpy().nbytes
    ids = np.array([(1 << 15) - 1, 0, 7], "int32")
    want = np.exp(module.table.numpy()[ids])
    same(tmp_path / "model", tmp_path / "out", "serving_default", ids=ids)
    entry = Bundle(result.bundle).manifest["signatures"]["serving_default"]
    table = next(a["table"] for a in entry["arguments"] if "table" in a)
    data = np.memmap(result.output_dir / table["file"], table["dtype"], "r", table["offset"])
    values = data[: 8 << 15].reshape(table["shape"])
    np.testing.assert_array_equal(values, module.table.numpy())
    assert entry["results"]["ids"] == {"input": "ids"}
    np.testing.assert_allclose(runtime.load(result.output_dir)(ids=ids)["out"], want, rtol=1e-6)
    changed = bytearray((result.output_dir / table["file"]).read_bytes())
    changed[table["offset"] + (1 << 19)] ^= 1
    (result.output_dir / table["file"]).write_bytes(changed)
    with pytest.raises(SiriusError, match="has another checksum than when it was saved"):
        runtime.load(result.output_dir)


def test_what_is_slower_goes_back(tmp_path, monkeypatch, tmp_path_factory) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    models.save_gathers(tmp_path / "model")
    monkeypatch.setattr("sirius_tf.rewrite.session.interleaved", lambda a, b: (1.0, 2.0))
    result = sirius_tf.optimize(tmp_path / "model")
    assert result.bundle is None and not list((tmp_path / "model.sirius").glob("**/*.so"))
    (signature,) = result.signatures
    assert signature.compiled == 0 and not signature.regions[0].kept
    assert "slower than TensorFlow" in signature.left[0].reason
    same(tmp_path / "model", result.output_dir, "serving_default", ids=np.zeros((1, 1), "int32"))
    for place in ("session.interleaved", "check.fairly"):
        monkeypatch.setattr(f"sirius_tf.rewrite.{place}", lambda a, b: (2.0, 1.0))
    again = sirius_tf.optimize(tmp_path / "model", options=sirius_tf.Options(force=True))
    assert again.bundle is not None  # that machine may have been busy


def test_a_frozen_graph_def(tmp_path, monkeypatch) -> None:
    """Without a name its bundle has one of its own, beside those that are there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "graph.sirius.0.so").touch()
    graph_def = models.frozen_graph_def()
    options = sirius_tf.Options(keep_slow=True)
    made = sirius_tf.optimize_graph_def(graph_def, ["x"], ["y"], options=options)
    assert "SiriusRegion" in {node.op for node in made.node}
    assert "w" not in {node.name for node in made.node}
    x = np.random.default_rng(0).standard_normal((4, 3)).astype("f")
    results = [run_graph_def(definition, {"x:0": x}) for definition in (graph_def, made)]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)
    (path,) = (n.attr["value"].tensor.string_val[0] for n in made.node if n.name == ASSET)
    assert Path(path.decode()) == (tmp_path / "graph.sirius.1.so").resolve()


def test_a_graph_def_that_calls_a_function(tmp_path) -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 3], name="x")
        tf.nn.relu(tf.function(lambda x: tf.exp(x) - 2.0)(x), name="y")
    options = sirius_tf.Options(keep_slow=True, bundle=tmp_path / "b.so")
    made = sirius_tf.optimize_graph_def(graph.as_graph_def(), ["x"], ["y"], options=options)
    assert {n.op for n in made.node} == {"Placeholder", "SiriusRegion", "EnsureShape", "Const"}
    feeds = {"x:0": np.ones((2, 3), "f")}
    results = [run_graph_def(definition, feeds) for definition in (graph.as_graph_def(), made)]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"signatures": ["no"]}, "no signature 'no'"),
        ({"samples": {"y": np.ones(1)}}, "are for 'y'; it takes 'ids'"),
        ({"samples": {"ids": np.ones((1, 1), "f")}}, "has dtype float32, not int32"),
        ({"samples": {"ids": np.ones(1, "int32")}}, r"has shape \(1,\)"),
        ({"samples": {"no": {"ids": 1}}}, "signature 'no'"),
        ({"samples": {"ids": np.full((1, 1), 99, "int32")}}, "does not run on the sample"),
    ],
)
def test_errors_of_the_caller(arguments, message, gathers, tmp_path) -> None:
    with pytest.raises(SiriusError, match=message):
        sirius_tf.optimize(gathers, tmp_path / "out", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def gathers(tmp_path_factory):
    path = tmp_path_factory.mktemp("gathers") / "model"
    models.save_gathers(path)
    return path


def test_errors_about_directories(gathers, tmp_path, monkeypatch) -> None:
    with pytest.raises(SiriusError, match="not a directory"):
        sirius_tf.optimize(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SiriusError, match="not a SavedModel"):
        sirius_tf.optimize(tmp_path / "empty")
    with pytest.raises(SiriusError, match="exists; name another output"):
        sirius_tf.optimize(gathers, tmp_path / "empty")
    with pytest.raises(SiriusError, match="is inside of the input"):
        sirius_tf.optimize(gathers, gathers / "inside")
    for above in (gathers, gathers.parent, gathers.parent.parent):
        with pytest.raises(SiriusError, match="is, or contains, the input"):
            sirius_tf.optimize(gathers, above, options=replace(OPTIONS, force=True))
    assert gathers.is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(SiriusError, match="cannot write"):
        sirius_tf.optimize(gathers, tmp_path / "file" / "out", options=OPTIONS)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(SiriusError, match=r"cannot write .*: No space left"):
        sirius_tf.optimize(gathers, tmp_path / "out", options=OPTIONS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file"]


def test_a_model_is_not_optimized_twice_and_force_replaces(gathers, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    options = sirius_tf.Options(keep_slow=True, force=True)
    result = sirius_tf.optimize(gathers, tmp_path / "out", options=options)
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and result.bundle.exists()
    with pytest.raises(SiriusError, match="already optimized"):
        sirius_tf.optimize(tmp_path / "out", tmp_path / "again", options=OPTIONS)


class Weights(tf.Module):
    """A layer whose weights can be chosen."""

    def __init__(self, value, size=4):
        self.w = tf.Variable(np.full((size, 4), value, "f"))

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="x")])
    def serve(self, x):
        return {"out": tf.nn.relu(tf.matmul(x, self.w))}


def test_new_weights_in_an_optimized_model(tmp_path) -> None:
    for name, module in {"old": Weights(1), "new": Weights(2), "other": Nothing()}.items():
        tf.saved_model.save(module, str(tmp_path / name), signatures=module.serve)
    x = np.ones((3, 4), "f")
    samples = {"x": x}
    sirius_tf.optimize(tmp_path / "old", tmp_path / "out", samples=samples, options=OPTIONS)
    result = sirius_tf.refresh(tmp_path / "out", tmp_path / "new", samples=samples)
    assert result.signatures[0].compiled == result.signatures[0].ops
    same(tmp_path / "new", tmp_path / "out", "serving_default", x=x)
    with pytest.raises(SiriusError, match="convert the model anew"):
        sirius_tf.refresh(tmp_path / "out", tmp_path / "other", samples=samples)
    with pytest.raises(SiriusError, match="has no bundle to refresh"):
        sirius_tf.refresh(tmp_path / "old", tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "old", "other", "out"]


class Constants(tf.Module):
    """A factor and a bound that are part of the code."""

    def __init__(self, factor, bound):
        super().__init__()
        self.factor, self.bound = tf.Variable(factor), tf.Variable(bound)

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def serve(self, x):
        return {"out": tf.minimum(x * self.factor, self.bound)}


def test_new_weights_that_are_part_of_the_code(tmp_path) -> None:
    """The code is compiled again."""
    for name, module in {"old": Constants(2.0, 5.0), "new": Constants(3.0, 7.0)}.items():
        tf.saved_model.save(module, str(tmp_path / name), signatures=module.serve)
    x = np.arange(8, dtype="f").reshape(2, 4)
    old = sirius_tf.optimize(tmp_path / "old", tmp_path / "out", samples={"x": x}, options=OPTIONS)
    code = Bundle(old.bundle).manifest["kernels"]
    new = sirius_tf.refresh(tmp_path / "out", tmp_path / "new", samples={"x": x})
    assert Bundle(new.bundle).manifest["kernels"] != code
    same(tmp_path / "new", tmp_path / "out", "serving_default", x=x)


@pytest.mark.parametrize("again", ["optimize", "refresh"])
def test_interrupted_the_model_in_service_is_the_old_one_or_the_new_one(
    again, gathers, tmp_path, monkeypatch
) -> None:
    out, exchange = tmp_path / "out", files.exchange
    sirius_tf.optimize(gathers, out, options=OPTIONS)
    (out / "mark").touch()

    def stop():
        raise KeyboardInterrupt

    def interrupted(progress=None):
        options = replace(OPTIONS, force=again == "optimize", progress=progress)
        paths = (gathers, out) if again == "optimize" else (out, gathers)
        with pytest.raises(KeyboardInterrupt):
            getattr(sirius_tf, again)(*paths, options=options)
        assert os.listdir(tmp_path) == ["out"]
        same(gathers, out, "serving_default", ids=np.zeros((1, 1), "int32"))
        return out

    assert (interrupted(lambda stage: stage == "check" and stop()) / "mark").exists()
    monkeypatch.setattr(files, "exchange", lambda *paths: stop())  # just before
    assert (interrupted() / "mark").exists()
    monkeypatch.setattr(files, "exchange", lambda *paths: exchange(*paths) and stop())
    assert not (interrupted() / "mark").exists()


class Nothing(tf.Module):
    """Nothing of it is compiled."""

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="x")])
    def serve(self, x):
        return {"out": tf.py_function(tf.identity, [x], tf.float32)}
