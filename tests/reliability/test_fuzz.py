# SPDX-License-Identifier: Apache-2.0
"""The fuzzer: what it draws, graphs on which the compiler was wrong once, and some others."""

import subprocess
import sys

import pytest
import tensorflow as tf

from sirius_tf.lower.rules import RULES
from tests.reliability.fuzz import answers, case, oracle
from tests.reliability.fuzz.ops import OPS
from tests.support import ROOT

KEPT = sorted((ROOT / "testdata" / "fuzz").glob("*.pbtxt"))
#: Ops with a rule that are not drawn, and why not.
LEFT_OUT = {
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


def test_bodies_cast_no_fractions_to_integers():
    """Nothing can be fetched out of a body to see whether an integer is undefined there."""
    for n in range(48):
        for function in case.draw(f"g1_{n}", 1).graph_def.library.function:
            assert not oracle.narrowed(function.node_def), n


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_erf_of_infinity(dtype):
    """TensorFlow's is NaN in float64: nothing can be compared then."""
    graph = tf.Graph()
    with graph.as_default():
        x = tf.raw_ops.Placeholder(dtype=dtype, shape=[8])
        tf.identity(tf.math.erf(x), name="output_0")
    graph_def = graph.as_graph_def()
    graph_def.node[0].attr["_sizes"].list.i[:] = [8]
    wild = any(r.wild for r in answers.requests(case.Case("erf", graph_def), 1))
    assert wild == (tf.math.erf(tf.constant(float("inf"), dtype)).numpy() == 1.0)


def test_some_graphs(tmp_path):
    """The same graphs each time: new ones are for the command, as some still fail."""
    command = [sys.executable, "-m", "tests.reliability.fuzz", "--seed=2", "--graphs=40"]
    command += [f"--keep={tmp_path}", "--shrink=0", "--cuda=0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr[-2000:])
    assert done.returncode == 0
