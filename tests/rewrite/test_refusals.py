# SPDX-License-Identifier: Apache-2.0
"""Reasons for which a node stays on TensorFlow, word for word: people read them in the report of a
conversion, with the names of the signature, the node and the op before them."""

import pytest
import tensorflow as tf

from sirius_tf.errors import Unsupported
from sirius_tf.frontend.graphdef import from_graph_def
from sirius_tf.lower.graph import lower
from sirius_tf.rewrite.regions import cut

raw = tf.raw_ops


def floats(*shape):
    return tf.TensorSpec(shape, tf.float32)


def ints(*shape):
    return tf.TensorSpec(shape, tf.int32)


FLAG = tf.TensorSpec([], tf.bool)


def array(rows, clear=True):
    return tf.TensorArray(tf.float32, rows, element_shape=[3], clear_after_read=clear)


def loop(body):
    """A loop of n iterations that hands on an array of 100 elements."""
    return lambda n, x: tf.while_loop(
        lambda i, a: i < n, lambda i, a: (i + 1, body(i, a, x)), [0, array(100, clear=False)]
    )[1].stack()


def inner_loop(i, a, x):
    return tf.while_loop(lambda j, a: j < 9, lambda j, a: (j + 1, a.write(j, x)), [0, a])[1]


def one_of_two(x, flag):
    a = array(4).unstack(tf.ones([4, 3]) * x[0])
    taken = tf.cond(flag, lambda: a.write(0, x).flow, lambda: a.write(1, x).flow)
    return raw.TensorListStack(
        input_handle=taken, element_shape=[3], element_dtype=tf.float32, num_elements=4
    )


def assertion(x):
    with tf.control_dependencies([raw.Assert(condition=tf.constant(False), data=["no"])]):
        return tf.exp(x) * 2


ROWS, IMAGES = floats(None, 4), floats(None, 9, 9, 4)
ONES = tf.ones([3, 3, 4, 8])
REASONS = [
    # what there is no code for
    (lambda x: tf.math.igamma(x, x), [ROWS], "Igamma", "there is no rule for this op"),
    (
        lambda x: tf.exp(x) * 2,
        [tf.TensorSpec([None], tf.complex64)],
        "Exp",
        "dtype complex64 is not compiled",
    ),
    (lambda x: tf.exp(x) * 2, [tf.TensorSpec(None)], "Exp", "the rank of its input x is not known"),
    (lambda x: tf.exp(x) * 2, [floats(*[2] * 9)], "Exp", "its rank is above 8"),
    (
        lambda x: tf.math.top_k(x, 2, sorted=False),
        [ROWS],
        "TopKV2",
        "the order of results that are not sorted is TensorFlow's own: sort them",
    ),
    (lambda x: tf.math.top_k(x, 17), [floats(99)], "TopKV2", "it is of the first 17, more than 16"),
    (
        lambda x: tf.cumsum(x, 1),
        [floats(None, 9999)],
        "Cumsum",
        "each element would be compared with more than 512 others",
    ),
    (
        lambda x: tf.linalg.diag(x, k=1),
        [ROWS],
        "MatrixDiagV3",
        "it is of other diagonals than the main one",
    ),
    (
        lambda x: tf.linalg.diag(x, num_rows=4, num_cols=6),
        [ROWS],
        "MatrixDiagV3",
        "its result is not square: num_rows and num_cols must be equal",
    ),
    (
        lambda x: raw.DepthToSpace(input=x, block_size=2, data_format="NCHW"),
        [floats(None, 4, 4, 4)],
        "DepthToSpace",
        "its data_format is not NHWC: channels must be last",
    ),
    (
        lambda x: raw.Conv2D(input=x, filter=ONES, strides=[2, 1, 1, 1], padding="VALID"),
        [floats(4, 9, 9, 4)],
        "Conv2D",
        "strides are of spatial dimensions only, not of batches or channels",
    ),
    (
        lambda x: tf.nn.max_pool(x, [1, 1, 1, 2], [1, 1, 1, 2], "VALID"),
        [IMAGES],
        "MaxPool",
        "a window has more than one channel, or image: ksize must be 1 there",
    ),
    (
        lambda x: tf.compat.v1.nn.fused_batch_norm(x, [1.0] * 4, [0.0] * 4, is_training=True)[0],
        [IMAGES],
        "FusedBatchNormV3",
        "is_training is true: export the model for inference",
    ),
    (
        lambda x: tf.einsum("bii->bi", x),
        [floats(None, 4, 4)],
        "Einsum",
        "equation bii->bi repeats a label, or does not fit its operands",
    ),
    (
        lambda i, x: tf.scatter_nd(i, x, [9, 2]),
        [ints(99, 1), floats(99, 2)],
        "ScatterNd",
        "99 updates at 1 subscripts, not 16 at most",
    ),
    (
        lambda x, i: tf.gather_nd(x, i),
        [floats(4, 4), ints(4, 0)],
        "GatherNd",
        "it has 0 subscripts into rank 2, or batch dimensions",
    ),
    # what must be known
    (lambda x, p: tf.transpose(x, p), [ROWS, ints(2)], "Transpose", "input 1 must be constant"),
    (
        lambda x: tf.fill([tf.cast(tf.reduce_sum(x), tf.int32)], 1.0) * 2,
        [ROWS],
        "Fill",
        "input 0 must be known before the region runs",
    ),
    (
        lambda x, w: tf.nn.conv2d(x, w, 1, "VALID"),
        [IMAGES, floats(None, 3, 4, 8)],
        "Conv2D",
        "the sizes of the filter must be constant, and not 0",
    ),
    (
        lambda x: tf.nn.conv2d(x, ONES, 1, "VALID"),
        [floats(None, 9, 9, None)],
        "Conv2D",
        "x_3 channels are not known to be a multiple of the filter's 4: fix the size",
    ),
    (
        lambda x: tf.nn.space_to_depth(x, 2),
        [floats(None, None, 4, 3)],
        "SpaceToDepth",
        "a size of x_1 is not known to be a multiple of 2: fix it",
    ),
    (
        lambda x: tf.split(x, 3),
        [ROWS],
        "Split",
        "a size of x_0 is not known to be a multiple of 3: fix it",
    ),
    (
        lambda x: tf.reshape(x, [-1, 7]) * 2,
        [ROWS],
        "Reshape",
        "4*x_0 elements are not known to be a multiple of 7: fix the sizes",
    ),
    (
        lambda x, n: tf.image.resize(x, n),
        [IMAGES, ints(2)],
        "ResizeBilinear",
        "the sizes of the image and of the result must be constant, and not 0",
    ),
    (lambda x: tf.roll(x, 1, 0), [ROWS], "Roll", "the size of axis 0 must be constant"),
    (
        lambda i, x: tf.scatter_nd(i, x, [9, 2]),
        [ints(None, 1), floats(None, 2)],
        "ScatterNd",
        "the number of updates must be constant",
    ),
    (
        lambda x, n: tf.linalg.band_part(x, n, 0),
        [floats(None, None), ints()],
        "MatrixBandPart",
        "whether n_at is negative is not known: make it constant",
    ),
    (
        lambda x, d: tf.linalg.set_diag(x, d),
        [floats(None, None), floats(None)],
        "MatrixSetDiagV3",
        "whether the matrix has more rows or more columns is not known: fix its sizes",
    ),
    # what does not fit
    (
        lambda x: x + tf.cast(tf.math.invert_permutation([0, 0, 1]), tf.float32),
        [floats(None, 3)],
        "InvertPermutation",
        "[0, 0, 1] is no permutation",
    ),
    (
        lambda x, i: tf.gather(tf.reshape(x, [-1, 5]), tf.reshape(i, [-1, 2]), batch_dims=1),
        [floats(None, 3, 5), ints(None, 4, 2)],
        "GatherV2",
        "sizes 3 and 4 are different",
    ),
    (assertion, [ROWS], "Assert", "its condition never holds: each call would fail"),
    # control flow
    (
        lambda x, flag: tf.cond(flag, lambda: x[:2] * 2, lambda: x[:3] * 2),
        [ROWS, FLAG],
        "StatelessIf",
        "the shape of a result depends on the branch that is taken",
    ),
    (one_of_two, [floats(3), FLAG], "StatelessIf", "branches write a list at different places"),
    (
        loop(lambda i, a, x: a.write(i * i, x)),
        [ints(), floats(3)],
        "StatelessWhile",
        "positions that iterations write to a list are no constant step apart",
    ),
    (
        loop(lambda i, a, x: a.write(i, x).write(i + 50, x)),
        [ints(), floats(3)],
        "StatelessWhile",
        "an iteration writes more than one element of a list",
    ),
    (
        loop(lambda i, a, x: array(100).unstack(tf.ones([100, 3]) * x)),
        [ints(), floats(3)],
        "StatelessWhile",
        "an iteration replaces a list that the loop carries",
    ),
    (
        loop(lambda i, a, x: inner_loop(i, a.write(i, x), x)),
        [ints(), floats(3)],
        "StatelessWhile",
        "while/while (StatelessWhile) inside: a loop and one inside of it write the same list",
    ),
    (
        lambda x: array(9).unstack(tf.ones([9, 3]) * x).read(tf.cast(x[0], tf.int32)),
        [floats(3)],
        "TensorListGetItem",
        "the position in the list depends on data, not on counters alone",
    ),
]


@pytest.mark.parametrize(("function", "specs", "op", "reason"), REASONS)
def test_reasons(function, specs, op, reason):
    graph = traced(function, specs)
    left = cut(graph, "f").left
    assert reason in [
        left[node.name] for node in graph.nodes if node.op == op and node.name in left
    ]


def test_a_variable_of_tf1_that_may_be_assigned():
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        v = tf.compat.v1.get_variable("v", [4], use_resource=False)
        with tf.control_dependencies([v.assign_add([1.0] * 4)]):
            tf.add(x, v._ref(), name="sum")
    found = from_graph_def(graph.as_graph_def(), ["x:0"], ["sum:0"])
    reason = "it reads a variable that may change, when its control inputs have run"
    assert cut(found, "f").left["sum"] == reason


def test_an_error_names_node_and_op():
    graph = traced(lambda x: tf.cumsum(x, 1, name="sums"), [floats(2, 9999)])
    with pytest.raises(Unsupported, match=r"^sums \(Cumsum\): each element would be compared with"):
        lower(graph)


def traced(function, specs):
    made = tf.function(function, input_signature=specs).get_concrete_function()
    names = [[t.name for t in tensors] for tensors in (made.inputs, made.outputs)]
    return from_graph_def(made.graph.as_graph_def(), *names)
