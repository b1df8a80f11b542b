# SPDX-License-Identifier: Apache-2.0
"""Rules of ops on graphs that are written by hand, against numpy: TensorFlow is not there."""

import numpy as np
import pytest

from sirius_tf.frontend.graph import Argument, Edge, Graph, Node
from sirius_tf.ir.interp import run
from sirius_tf.ir.verify import verify
from sirius_tf.lower.graph import lower

pytestmark = pytest.mark.ir

X = np.arange(24, dtype="f").reshape(2, 3, 4) - 9
SMALL = X[:, 0]


def results(op, inputs, attrs, dtypes, given=1):
    """The results of an op for arrays; those behind the `given` ones are constants."""
    first, others = inputs[:given], inputs[given:]
    nodes = [
        Node(f"c{k}", "Const", attrs={"value": c}, dtypes=(str(c.dtype),), shapes=(c.shape,))
        for k, c in enumerate(map(np.asarray, others))
    ]
    arguments = [Argument(f"x{k}", str(x.dtype), (None, *x.shape[1:])) for k, x in enumerate(first)]
    edges = tuple(Edge(n.name) for n in (*arguments, *nodes))
    nodes.append(Node("op", op, edges, (), attrs, dtypes, (None,) * len(dtypes)))
    outputs = tuple((f"y{k}", Edge("op", k)) for k in range(len(dtypes)))
    program = lower(Graph("g", tuple(arguments), outputs, tuple(nodes)))
    verify(program)
    return run(program, dict(zip(program.inputs, first, strict=True)))


def ints(*values):
    return np.array(values, "int32")


def rows(*values):
    return np.array(values, "f")


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


IMAGE = np.arange(32, dtype="f").reshape(1, 4, 4, 2)
POOL = {"ksize": [1, 2, 2, 1], "strides": [1, 2, 2, 1], "padding": "VALID", "data_format": "NHWC"}
PARTS = IMAGE.reshape(1, 2, 2, 2, 2, 2)
CASES = {
    "MatMul": ([SMALL, X[0].T], {"transpose_a": False, "transpose_b": False}, SMALL @ X[0].T),
    "Transpose": ([X, ints(2, 0, 1)], {}, X.transpose(2, 0, 1)),
    "Reshape": ([X, ints(-1, 6)], {}, X.reshape(-1, 6)),
    "GatherV2": ([X, ints(2, 0, 2), ints(1)], {"batch_dims": 0}, np.take(X, [2, 0, 2], 1)),
    "Pad": ([SMALL, ints([1, 0], [0, 2])], {}, np.pad(SMALL, [(1, 0), (0, 2)])),
    "Tile": ([SMALL, ints(2, 3)], {}, np.tile(SMALL, (2, 3))),
    "Sum": ([X, ints(1)], {"keep_dims": False}, X.sum(1)),
    "Max": ([X, ints(0, 2)], {"keep_dims": True}, X.max((0, 2), keepdims=True)),
    "Softmax": ([SMALL], {}, softmax(SMALL)),
    "Cumsum": ([SMALL, ints(1)[0]], {"exclusive": False, "reverse": False}, SMALL.cumsum(1)),
    "ReverseV2": ([X, ints(2)], {}, X[:, :, ::-1]),
    "ArgMax": ([SMALL, ints(1)[0]], {"output_type": "int64"}, SMALL.argmax(1)),
    "OneHot": (
        [ints(1, 3, 0), ints(4)[0], np.float32(2), np.float32(-1)],
        {"axis": -1},
        np.where(np.eye(4)[[1, 3, 0]] > 0, np.float32(2), np.float32(-1)),
    ),
    "MaxPool": ([IMAGE], POOL, PARTS.max((2, 4))),
    "AvgPool": ([IMAGE], POOL, PARTS.mean((2, 4))),
    "MatrixDiagPart": ([X[:, :, :3]], {}, np.diagonal(X[:, :, :3], axis1=1, axis2=2)),
    "MatrixBandPart": ([X, ints(1)[0], ints(-1)[0]], {}, np.triu(X, -1)),
    "MatrixDiag": ([SMALL[:, :2]], {}, np.stack([np.diag(row) for row in SMALL[:, :2]])),
    "MatrixSetDiag": (
        [X[:, :2, :2], np.zeros((2, 2), "f")],
        {},
        X[:, :2, :2] * rows([0, 1], [1, 0]),
    ),
    "Bucketize": ([SMALL], {"boundaries": [-8.0, 3.5]}, np.digitize(SMALL, [-8, 3.5]).astype("i")),
    "UpperBound": ([SMALL, rows([-7, 9], [2, 4])], {}, ints([3, 4], [0, 2])),
    "DenseBincount": (
        [ints(3, 1, 3, 7), ints(5)[0], np.zeros(0, "f")],
        {"binary_output": False},
        rows(0, 1, 0, 2, 0),
    ),
    "SpaceToBatchND": (
        [IMAGE, ints(2, 2), ints([0, 0], [0, 0])],
        {},
        np.concatenate([IMAGE[:, a::2, b::2] for a in (0, 1) for b in (0, 1)]),
    ),
    "DepthToSpace": (
        [IMAGE.reshape(1, 2, 2, 8)],
        {"block_size": 2, "data_format": "NHWC"},
        IMAGE.reshape(1, 2, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(1, 4, 4, 2),
    ),
    "Cast": ([SMALL / 4], {}, (SMALL / 4).astype("int32")),
    "Einsum": ([X, SMALL], {"equation": "...ij,...j->i..."}, np.einsum("bij,bj->ib", X, SMALL)),
    "L2Loss": ([X], {}, (X * X).sum() / np.float32(2)),
    "Shape": ([X], {"out_type": "int32"}, ints(2, 3, 4)),
    "ResizeNearestNeighbor": (
        [IMAGE, ints(8, 8)],
        {"align_corners": False, "half_pixel_centers": False},
        IMAGE.repeat(2, 1).repeat(2, 2),
    ),
}


@pytest.mark.parametrize("op", CASES)
def test_an_op(op):
    inputs, attrs, want = CASES[op]
    (have,) = results(op, inputs, attrs, (str(want.dtype),))
    assert have.shape == want.shape and have.dtype == want.dtype
    np.testing.assert_allclose(have, want, 1e-6)


CONSTANT = {
    "BroadcastArgs": ([ints(2, 1), ints(7, 1, 5)], ints(7, 2, 5)),
    "InvertPermutation": ([ints(2, 0, 1)], ints(1, 2, 0)),
    "LinSpace": ([np.float32(1), np.float32(2), ints(5)[0]], rows(1, 1.25, 1.5, 1.75, 2)),
}


@pytest.mark.parametrize("op", CONSTANT)
def test_an_op_of_constants(op):
    inputs, want = CONSTANT[op]
    (have,) = results(op, inputs, {}, (str(want.dtype),), given=0)
    np.testing.assert_array_equal(have, want)


def test_the_largest_and_their_places():
    values, places = results("TopKV2", [SMALL, ints(2)[0]], {"sorted": True}, ("float32", "int32"))
    np.testing.assert_array_equal(places, np.argsort(-SMALL, 1)[:, :2])
    np.testing.assert_array_equal(values, -np.sort(-SMALL, 1)[:, :2])


def node(name, op, *inputs, dtype="float32", **attrs):
    return Node(name, op, tuple(map(Edge, inputs)), (), attrs, (dtype,), (None,))


def scalar(name, value, dtype):
    return node(name, "Const", dtype=dtype, value=np.array(value, dtype))


def body(name, arguments, outputs, *nodes):
    given = tuple(Argument(a, dtype, shape) for a, dtype, shape in arguments)
    return Graph(name, given, tuple((e, Edge(e)) for e in outputs), nodes)


def called(nodes, bodies, outputs, inputs):
    """The results of nodes, some of which have bodies, for arrays."""
    arguments = tuple(
        Argument(f"x{k}", str(x.dtype), (None,) * (x.ndim > 0) + x.shape[1:])
        for k, x in enumerate(inputs)
    )
    results = tuple((f"y{k}", edge) for k, edge in enumerate(outputs))
    program = lower(Graph("g", arguments, results, nodes, {b.name: b for b in bodies}))
    verify(program)
    return run(program, dict(zip(program.inputs, inputs, strict=True)))


VECTOR = [("a", "float32", (None,))]
BRANCHES = [body(op, VECTOR, ["r"], node("r", op, "a")) for op in ("Neg", "Square", "Abs")]
ROW = np.array([-3, 2, 5], "f")


@pytest.mark.parametrize(("index", "want"), [(0, -ROW), (1, ROW**2), (2, abs(ROW)), (-1, abs(ROW))])
def test_the_branch_of_an_index(index, want):
    """Any index that no branch has takes the last one."""
    made = node("op", "Case", "x0", "x1", branches=[b.name for b in BRANCHES])
    (have,) = called((made,), BRANCHES, [Edge("op")], [np.array(index, "int32"), ROW])
    np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize(("holds", "want"), [(True, -ROW), (False, ROW**2)])
def test_the_branch_of_a_condition(holds, want):
    made = node("op", "If", "x0", "x1", then_branch="Neg", else_branch="Square")
    (have,) = called((made,), BRANCHES, [Edge("op")], [np.array(holds), ROW])
    np.testing.assert_array_equal(have, want)


def loop(carried, *inputs):
    """A While of variables of these names, types and shapes."""
    _, kinds, shapes = zip(*carried, strict=True)
    attrs = {"cond": "cond", "body": "body"}
    return Node("op", "While", tuple(map(Edge, inputs)), (), attrs, kinds, shapes)


def condition(carried):
    return body("cond", carried, ["less"], node("less", "Less", "k", "n", dtype="bool"))


COUNTER = [("k", "int32", ()), ("n", "int32", ())]
NEXT = (scalar("one", 1, "int32"), node("next", "AddV2", "k", "one", dtype="int32"))


@pytest.mark.parametrize("trips", [0, 1, 4])
def test_a_loop_that_counts(trips):
    """for k in range(trips): x = x * 2 + k"""
    carried = [*COUNTER, *VECTOR]
    step = body(
        "body",
        carried,
        ["next", "n", "sum"],
        *NEXT,
        node("twice", "AddV2", "a", "a"),
        node("float", "Cast", "k"),
        node("sum", "AddV2", "twice", "float"),
    )
    made = loop(carried, "x0", "x1", "x2")
    given = [np.array(0, "int32"), np.array(trips, "int32"), ROW]
    count, have = called((made,), [condition(carried), step], [Edge("op"), Edge("op", 2)], given)
    want = ROW
    for k in range(trips):
        want = want * 2 + k
    assert count == trips
    np.testing.assert_array_equal(have, want)


LIST = [*COUNTER, ("a", "variant", ())]


def after_a_loop(step, first, end, x):
    """The elements of x as a list behind `for k in range(first, end)`."""
    nodes = (
        scalar("any", -1, "int32"),
        node("list", "TensorListFromTensor", "x2", "any", dtype="variant"),
        loop(LIST, "x0", "x1", "list"),
        Node(
            "stack", "TensorListStack", (Edge("op", 2), Edge("any")), (), {}, ("float32",), (None,)
        ),
    )
    given = [np.array(first, "int32"), np.array(end, "int32"), x]
    (have,) = called(nodes, [condition(LIST), step], [Edge("stack")], given)
    return have


@pytest.mark.parametrize("slope", [0, 1, 2, -2])
@pytest.mark.parametrize("trips", [0, 3])
def test_a_loop_that_writes_a_list(slope, trips):
    """for k in range(trips): x[4 + slope * k] = k; what is between the positions stays"""
    step = body(
        "body",
        LIST,
        ["next", "n", "set"],
        *NEXT,
        scalar("slope", slope, "int32"),
        scalar("first", 4, "int32"),
        node("far", "Mul", "k", "slope", dtype="int32"),
        node("place", "AddV2", "far", "first", dtype="int32"),
        node("float", "Cast", "k"),
        node("set", "TensorListSetItem", "a", "place", "float", dtype="variant"),
    )
    x = np.arange(10, 20, dtype="f")
    want = x.copy()
    for k in range(trips):
        want[4 + slope * k] = k
    np.testing.assert_array_equal(after_a_loop(step, 0, trips, x), want)


def test_a_loop_that_reads_what_it_has_written():
    """for k in range(1, n): x[k] = x[k - 1] + x[k]"""
    step = body(
        "body",
        LIST,
        ["next", "n", "set"],
        *NEXT,
        node("last", "Sub", "k", "one", dtype="int32"),
        node("before", "TensorListGetItem", "a", "last"),
        node("own", "TensorListGetItem", "a", "k"),
        node("sum", "AddV2", "before", "own"),
        node("set", "TensorListSetItem", "a", "k", "sum", dtype="variant"),
    )
    x = np.array([3, 1, 4, 1, 5, 9], "f")
    np.testing.assert_array_equal(after_a_loop(step, 1, 5, x), [*x[:5].cumsum(), 9])


WINDOWS = {"strides": [1, 2, 2, 1], "padding": "SAME", "data_format": "NHWC"}
FILTER = np.arange(54, dtype="f").reshape(3, 3, 2, 3) % 7 - 3


def convolution(x):
    """A convolution of stride 2 of images of size 5 by 5, with a border of zeros."""
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    parts = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]
    return np.einsum("bhwcij,ijcd->bhwd", parts, FILTER)


def test_a_convolution_and_its_transpose():
    """<conv x, y> = <x, transpose y> for all x and y, of whole numbers."""
    x = np.arange(100, dtype="f").reshape(2, 5, 5, 2) % 11 - 5
    y = np.arange(54, dtype="f").reshape(2, 3, 3, 3) % 5 - 2
    (have,) = results("Conv2D", [x, FILTER], WINDOWS, ("float32",))
    np.testing.assert_array_equal(have, convolution(x))
    sizes = ints(2, 5, 5, 2)
    attrs = WINDOWS | {"dilations": [1, 1, 1, 1]}
    (back,) = results("Conv2DBackpropInput", [sizes, FILTER, y], attrs, ("float32",), given=0)
    assert back.shape == x.shape
    ones = np.eye(50, dtype="f").reshape(50, 1, 5, 5, 2)
    want = [(convolution(one) * y[:1]).sum() for one in ones]
    np.testing.assert_array_equal(back[0].reshape(-1), want)
