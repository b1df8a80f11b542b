# SPDX-License-Identifier: Apache-2.0
"""The fuzzer: what it draws, graphs on which the compiler was wrong once, and half a minute."""

import random
import subprocess
import sys

import pytest

tf = pytest.importorskip("tensorflow")

from sirius_tf.lower.rules import RULES
from tests.reliability.fuzz import answers, case
from tests.reliability.fuzz.ops import OPS
from tests.support import ROOT

KEPT = sorted((ROOT / "testdata" / "fuzz").glob("*.pbtxt"))
#: Ops with a rule that are not drawn, and why not.
LEFT_OUT = {
    "LogicalXor": "TensorFlow has no such op",
    "ResourceGather": "of a variable: a frozen graph has GatherV2",
    "ResourceGatherNd": "of a variable: a frozen graph has GatherNd",
    "Variable": "the name that a frozen variable has here",
}


def test_every_op_with_a_rule_is_drawn():
    assert set(RULES) - set(OPS) == set(LEFT_OUT)
    assert not set(LEFT_OUT) & set(OPS)


def test_graphs_that_failed_once():
    report = answers.Report()
    answers.check([case.read(path) for path in KEPT], 1, report)
    assert [(f.case.name, f.stage, f.what) for f in report.failures] == []
    assert report.counts["compiled"] + report.counts["left on TensorFlow"] == len(KEPT)
    assert report.counts["requests"] > len(KEPT)


@pytest.mark.parametrize("seed", [1, random.randrange(1 << 30)], ids=["fixed", "fresh"])
def test_some_graphs(seed, tmp_path):
    print("seed", seed)
    command = [sys.executable, "-m", "tests.reliability.fuzz", f"--seed={seed}", "--seconds=14"]
    command += [f"--keep={tmp_path}", "--shrink=0", "--cuda=0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr[-2000:])
    assert done.returncode == 0
