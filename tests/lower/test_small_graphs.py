# SPDX-License-Identifier: Apache-2.0
"""The programs of ten small graphs: texts, from which tests of passes begin, and results."""

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.frontend.graphdef import from_graph_def
from sirius_tf.ir import printer
from sirius_tf.ir.interp import run
from sirius_tf.lower.graph import lower
from tests.support import saved, small_graphs
from tests.support.arrays import assert_close


@pytest.mark.parametrize("fn", small_graphs.GRAPHS, ids=lambda fn: fn.__name__)
def test_program(fn, request):
    specs = small_graphs.GRAPHS[fn]
    concrete = tf.function(fn, input_signature=specs).get_concrete_function()
    names = [t.name for t in concrete.inputs]
    outputs = [t.name for t in concrete.outputs]
    graph = from_graph_def(concrete.graph.as_graph_def(), names, outputs)
    program = lower(graph)
    text = printer.show(program) + "\n"
    path = saved.FOLDER / f"{fn.__name__}.txt"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text, f"{path} differs: see --update-golden"
    for size in (1, 6):
        feeds = saved.inputs(program, size)
        expected = concrete(*map(tf.constant, feeds.values()))
        expected = expected if isinstance(expected, list | tuple) else [expected]
        assert_close(run(program, feeds), [np.asarray(e) for e in expected], 1e-4)
