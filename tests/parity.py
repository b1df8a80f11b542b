# SPDX-License-Identifier: Apache-2.0
"""Functions against TensorFlow, with unknown sizes: interpreted, and as generated code."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from sirius_tf.bundle.link import ISAS, link  # noqa: E402
from sirius_tf.compile import compile_program  # noqa: E402
from sirius_tf.errors import InvalidArgument  # noqa: E402
from sirius_tf.frontend.graphdef import from_graph_def  # noqa: E402
from sirius_tf.ir.interp import run  # noqa: E402
from sirius_tf.ir.parser import parse  # noqa: E402
from sirius_tf.ir.printer import show  # noqa: E402
from sirius_tf.ir.verify import verify  # noqa: E402
from sirius_tf.lower.graph import lower  # noqa: E402
from sirius_tf.runtime import native  # noqa: E402
from tests import workers  # noqa: E402


def check(fn, *shapes, dtypes=None, sizes=(0, 1, 7, 33), tolerance=1e-4, arrays=None, oracle=None):
    """`shapes` have None for the size that takes the values `sizes`; the oracle is TF on `fn`."""
    dtypes = dtypes or ["float32"] * len(shapes)
    specs = [tf.TensorSpec(s, d) for s, d in zip(shapes, dtypes, strict=True)]
    concrete = tf.function(fn, input_signature=specs).get_concrete_function()
    names = [t.name for t in concrete.inputs]
    outputs = [t.name for t in concrete.outputs]
    graph = from_graph_def(concrete.graph.as_graph_def(), names, outputs)
    program = lower(graph)
    verify(program)
    assert parse(show(program)) == program
    generated = compiled(program)
    rng = np.random.default_rng(0)
    for size in sizes:
        feeds = arrays(size) if arrays else []
        if not arrays:
            for shape, dtype in zip(shapes, dtypes, strict=True):
                full = [size if s is None else s for s in shape]
                feeds.append((rng.standard_normal(full) * 3).astype(dtype))
        try:
            expected = (oracle or concrete)(*map(tf.constant, feeds))
        except tf.errors.InvalidArgumentError:  # then it is for us, too
            for stage in (
                lambda f: run(program, dict(zip(program.inputs, f, strict=True))),
                generated,
            ):
                with pytest.raises(InvalidArgument):
                    stage(feeds)
            continue
        expected = expected if isinstance(expected, list | tuple) else [expected]
        actual = run(program, dict(zip(program.inputs, feeds, strict=True)))
        for stage in (actual, generated(feeds)):
            for a, e in zip(stage, expected, strict=True):
                assert a.dtype == e.numpy().dtype
                assert a.shape == e.shape
                np.testing.assert_allclose(a, e.numpy(), rtol=tolerance, atol=tolerance)
    return program


def compiled(program):
    """The program as generated code for this machine, which several numbers of workers run."""
    isa = ISAS[native.isa()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bundle.so")
        link([compile_program(replace(program, name="region"))], path, {}, isas=[isa])
        bundle = native.Bundle(path)
    return lambda feeds: workers.call(bundle, "region", feeds)


def evaluate(fn, *feeds):
    """The one result of a function of arrays whose first size is unknown."""
    program = lower(traced(fn, *feeds))
    return run(program, dict(zip(program.inputs, feeds, strict=True)))[0]


def traced(fn, *feeds):
    specs = [tf.TensorSpec([None, *x.shape[1:]] if x.ndim else [], x.dtype) for x in feeds]
    concrete = tf.function(fn, input_signature=specs).get_concrete_function()
    names = [t.name for t in concrete.inputs]
    return from_graph_def(concrete.graph.as_graph_def(), names, [concrete.outputs[0].name])
