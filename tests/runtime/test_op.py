# SPDX-License-Identifier: Apache-2.0
"""The op SiriusRegion with inputs, results and attributes that few models have."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.bundle.link import link
from sirius_tf.compile import compile_program
from sirius_tf.ir.expr import Const, index
from sirius_tf.ir.program import Output
from sirius_tf.runtime.op import sirius_region
from tests.support.example import build_example
from tests.support.programs import B, b, call, it, load, param, program, stmt, tensor

X, A = np.arange(3, dtype="f"), np.float32(2)


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return build_example(tmp_path_factory.mktemp("example"))


def test_more_dimensions_than_the_op_has_room_for(example):
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have rank 1, got 9"):
        sirius_region([X.reshape([1] * 8 + [3]), A, X], example, "axpb", [tf.float32])


@pytest.mark.parametrize("dtype", [tf.float64, tf.int32])
def test_results_of_another_type_than_the_regions(example, dtype):
    with pytest.raises(tf.errors.FailedPreconditionError, match="has dtype 1, Tout says"):
        sirius_region([X, A, X], example, "axpb", [dtype])


def many(inputs, outputs):
    """y<k>[b] = x<k>[b] + k, where of inputs that there are too few of the last one is read."""
    named = [f"x{k}" for k in range(inputs)]
    made = [f"y{k}" for k in range(outputs)]
    statements = [
        stmt(f"S{k}", [it("b", B)], y, [b], call("add", load(named[min(k, inputs - 1)], b), k_))
        for k, y in enumerate(made)
        for k_ in [Const(float(k), "float32")]
    ]
    tensors = [*(tensor(x, [B], role="input") for x in named)]
    tensors += [tensor(y, [B], role="output") for y in made]
    whole = program(f"many_{inputs}_{outputs}", [param("B", "x0", 0)], tensors, statements, [B])
    return replace(whole, outputs=tuple(Output(y, (index(B),)) for y in made))


@pytest.mark.parametrize(("inputs", "outputs"), [(32, 32), (33, 1), (1, 33), (1, 100)])
def test_more_inputs_and_results_than_are_kept_on_the_stack(tmp_path, inputs, outputs):
    made = many(inputs, outputs)
    link([compile_program(made)], tmp_path / "many.so", {})
    feeds = [np.arange(5, dtype="f") * n for n in range(inputs)]
    results = sirius_region(feeds, tmp_path / "many.so", made.name, [tf.float32] * outputs)
    for k, result in enumerate(results):
        np.testing.assert_array_equal(result, feeds[min(k, inputs - 1)] + k)
