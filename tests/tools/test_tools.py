# SPDX-License-Identifier: Apache-2.0
"""The commands: flags, reports, exit codes; and one model through all of them."""

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from absl import app, flags
from rich.console import Console

from sirius_tf.bundle import store
from sirius_tf.errors import SiriusError
from sirius_tf.ir.interp import run
from sirius_tf.report import Accuracy, LeftNode, RegionReport, Result, SignatureReport
from sirius_tf.tools import benchmark, convert
from sirius_tf.tools.gpu import archive, kernels
from sirius_tf.tools.models import fetch
from sirius_tf.tools.peers import PEERS, Case, read_case
from tests.support import ROOT
from tests.support.commands import parse

NO_RULE = "there is no rule for this op"
LEFT = (
    LeftNode("s", "lookup", "LookupTableFindV2", NO_RULE),
    LeftNode("s", "lookup2", "LookupTableFindV2", NO_RULE),
    LeftNode("s", "add", "AddV2", "too small"),
)
REGIONS = (
    RegionReport("s_0", "s", 40, 1.0, 0.25, True, accuracy=Accuracy(2e-7, 1e-7)),
    RegionReport("s_1", "s", 3, 1, 2, False),
)
SIGNATURE = SignatureReport("s", 43, 40, LEFT, REGIONS, 3.0, 1.5, 1.0, 0.6, 2e-7)
RESULT = Result(Path("out"), Path("out/b"), (SIGNATURE,), 12.34, 5_000_000, 2_500_000)


def text(renderable):
    console = Console(width=100, no_color=True)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_report():
    report = text(convert.report(RESULT))
    lines = [" ".join(line.split()) for line in report.splitlines()]
    assert "s 40 of 43 100% -> 60% 3.000 -> 1.500 2.00x 2.0e-07" in lines
    assert "s_0 40 1.000 -> 0.250 4.00x yes 2.0e-07 1.0e-07" in lines
    assert "s_1 3 1.000 -> 2.000 0.50x no - -" in lines
    assert f"{NO_RULE} LookupTableFindV2 2" in lines
    assert "too small AddV2 1" in lines
    assert "out: 5.0 MB, of which the bundle, mapped when loaded: 2.5 MB." in report
    assert "strict arithmetic" not in report
    retried = replace(RESULT, strict_because="region s_0 differs", strict_blame="winograd: it is")
    again = text(convert.report(retried))
    assert "Converted again with strict arithmetic: region s_0 differs." in again
    assert "To blame is winograd: it is." in again


def test_complaints():
    assert convert.complaint(RESULT, strict=False) is None
    assert "1 ops that can be compiled stay on TensorFlow, the first is add" in convert.complaint(
        RESULT, strict=True
    )
    fine = replace(RESULT, signatures=(replace(SIGNATURE, left=LEFT[:2]),))
    assert convert.complaint(fine, strict=True) is None
    nothing = replace(RESULT, bundle=None)
    assert convert.complaint(nothing, strict=False) == "nothing was compiled"


def test_shapes():
    assert convert.parse_shapes(["x=1,100,256", "s/y="]) == {"x": (1, 100, 256), "s/y": ()}
    for bad in ("x", "=1", "x=1,?", "x=-1"):
        with pytest.raises(SiriusError, match="is not INPUT=SIZE"):
            convert.parse_shapes([bad])


def test_keys_of_samples():
    inputs = {"a": {"x", "y"}, "b": {"x"}}
    found = convert.split_keys({"b/x": 1, "x": 2, "y": 3}, inputs)
    assert found == {"b": {"x": 1}, "a": {"x": 2, "y": 3}}
    for key in ("z", "b/y", "c/x"):
        with pytest.raises(SiriusError, match=f"no signature has an input {key}; .* a/x"):
            convert.split_keys({key: 1}, inputs)


def test_flags():
    argv, values = parse(convert, "in", "out", "--signatures=a,b", "--input_shapes=x=1", "--force")
    assert argv == ["tool", "in", "out"]
    assert values.signatures == ["a", "b"] and values.input_shapes == ["x=1"] and values.force
    assert values.tolerance == 1e-5 and not values.strict
    with pytest.raises(flags.Error, match="tolerance"):
        parse(convert, "--tolerance=-1")
    with pytest.raises(app.UsageError, match="expected INPUT and OUTPUT"):
        convert.main(*parse(convert, "in"))


def test_the_cache_is_cleared(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store.keep("kind", "name", lambda entry: entry.write(bytes(1_999_968)))
    assert convert.main(*parse(convert, "--clear_cache")) == 0
    assert capsys.readouterr().out == "sirius-convert: 2.0 MB deleted from the cache\n"
    assert store.find("kind", "name") is None
    with pytest.raises(app.UsageError, match="or --clear_cache alone"):
        convert.main(*parse(convert, "in", "out", "--clear_cache"))
    (tmp_path / "sirius_tf").chmod(0o777)
    assert convert.main(*parse(convert, "--clear_cache")) == 1
    assert "others may write to it; delete it" in capsys.readouterr().err


def test_an_error_is_one_sentence_and_an_exit_code(tmp_path, capsys):
    argv, values = parse(convert, str(tmp_path / "missing"), str(tmp_path / "out"))
    assert convert.main(argv, values) == 1
    error = capsys.readouterr().err.strip()
    assert error == f"sirius-convert: error: {tmp_path}/missing is not a directory"
    argv, values = parse(convert, "in", "out", "--input_shapes=x")
    assert convert.main(argv, values) == 1
    assert "--input_shapes=x is not INPUT=SIZE" in capsys.readouterr().err


@pytest.mark.parametrize(("strict", "code"), [(False, 0), (True, 1)])
def test_strictness(monkeypatch, capsys, strict, code):
    monkeypatch.setattr("sirius_tf.optimize", lambda *_, **__: replace(RESULT, bundle=None))
    argv, values = parse(convert, "in", "out", *["--strict"] * strict)
    assert convert.main(argv, values) == code
    kind = "error" if strict else "warning"
    assert f"sirius-convert: {kind}: nothing was compiled" in capsys.readouterr().err


def test_ways_to_start(tmp_path):
    """From the folder of the starters, or as modules; another package may be called `tools`."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "__init__.py").write_text("raise ImportError('not these tools')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    commands = {path.stem: [str(path)] for path in (ROOT / "tools").glob("*.py")}
    assert commands.keys() >= {"convert", "fetch_model", "gpu_check", "zoo"}
    modules = {name: ["-m", f"sirius_tf.tools.{name}"] for name in ("convert", "benchmark")}
    started = [
        (name, subprocess.Popen([sys.executable, *words, "--help"], stdout=-1, stderr=-1,
                                text=True, cwd=tmp_path, env=environment))
        for name, words in (*commands.items(), *modules.items())
    ]  # fmt: skip
    for name, process in started:
        out, problem = process.communicate()
        assert f"usage: {name}.py" in out, (name, problem)


def test_fetch_model(tmp_path):
    with zipfile.ZipFile(tmp_path / "some.whl", "w") as wheel:
        wheel.writestr(f"{fetch.FOLDER}variables/variables.index", "index")
        wheel.writestr("basic_pitch/other.py", "")
    fetch.extract(tmp_path / "some.whl", tmp_path / "model")
    files = [p for p in (tmp_path / "model").rglob("*") if p.is_file()]
    assert files == [tmp_path / "model" / "variables" / "variables.index"]


def test_benchmark_table():
    timings = [
        benchmark.Timing("tf", 2.0, 1.0),
        benchmark.Timing("sirius", 0.5, 3.0, 1e-7),
        benchmark.Timing("ort", failure="ImportError: no"),
    ]
    table = benchmark.markdown({"m": timings}).splitlines()
    assert table[2:] == [
        "| m | tf | 2.000 | 1.00x |  | 1.0 |",
        "| m | sirius | 0.500 | 4.00x | 1.0e-07 | 3.0 |",
        "| m | ort | failed: ImportError: no | | | |",
    ]


def test_benchmark_error_pairs_renamed_outputs():
    a, b = np.arange(3.0), np.arange(4.0)
    assert benchmark.largest_error({"a": a, "b": b}, {"x": b, "y": a + 1e-3}) == pytest.approx(5e-4)


def test_a_peer_that_fails_is_reported(monkeypatch):
    def fail(case):
        raise ImportError("no such\npeer")

    monkeypatch.setitem(PEERS, "tf", lambda case: lambda: {"y": np.ones(2)})
    monkeypatch.setitem(PEERS, "direct", lambda case: lambda: {"y": np.full(2, 1.5)})
    monkeypatch.setitem(PEERS, "ort", fail)
    case = Case(Path("m"), "s", {}, 1)
    tf, failed, direct = benchmark.measure(case, ["tf", "ort", "direct"], rounds=1, seconds=0)
    assert failed == benchmark.Timing("ort", failure="ImportError: no such peer")
    assert tf.error is None and direct.error == 0.5 and direct.ms > 0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from sirius_tf.tools.models import zoo

    folder = tmp_path_factory.mktemp("zoo")
    zoo.save_samples(zoo.build("vocabulary", folder / "model"), folder / "model.npz")
    return folder / "model"


def test_conversion(model, tmp_path, capsys):
    source, output, dump = str(model), str(tmp_path / "out"), tmp_path / "dump"
    samples = f"--samples={model}.npz"
    argv, values = parse(convert, source, output, samples, "--keep-slow", f"--dump={dump}")
    assert convert.main(argv, values) == 0
    assert "4 of 4" in capsys.readouterr().out
    assert list((tmp_path / "out" / "assets").glob("*.sirius.so"))
    assert list(dump.iterdir())
    assert convert.main(argv, values) == 1
    assert f"{output} exists" in capsys.readouterr().err
    argv, values = parse(convert, source, output, samples, "--refresh")
    assert convert.main(argv, values) == 0
    only = "--signatures=serving_default"  # the file has samples of the other, too
    argv, values = parse(convert, source, output, samples, only, "--force")
    assert convert.main(argv, values) == 0
    argv, values = parse(convert, source, output, "--force", "--input_shapes=x=7,64")
    assert convert.main(argv, values) == 0
    argv, values = parse(convert, source, output, "--force", "--input_shapes=x=7,63")
    assert convert.main(argv, values) == 1
    assert "'x' has shape (7, 63)" in capsys.readouterr().err


def test_cuda_kernels(model, capsys):
    kernels.main(*parse(kernels, str(model), "--arch=sm_80"))
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines() if "sm_80" in line]
    assert [row[0] for row in rows] == ["features_0_cuda", "serving_default_1_cuda"]
    assert all(len(row) == len(kernels.COLUMNS) and int(row[-1]) >= 108 for row in rows)
    assert "reductions, modelled" in text and "MB of memory at most" in text
    with pytest.raises(app.UsageError, match="expected a MODEL"):
        kernels.main(*parse(kernels))


def test_benchmark(model, tmp_path):
    words = ["--signature=features", "--peers=tf,call,sirius,direct", "--rounds=1"]
    words += ["--seconds=0", f"--json={tmp_path}/out.json"]
    # a process of its own, as TensorFlow's threads are set once
    main = [sys.executable, "-m", "sirius_tf.tools.benchmark", str(model), *words]
    done = subprocess.run(main, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out.json").read_text())["models"]["model"]
    assert [r["peer"] for r in results] == ["tf", "call", "sirius", "direct"]
    assert all(r["ms"] > 0 for r in results)
    assert results[2]["error"] < 1e-5 and results[3]["error"] < 1e-5


def test_random_requests_are_answered_in_turns(tmp_path):
    from sirius_tf.tools.perf import random_requests

    rng, samples = np.random.default_rng(0), {"x": np.ones(1, "f"), "n": np.array([3, 5], "i")}
    shapes, sizes = {"x": ["B", "T", "4"], "n": ["B"]}, {"B": (1, 3), "T": (2, 9)}
    requests = [random_requests.draw(shapes, sizes, samples, rng) for _ in range(20)]
    assert {len(r["n"]) for r in requests} == {1, 2, 3} == {len(r["x"]) for r in requests}
    assert all(set(r["n"].tolist()) <= {3, 5} and r["x"].shape[2] == 4 for r in requests)

    def twice(feed):
        return {"y": 2.0 * feed["x"]}

    laps = random_requests.serve({"tf": twice, "direct": twice}, requests)
    assert [len(times) for times in laps.values()] == [20, 20]
    assert len(random_requests.markdown(laps).splitlines()) == 4
    with pytest.raises(RuntimeError, match="direct differs"):
        random_requests.serve({"tf": twice, "direct": lambda feed: {"y": feed["x"]}}, requests)


def test_bytes_that_a_schedule_moves():
    """Each element once, however often it is read, but for what stays in a tile."""
    from sirius_tf.compile import schedule_program
    from sirius_tf.schedule.machine import cpu
    from sirius_tf.tools.perf import traffic
    from tests.support import programs

    def moved(program):
        scheduled = schedule_program(program, cpu(2))
        executed = traffic.phases(scheduled.nest, program.hints)
        return [(e.times, traffic.moved(scheduled, e)) for e in executed]

    x_and_y, c_and_h, x_of_a_step, u = 2 * 4 * 5, 2 * 4 * 3, 4 * 12, 3 * 12
    assert moved(programs.softmax()) == [(1, 4 * x_and_y)]
    step = 4, 4 * (2 * c_and_h + x_of_a_step + u)
    assert moved(programs.lstm()) == [(1, 4 * c_and_h), step, (1, 4 * c_and_h)]


def test_what_each_part_is_worth(tmp_path):
    from sirius_tf.pipeline import PIPELINE
    from sirius_tf.tools.models import zoo
    from sirius_tf.tools.perf import ablation

    zoo.save_samples(zoo.build("dien", tmp_path / "model"), tmp_path / "model.npz")
    case = read_case(tmp_path / "model", "serving_default", 2)
    variants = {v.without: v for v in ablation.measure(case, rounds=1)}
    in_tensorflow = [ablation.WHOLE_IN_TF, ablation.HOST]
    assert list(variants) == [ablation.WHOLE, *PIPELINE.names("cpu"), *in_tensorflow]
    lines = ablation.markdown({"model": list(variants.values())}).splitlines()
    assert len(lines) == 2 + len(variants)
    whole_in_tf, outside = (variants.pop(name) for name in in_tensorflow)
    assert outside.ms and whole_in_tf.ms
    assert all(v.ms and v.phases and v.moved and v.workspace for v in variants.values())
    whole = variants.pop(ablation.WHOLE)
    assert max(v.barriers for v in variants.values()) > whole.barriers
    assert max(v.moved for v in variants.values()) > whole.moved
    some = ablation.measure(case, rounds=1, parts=["hoist"])
    assert [v.without for v in some] == [ablation.WHOLE, "hoist"]
    with pytest.raises(app.UsageError, match=r"cannot be left out: hosit; .* hoist"):
        ablation.main(*parse(ablation, "model", "--parts=hosit"))


def test_products_are_products():
    from sirius_tf.tools.perf import roofline

    x, w = np.ones((3, 5), np.float32), roofline.program_of(3, 5, 7).tensor["w"].value
    np.testing.assert_allclose(run(roofline.program_of(3, 5, 7), {"x": x})[0], x @ w, rtol=1e-6)


def test_products_beside_the_peak(tmp_path, capsys):
    from sirius_tf.tools.perf import roofline

    chart, file = tmp_path / "chart.svg", tmp_path / "points.json"
    words = ["--rows=1,7", "--sizes=512", "--rounds=1", f"--chart={chart}", f"--json={file}"]
    roofline.main(*parse(roofline, *words))
    assert len(capsys.readouterr().out.splitlines()) == 2 + 2 + 2
    points = json.loads(file.read_text())["points"]
    assert all(0 < p["of_peak"] < 1.5 and p["gb_s"] > 0 for p in points)
    assert [p["gb_s"] * p["m"] for p in points] == pytest.approx([4 * p["gmac_s"] for p in points])
    assert chart.stat().st_size > 0


def test_weights_of_archives_repeat(tmp_path) -> None:
    """Only those of float32, which keep their shapes."""
    import tensorflow as tf

    prefix = str(tmp_path / "variables" / "variables")
    archive.repeat_weights(tmp_path)  # of a model without variables
    numbers = np.arange(3 * archive.PERIOD, dtype=np.float32).reshape(3, -1)
    tensors = {"long": numbers, "short": numbers[0, :5], "whole": numbers.astype(np.int32)}
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(tensors),
        shape_and_slices=[""] * 3,
        tensors=list(tensors.values()),
    )
    archive.repeat_weights(tmp_path)
    found = tf.train.load_checkpoint(prefix)
    np.testing.assert_array_equal(found.get_tensor("long"), np.stack([numbers[0]] * 3))
    np.testing.assert_array_equal(found.get_tensor("short"), tensors["short"])
    np.testing.assert_array_equal(found.get_tensor("whole"), tensors["whole"])
