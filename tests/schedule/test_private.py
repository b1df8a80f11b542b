# SPDX-License-Identifier: Apache-2.0
"""Temporaries that one tile alone needs."""

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.compile import schedule_program
from sirius_tf.errors import VerifyError
from sirius_tf.pipeline import PIPELINE
from sirius_tf.poly.dependence import flow
from sirius_tf.poly.scop import extract
from sirius_tf.schedule import tree
from sirius_tf.schedule.fuse import fuse
from sirius_tf.schedule.machine import cpu
from sirius_tf.schedule.private import private
from sirius_tf.schedule.storage import storage_maps, windows
from sirius_tf.schedule.verify import check_reflow
from tests.support.parity import check, program_of

WEIGHTS = np.random.default_rng(5).standard_normal((2, 96, 96)).astype(np.float32)


def layers(x):
    """Two layers: what is between them is needed row by row."""
    return tf.tanh(tf.tanh(x @ WEIGHTS[0]) @ WEIGHTS[1])


def attention(x):
    return tf.nn.softmax(tf.matmul(x, x, transpose_b=True)) @ x


@pytest.mark.parametrize("fn", [layers, attention])
def test_results_are_those_of_tensorflow_with_two_workers(fn):
    check(fn, (None, 70, 96), sizes=(0, 1, 3), tolerance=1e-3)


def test_a_row_of_tiles_is_kept_for_each_worker():
    program = program_of(layers, np.zeros((4, 70, 96), "f"))
    scheduled = schedule_program(program)
    assert scheduled.storage.private
    for name in scheduled.storage.private:
        assert all(e.is_const for e in scheduled.storage.shape(scheduled.program.tensor[name]))
    whole = schedule_program(program, passes=PIPELINE.without(["private"]))
    assert not whole.storage.private


def test_what_is_needed_whole_is_kept_whole():
    """The sums over rows need all rows of the products: folding them is found out."""
    program = program_of(lambda x: tf.reduce_sum(x @ WEIGHTS[0], 0), np.zeros((640, 96), "f"))
    scop = extract(program)
    flows = flow(scop)
    root = fuse(program, flows, cpu(2))
    schedule = tree.build(scop, root)
    folded = windows(program, scop, root)
    own = private(program, root)
    check_reflow(scop, schedule, storage_maps(scop, folded, own))
    product = next(s.target for s in program.statements if s.reduce)
    rows, columns = own[product]
    assert rows is None
    with pytest.raises(VerifyError, match=product):
        check_reflow(scop, schedule, storage_maps(scop, folded, {product: (16, columns)}))
