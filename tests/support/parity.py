# SPDX-License-Identifier: Apache-2.0
"""Functions against TensorFlow, with unknown sizes: interpreted, and as generated code."""

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from sirius_tf.bundle.link import ISAS, link
from sirius_tf.codegen.cpu.kernel import print_kernel
from sirius_tf.compile import schedule_program
from sirius_tf.errors import InvalidArgument
from sirius_tf.frontend.graphdef import from_graph_def
from sirius_tf.ir.interp import run
from sirius_tf.ir.parser import parse
from sirius_tf.ir.printer import show
from sirius_tf.ir.verify import verify
from sirius_tf.lower.graph import lower
from sirius_tf.pipeline import Step
from sirius_tf.poly.dependence import check_defined, check_single_assignment
from sirius_tf.poly.scop import extract
from sirius_tf.runtime import native
from sirius_tf.transform.simplify import simplify
from tests.support import workers
from tests.support.arrays import assert_rounded


def lowered(fn, *specs, hints=None):
    """A function of tensors, its variables frozen, and its program. A spec is a TensorSpec, or its
    shape and dtype; `hints` are the shapes of samples by name."""
    signature = [tf.TensorSpec(*s) if isinstance(s, tuple) else s for s in specs]
    concrete = tf.function(fn, input_signature=signature).get_concrete_function()
    if concrete.captured_inputs:
        concrete = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    names = [t.name for t in concrete.inputs]
    outputs = [t.name for t in concrete.outputs]
    return concrete, lower(from_graph_def(concrete.graph.as_graph_def(), names, outputs), hints)


def traced(fn, *specs):
    """A function and its program, which isl has verified."""
    concrete, program = lowered(fn, *specs)
    verify(program)
    scop = extract(simplify(program))
    check_single_assignment(scop)
    check_defined(scop)
    return concrete, program


def program_of(fn, *feeds, hints=None):
    """The program of a function of arrays whose first sizes are unknown."""
    specs = [tf.TensorSpec([None, *x.shape[1:]] if x.ndim else [], x.dtype) for x in feeds]
    return lowered(fn, *specs, hints=hints)[1]


def compiled(program, *watching):
    """The program as generated code for this machine, which several numbers of workers run."""
    isa = ISAS[native.isa()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bundle.so")
        scheduled = schedule_program(replace(program, name="region"), watching=watching)
        link([print_kernel(scheduled)], path, {}, isas=[isa])
        bundle = native.Bundle(path)
    return lambda feeds: workers.call(bundle, "region", feeds)


def results_of(fn, feeds):
    """What TensorFlow returns, as a list of arrays."""
    found = fn(*map(tf.constant, feeds))
    return [r.numpy() for r in (found if isinstance(found, list | tuple) else [found])]


def interpreted(program, feeds):
    """What the interpreter returns for arrays in the order of the inputs."""
    return run(program, dict(zip(program.inputs, feeds, strict=True)))


def agree(concrete, program, *feeds, generated=None, tolerance=None):
    """TensorFlow, the interpreter before and after simplification, and perhaps generated code."""
    expected = results_of(concrete, feeds)
    for stage in (program, simplify(program)):
        assert_rounded(interpreted(stage, feeds), expected, tolerance)
    if generated:
        assert_rounded(generated(feeds), expected, tolerance)


def check(
    fn,
    *shapes,
    dtypes=None,
    sizes=(0, 1, 7, 33),
    tolerance=None,
    arrays=None,
    oracle=None,
    fails=None,
):
    """`shapes` have None for the size that takes the values `sizes`; the oracle is TF on `fn`.

    Where that refuses its arguments we do, and say what `fails` matches.
    """
    dtypes = dtypes or ["float32"] * len(shapes)
    concrete, program = lowered(fn, *zip(shapes, dtypes, strict=True))
    verify(program)
    assert parse(show(program)) == program
    steps, rng = list[Step](), np.random.default_rng(0)
    generated = compiled(program, steps.append)
    for size in sizes:
        feeds = arrays(size) if arrays else []
        if not arrays:
            for shape, dtype in zip(shapes, dtypes, strict=True):
                full = [size if s is None else s for s in shape]
                feeds.append((rng.standard_normal(full) * 3).astype(dtype))
        stages = (partial(interpreted, program), generated)
        try:
            expected = results_of(oracle or concrete, feeds)
        except tf.errors.InvalidArgumentError:
            for stage in stages:
                with pytest.raises(InvalidArgument, match=fails):
                    stage(feeds)
            continue
        behind_passes = [s.after for s in steps if s.changed and size == sizes[-1]]
        for stage in (*stages, *(partial(interpreted, made) for made in behind_passes)):
            assert_rounded(stage(feeds), expected, tolerance)
    return program


def evaluate(fn, *feeds):
    """The one result of a function of arrays whose first size is unknown."""
    return interpreted(program_of(fn, *feeds), feeds)[0]
