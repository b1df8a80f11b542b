# SPDX-License-Identifier: Apache-2.0
"""Measured tile sizes: how clusters are told apart, what conversions make of a store, and the tool
that fills it."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from absl import app

import sirius_tf
from sirius_tf.bundle import link, tilings
from sirius_tf.codegen.cpu.kernel import print_kernel
from sirius_tf.compile import allocate, compile_program, laid_out, realize
from sirius_tf.config import Options
from sirius_tf.errors import SiriusError
from sirius_tf.ir.affine import symbol
from sirius_tf.ir.defuse import Uses
from sirius_tf.ir.expr import Call, Const
from sirius_tf.ir.expr import index as size
from sirius_tf.ir.interp import run
from sirius_tf.ir.program import Guard, Output, Program, Reduce
from sirius_tf.ir.verify import verify
from sirius_tf.poly.dependence import flow
from sirius_tf.poly.scop import extract
from sirius_tf.runtime import native
from sirius_tf.schedule.cluster import alone
from sirius_tf.schedule.fuse import fuse_alone, tiled
from sirius_tf.schedule.machine import cpu
from sirius_tf.tools.perf import tune
from tests.support import programs
from tests.support.commands import parse
from tests.support.programs import call, it, load, param, stmt, tensor


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def store(cache, monkeypatch):
    """No test's tile sizes reach another one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    yield
    for file in stored(cache):
        file.unlink()


def chain(names="x w h y B b n k", depth=99, width=64, batch=96, fn="tanh", dtype="float32"):
    """y = fn(x w), two statements in a cluster."""
    x, w, h, y, rows, b, n, k = names.split()
    weights = np.random.default_rng(0).standard_normal((depth, width)).astype(dtype)
    domain = [it(b, symbol(rows)), it(n, width)]
    at, r = (symbol(b), symbol(n)), symbol(k)
    factors = (load(x, at[0], r, dtype=dtype), load(w, r, at[1], dtype=dtype))
    product = call("mul", *factors, dtype=dtype)
    made = programs.program(
        "chain",
        [param(rows, x, 0, minimum=1, hint=batch)],
        [
            tensor(x, [symbol(rows), depth], dtype, "input"),
            tensor(w, [depth, width], dtype, "constant", weights),
            tensor(h, [symbol(rows), width], dtype),
            tensor(y, [symbol(rows), width], dtype, "output"),
        ],
        [
            stmt(f"{h}1", domain, h, at, product, Reduce("add", (it(k, depth),))),
            stmt(f"{y}1", domain, y, at, call(fn, load(h, *at, dtype=dtype), dtype=dtype)),
        ],
        [],
    )
    return replace(made, outputs=(Output(y, (size(symbol(rows)), size(width))),))


def found(program: Program, threads: int = 2):
    """The clusters of a program."""
    stored, flows = laid_out(program)
    return tiled(stored, flows, cpu(threads))


def key(program: Program, threads: int = 2) -> str:
    """The key of its only cluster."""
    (one,) = found(program, threads)
    return one.key


def test_names_and_weights_are_no_part_of_a_key() -> None:
    assert key(chain("image filter sum_ out Z p q a")) == key(chain())
    w = chain().tensor["w"]
    other = replace(w, value=np.zeros_like(w.value))
    tensors = tuple(other if t.name == "w" else t for t in chain().tensors)
    assert key(replace(chain(), tensors=tensors)) == key(chain())


def test_all_that_decides_speed_is_part_of_a_key() -> None:
    others = [{"depth": 100}, {"width": 80}, {"batch": 8}, {"fn": "exp"}, {"dtype": "float64"}]
    different = [key(chain()), key(chain(), threads=3), *(key(chain(**o)) for o in others)]
    assert len(set(different)) == 2 + len(others)


def test_what_others_read_of_a_cluster_is_part_of_its_key() -> None:
    program = chain()
    every = Reduce("max", (it("k", symbol("B")), it("n", 64)))
    greatest = stmt("z1", [], "z", [], load("h", symbol("k"), symbol("n")), every)
    more = replace(
        program,
        tensors=(*program.tensors, tensor("z", [], role="output")),
        statements=(*program.statements, greatest),
        outputs=(*program.outputs, Output("z", ())),
    )
    assert [one.cluster.statements for one in found(more)] == [("h1", "y1"), ("z1",)]
    assert found(more)[0].key != key(program)


def test_clusters_of_a_loop_are_told_from_those_outside() -> None:
    cell = found(programs.lstm(units=64))
    entered = {one.cluster.statements: one.entered for one in cell}
    assert entered["h0",] == entered["c0",] == () and ("t",) in entered.values()
    keys = {one.cluster.statements: one.key for one in cell}
    assert keys["h0",] == keys["c0",]  # zeros of one shape
    assert len(set(keys.values())) == len(keys) - 1


def code(program: Program, sizes=None, cluster: str = "") -> str:
    """The code of a program of one cluster, which has these tiles in the store."""
    stored = {cluster or key(program): sizes} if sizes else {}
    return compile_program(program, 2, tilings=stored.get).runs["v3"]


def test_stored_tiles_are_used_and_results_stay_right(tmp_path) -> None:
    program = chain()
    (one,) = found(program)
    other = (one.sizes[0] // 2, 64)
    assert other != one.sizes
    stages: dict[str, str] = {}
    kernel = compile_program(program, 2, stages.__setitem__, tilings={one.key: other}.get)
    assert f"b, y1: b by {other[0]}" in stages["schedule"]
    assert "n, y1: n by 64" in stages["schedule"]
    assert kernel.runs["v3"] != code(program)
    assert kernel.runs["v3"] == code(program, other)  # the same store, the same code
    assert code(program, other, cluster="of another") == code(program, one.sizes) == code(program)
    link.link([kernel], tmp_path / "a.so", {}, isas=[link.ISAS[native.isa()]])
    x = np.random.default_rng(1).standard_normal((97, 99)).astype("f")
    (got,) = native.Bundle(tmp_path / "a.so").call("chain", [x])
    np.testing.assert_allclose(got, run(program, {"x": x})[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", [(16,), (16, 16, 16), (16, 0), (-8, 16), (16, 8)])
def test_stored_tiles_that_do_not_fit_are_ignored(sizes) -> None:
    """One too few, one too many, none, less than none, half a panel of the weights."""
    assert code(chain(), sizes) == code(chain())


def stored(cache):
    return list((cache / "sirius_tf" / "tilings").glob("*"))


def test_candidates_are_near_the_model() -> None:
    (one,) = found(chain())
    assert one.extents == (96, 64) and one.units == (1, 16)
    near = tune.candidates(replace(one, sizes=(24, 32)))
    assert near[0] == (24, 32)
    assert set(near) >= {(24, 16), (24, 64), (12, 32), (48, 32), (48, 16), (12, 64)}
    assert len(near) == len(set(near)) == tune.MOST
    assert tune.candidates(one, (1, 16))[:2] == [one.sizes, (1, 16)]
    assert tune.candidates(one, (1, 8)) == tune.candidates(one)  # half a panel
    assert tune.candidates(replace(one, sizes=(), extents=(), units=())) == [()]


def padded() -> Program:
    """y[b] = max of p[b], whose first column a cluster of its own defines."""
    rows, at, n, k = symbol("B"), symbol("b"), symbol("n"), symbol("k")
    row, columns = it("b", rows), it("n", 400)
    return programs.program(
        "padded",
        [param("B", "x", 0, minimum=1, hint=64)],
        [
            tensor("x", [rows, 400], role="input"),
            tensor("p", [rows, 401]),
            tensor("y", [rows], role="output"),
        ],
        [
            stmt("edge", [row], "p", [at, 0], call("exp", load("x", at, 0))),
            stmt("rest", [row, columns], "p", [at, n + 1], call("tanh", load("x", at, n))),
            stmt("y1", [row], "y", [at], load("p", at, k), Reduce("max", (it("k", 401),))),
        ],
        [rows],
    )


@pytest.mark.parametrize("make", [chain, programs.softmax, padded])
def test_a_cluster_alone_computes_what_it_is_to(make, tmp_path) -> None:
    program, flows = laid_out(make())
    *_, one = tiled(program, flows, cpu(2))
    sub = alone(Uses(program), one.cluster, "alone")
    verify(sub)
    assert sub.inputs[-1] == "sizes_"
    scop = extract(sub)
    flows = flow(scop)
    root = fuse_alone(sub, flows, cpu(2), one, one.sizes)
    kernel = print_kernel(realize(sub, scop, flows, allocate(sub, scop, root)))
    link.link([kernel], tmp_path / "a.so", {}, isas=[link.ISAS[native.isa()]])
    feed = {name: tune.made_up(sub, name) for name in sub.inputs}
    got = native.Bundle(tmp_path / "a.so").call("alone", feed.values())
    for a, b in zip(got, run(sub, feed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_what_others_define_of_a_tensor_is_zero() -> None:
    program, flows = laid_out(padded())
    (one,) = (c for c in tiled(program, flows, cpu(2)) if "y1" in c.cluster.statements)
    assert one.cluster.statements == ("rest", "y1")
    edge = {s.name: s for s in alone(Uses(program), one.cluster, "alone").statements}["edge"]
    assert edge.value == Const(0.0, "float32")


@pytest.mark.parametrize("rows", [96, 8])
def test_a_cluster_whose_sizes_need_not_fit_is_no_candidate(rows) -> None:
    """It is run if x[0] > 0, and then reads 96 rows of y."""
    made = chain()
    (product, last) = made.statements
    y = tensor("z", [rows], role="input")
    go = Guard(load("go", dtype="bool"))
    value = call("mul", last.value, load("z", symbol("b")))
    guarded = replace(last, value=value, guards=(go,))
    first = stmt("go1", [], "go", [], Call("gt", (load("x", 0, 0), Const(0.0, "float32")), "bool"))
    program = replace(
        made,
        tensors=(*made.tensors, y, tensor("go", [], "bool")),
        statements=(product, first, guarded),
        inputs=(*made.inputs, "z"),
    )
    stored, flows = laid_out(program)
    names = {n for one in tiled(stored, flows, cpu(2)) for n in one.cluster.statements}
    assert ("y1" in names) == (rows == 96) and "go1" in names


def recurrent() -> Program:
    return programs.lstm(units=32)


@pytest.mark.parametrize("make", [recurrent, padded])
def test_candidates_are_timed_in_loops_and_on_parts_of_a_tensor(make, monkeypatch) -> None:
    monkeypatch.setattr(tune, "MEASURING", 0.01)
    for one in tune.clusters([make()], 2):
        sizes = tune.candidates(one.tiled)[:2]
        measured = tune.measure(one, sizes, 2)
        assert measured.model == sizes[0] and measured.best in sizes
        assert 0 < measured.best_ms <= measured.model_ms


def test_equal_clusters_are_one_and_the_heaviest_comes_first() -> None:
    one, *rest = tune.clusters([chain(), chain(batch=8), chain("a b c d E f g h")], 2)
    assert one.times == 2 and one.points == 96 * 64 * (99 + 1)
    assert [(r.times, r.points) for r in rest] == [(1, 8 * 64 * (99 + 1))]


def test_what_has_no_memory_is_an_error(monkeypatch) -> None:
    (one,) = tune.clusters([chain()], 2)
    monkeypatch.setattr(tune, "LARGEST", 4 * 96 * 64 - 1)
    with pytest.raises(SiriusError, match="too large to be made up"):
        tune.measure(one, tune.candidates(one.tiled), 2)


@pytest.mark.parametrize(("factor", "differs"), [(1.00009, False), (1.00011, True)])
def test_a_candidate_with_other_results_is_an_error(factor, differs, monkeypatch) -> None:
    """The tolerance is 1e-4; the candidate of tiles of 2x16 multiplies its results."""

    def multiplied(uses, cluster, name):
        program = alone(uses, cluster, name)
        *first, last = program.statements
        value = call("mul", last.value, Const(factor if name == "alone_2x16" else 1.0, "float32"))
        return replace(program, statements=(*first, replace(last, value=value)))

    (one,) = tune.clusters([chain()], 2)
    monkeypatch.setattr(tune, "alone", multiplied)
    monkeypatch.setattr(tune, "candidates", lambda *_: [(1, 16), (2, 16)])
    timed(monkeypatch, 1.0, 1.0)
    assert len(tune.tune([one], 60, 2)) == (not differs)
    if differs:
        with pytest.raises(SiriusError, match=r"tiles of 2x16 differ by 1\.1e-04"):
            tune.measure(one, [(1, 16), (2, 16)], 2)


def test_no_cluster_is_begun_when_the_time_is_used_up() -> None:
    assert tune.tune(tune.clusters([chain()], 2), 0, 2) == []


def timed(monkeypatch, first: float, last: float) -> None:
    """Let the model's tiles take `first` ms, and the last candidate `last`."""

    def laps(regions, feed, threads):
        return np.tile(np.linspace(first, last, len(regions)), (10, 1))

    monkeypatch.setattr(tune, "laps", laps)


@pytest.mark.parametrize(("last", "kept"), [(0.5, True), (0.98, False), (2.0, False)])
def test_only_what_is_clearly_faster_is_kept(monkeypatch, last, kept) -> None:
    (one,) = tune.clusters([chain()], 2)
    timed(monkeypatch, 1.0, last)
    tilings.write({one.tiled.key: (1, 16), "another": (8,)})
    measured = tune.tune([one], 60, 2)
    tune.keep(measured)
    stored = tilings.read()
    assert stored.pop("another") == (8,)
    assert stored == ({one.tiled.key: measured[0].best} if kept else {})
    assert (measured[0].best == one.tiled.sizes) != kept


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("model") / "net")
    module, rng = tf.Module(), np.random.default_rng(0)
    module.w = tf.Variable(rng.standard_normal((64, 128)).astype("f") / 8)

    @tf.function(input_signature=[tf.TensorSpec((None, 64), name="x")])
    def serve(x):
        return {"y": tf.tanh(tf.matmul(x, module.w))}

    tf.saved_model.save(module, path, signatures=serve)
    return path


def kernels(path) -> dict:
    (bundle,) = (path / "assets").glob("*.so")
    return native.Bundle(bundle).manifest["kernels"]


def test_conversions_take_what_the_tool_has_kept(
    model, cache, tmp_path, monkeypatch, capsys
) -> None:
    words = [model, "--input_shapes=x=96,64", "--threads=2"]
    samples, options = {"x": np.ones((96, 64), "f")}, Options(threads=2, keep_slow=True)
    before, after = tmp_path / "before", tmp_path / "after"
    sirius_tf.optimize(model, before, samples=samples, options=options)
    timed(monkeypatch, 1.0, 0.5)
    assert tune.main(*parse(tune, *words, "--dry_run")) == 0
    assert tilings.read() == {}
    assert tune.main(*parse(tune, *words)) == 0
    kept = {name: list(sizes) for name, sizes in tilings.read().items()}
    shown = " ".join(capsys.readouterr().out.split())
    assert "2.00x" in shown and "1 of 1 clusters were measured" in shown and len(kept) == 1
    sirius_tf.optimize(model, after, samples=samples, options=options)
    ((_, old),), ((_, new),) = kernels(before).items(), kernels(after).items()
    assert old["tilings"] == {} and new["tilings"] == kept and old["code"] != new["code"]
    stored(cache)[0].unlink()
    sirius_tf.refresh(after, model, samples=samples, options=options)
    assert kernels(after) == {"serving_default_0": new}


def test_the_tool_measures(model, capsys) -> None:
    assert tune.main(*parse(tune, model, "--input_shapes=x=96,64", "--seconds=1")) == 0
    assert "1 of 1 clusters were measured" in " ".join(capsys.readouterr().out.split())


def test_a_model_that_is_not_there_is_one_sentence(tmp_path, capsys) -> None:
    assert tune.main(*parse(tune, str(tmp_path / "missing"))) == 1
    assert "missing is not a directory" in capsys.readouterr().err


def test_products_are_clusters_by_their_sizes(capsys) -> None:
    words = ("--products=40x16x48,7x16x300", "--seconds=60", "--threads=1", "--dry_run")
    assert tune.main(*parse(tune, *words)) == 0
    printed = capsys.readouterr().out
    assert "p40x16x48" in printed and "p7x16x300" in printed
    assert "2 of 2 clusters were measured" in printed
    first, second = tune.products(["40x16x48", "7x16x300"])
    shapes = [[e.const for e in t.shape] for t in (*first.tensors, *second.tensors)]
    assert shapes == [[40, 16], [16, 48], [40, 48], [7, 16], [16, 300], [7, 300]]


@pytest.mark.parametrize("text", ["40x16", "0x16x48", "40x16x48x2", "axbxc", ""])
def test_what_is_no_product_is_one_sentence(text, capsys) -> None:
    assert tune.main(*parse(tune, f"--products=40x16x48,{text}")) == 1
    assert f"tune: error: --products: {text} is not MxKxN" in capsys.readouterr().err
    with pytest.raises(app.UsageError, match="expected MODEL, or --products"):
        tune.main(*parse(tune, "model", "--products=40x16x48"))
