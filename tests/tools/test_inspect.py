# SPDX-License-Identifier: Apache-2.0
"""The command sirius-inspect."""

import re
from dataclasses import replace

import pytest
from absl import flags

from sirius_tf.debug import reproducer
from sirius_tf.ir.expr import Const
from sirius_tf.ir.parser import parse
from sirius_tf.ir.program import Program
from sirius_tf.pipeline import PASSES, Pipeline
from sirius_tf.tools import inspect
from tests.support.models import export_lstm, export_mmoe
from tests.support.programs import F, call


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("inspect") / "model"
    export_mmoe(path)
    return path


def start(*arguments):
    values = flags.FlagValues()
    inspect.define_flags(values)
    argv = values(["inspect.py", *map(str, arguments)])
    return inspect.main(argv, values)


def test_regions_and_passes_are_listed(model, capsys):
    assert start(model) == 0
    out = capsys.readouterr().out
    assert "serving_default_0" in out and all(p.name in out for p in PASSES if "cpu" in p.targets)


@pytest.mark.parametrize(
    "stage, wanted",
    [
        ("graph", "MatMul"),
        ("epilogue", "where acc = sum over"),
        ("winograd", "# winograd changes nothing"),
        ("schedule", "# phase"),
        ("c_v4", "_run_v4(SiriusCall"),
        ("asm", ".text"),
    ],
)
def test_stages_are_printed(model, capsys, stage, wanted):
    assert start(model, f"--stage={stage}") == 0
    assert wanted in capsys.readouterr().out


def test_programs_are_printed_as_they_are_read(model, capsys):
    start(model, "--stage=program")
    assert isinstance(parse(capsys.readouterr().out), Program)


def test_an_edited_schedule_is_replayed_and_a_broken_one_refused(model, tmp_path, capsys):
    start(model, "--stage=schedule")
    text, file = capsys.readouterr().out, tmp_path / "schedule.txt"
    assert ": lanes " in text
    name, lanes = re.search(r"  (\w+): lanes (\w+)", text).groups()
    for plan, code in (("scalar", 0), ("lanes nothing", 1)):
        file.write_text(text.replace(f"  {name}: lanes {lanes}", f"  {name}: {plan}", 1))
        assert start(model, "--stage=schedule", f"--schedule={file}") == code
        shown = capsys.readouterr()
        assert f"  {name}: scalar" in shown.out if code == 0 else "cannot be" in shown.err


def test_a_schedule_of_a_recurrence_is_edited_or_refused_with_instances(tmp_path, capsys):
    model, file = tmp_path / "lstm", tmp_path / "schedule.txt"
    export_lstm(model)
    start(model, "--stage=schedule")
    text = capsys.readouterr().out
    right = {r"window \[2,": "window [3,", r"(parallel \w+: i0) by 8": r"\1 by 4"}
    wrong = {
        r"loop (?=\w+: t0, )": ("parallel ", "carries a dependence"),
        r"loop (\w+: t0), ": (r"loop \1 + 1, ", "runs the sink first"),
        r"window \[2,": ("window [1,", "that is gone|that of two elements"),
    }
    for old, new in right.items():
        edited = re.sub(old, new, text, count=1)
        assert edited != text
        file.write_text(edited)
        assert start(model, "--stage=schedule", f"--schedule={file}") == 0
        assert capsys.readouterr().out == edited
    instance = r"\w+\[[^]]*\]"
    for old, (new, problem) in wrong.items():
        file.write_text(re.sub(old, new, text, count=1))
        assert start(model, "--stage=schedule", f"--schedule={file}") == 1
        assert re.search(
            rf"({problem}).*, e\.g\. .*{instance} -> {instance}", capsys.readouterr().err
        )


@pytest.mark.parametrize("flags", [["--schedule=x.txt"], ["--mapping=x.txt", "--stage=schedule"]])
def test_a_schedule_that_nothing_takes_is_an_error(model, capsys, flags):
    assert start(model, *flags) == 1
    wanted = "--mapping is for --target=cuda" if flags[1:] else "show in the text of a --stage"
    assert wanted in capsys.readouterr().err


def test_edited_decisions_for_a_gpu_are_replayed_and_wrong_ones_refused(model, tmp_path, capsys):
    files = {name: tmp_path / f"{name}.txt" for name in ("schedule", "mapping")}
    for name, file in files.items():
        assert start(model, f"--stage={name}", "--target=cuda") == 0
        file.write_text(capsys.readouterr().out)
    flags = ["--target=cuda", *(f"--{name}={file}" for name, file in files.items())]
    for launch, edit, code in (("persistent", "", 0), ("graph", "", 0), ("graph", "1", 1)):
        text = re.sub("launch: .*", f"launch: {launch}", files["mapping"].read_text())
        files["mapping"].write_text(text.replace(": threads ", f": threads {edit}"))
        assert start(model, "--stage=cuda", *flags) == code
        shown = capsys.readouterr()
        assert ("_cuda_phase1(" in shown.out) == (launch == "graph" and not code)
    assert "cannot be computed by Threads" in shown.err


def test_cuda_is_printed_for_gpus_alone(model, capsys):
    assert start(model, "--stage=cuda", "--target=cuda", "--arch=sm_90") == 0
    assert '#include "sirius_cuda.cuh"' in capsys.readouterr().out
    assert start(model, "--stage=cuda") == 1
    assert "there is no cuda for this target, but program, " in capsys.readouterr().err


def test_a_region_that_is_not_there(model, capsys):
    assert start(model, "--region=none") == 1
    assert "has no region none, but serving_default_0" in capsys.readouterr().err


def test_a_mistake_is_found_written_and_replayed(model, tmp_path, monkeypatch, capsys):
    def spoiled(program):
        more = [
            replace(s, finish=call("mul", s.finish, Const(1.01, F))) if s.finish else s
            for s in program.statements
        ]
        return replace(program, statements=tuple(more))

    one = next(p for p in PASSES if p.name == "epilogue")
    mistaken = replace(one, apply=lambda p, c: spoiled(one.apply(p, c)))
    passes = tuple(mistaken if p is one else p for p in PASSES)
    assert start(model, "--bisect") == 0
    assert "all passes and the code agree" in capsys.readouterr().out
    monkeypatch.setattr(reproducer, "PIPELINE", Pipeline(passes))
    assert start(model, "--bisect", f"--save={tmp_path}") == 1
    out = capsys.readouterr().out
    assert "serving_default_0: epilogue: " in out and " where acc = sum over " in out
    folder = tmp_path / "serving_default_0"
    assert start(f"--replay={folder}") == 1
    assert capsys.readouterr().out.startswith("epilogue: ")
    monkeypatch.undo()
    assert start(f"--replay={folder}") == 0
