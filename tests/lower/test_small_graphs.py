# SPDX-License-Identifier: Apache-2.0
"""The programs of small graphs: texts, from which tests of passes begin, and results."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.frontend.graphdef import from_graph_def
from sirius_tf.ir import printer
from sirius_tf.ir.interp import run
from sirius_tf.ir.rewrite import map_statements, rename_loads
from sirius_tf.lower.graph import lower
from sirius_tf.transform.align import equal_constants
from tests.support import saved, small_graphs, unrolled_graphs
from tests.support.arrays import assert_close


def with_shared_constants(program):
    """The program that reads equal constants under one name, as the numbers are not in its text."""
    same = equal_constants(program)
    program = map_statements(program, lambda s: rename_loads(s, same))
    tensors = tuple(t for t in program.tensors if t.name not in same or same[t.name] == t.name)
    return replace(program, tensors=tensors)


CASES = [(small_graphs.GRAPHS, saved.FOLDER, fn) for fn in small_graphs.GRAPHS]
CASES += [(unrolled_graphs.GRAPHS, saved.UNROLLED, fn) for fn in unrolled_graphs.GRAPHS]


@pytest.mark.parametrize(("graphs", "folder", "fn"), CASES)
def test_program(graphs, folder, fn, request):
    specs = graphs[fn]
    concrete = tf.function(fn, input_signature=specs).get_concrete_function()
    names = [t.name for t in concrete.inputs]
    outputs = [t.name for t in concrete.outputs]
    graph = from_graph_def(concrete.graph.as_graph_def(), names, outputs)
    program = with_shared_constants(lower(graph))
    text = printer.show(program) + "\n"
    path = folder / f"{fn.__name__}.txt"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text, f"{path} differs: see --update-golden"
    for size in (1, 6):
        feeds = saved.inputs(program, size)
        expected = concrete(*map(tf.constant, feeds.values()))
        expected = expected if isinstance(expected, list | tuple) else [expected]
        assert_close(run(program, feeds), [np.asarray(e) for e in expected], 1e-4)
