# SPDX-License-Identifier: Apache-2.0
"""Functions that rules are made of, each the rule of the only node of a graph, against numpy."""

import numpy as np
import pytest

from sirius_tf.errors import InvalidArgument, Unsupported
from sirius_tf.frontend.graph import Argument, Edge, Graph, Node
from sirius_tf.ir.affine import affine, symbol
from sirius_tf.ir.expr import Const, call
from sirius_tf.ir.interp import run
from sirius_tf.ir.polynomial import poly
from sirius_tf.ir.verify import verify
from sirius_tf.lower.builder import Emitter
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.list_arrays import conform, settled
from sirius_tf.lower.ops.indexing import gather
from sirius_tf.lower.ops.movement import clamp, from_front, strided
from sirius_tf.lower.ops.scatter import scatter
from sirius_tf.lower.ops.selection import comparable, own_position
from sirius_tf.lower.ops.windows import Axis, Phase
from sirius_tf.lower.tensors import TensorList, Write

pytestmark = pytest.mark.ir

X = np.arange(20, dtype="f").reshape(5, 4) - 7


def lowering(rule, *shapes, dtypes=("float32", "float32")):
    """A Lowering of the graph of one node, which has this rule; its inputs are declared."""
    kinds = zip(shapes, dtypes, strict=False)
    arguments = tuple(Argument(f"x{k}", dtype, shape) for k, (shape, dtype) in enumerate(kinds))
    inputs = tuple(Edge(a.name) for a in arguments)
    node = Node("op", "Op", inputs, dtypes=("float32",), shapes=(None,))
    graph = Graph("g", arguments, (("y", Edge("op")),), (node,))
    ctx = Lowering(graph=graph, hints={}, rules={"Op": lambda ctx, node: rule(ctx)})
    for argument in arguments:
        ctx.argument(argument)
    return ctx


def program_of(rule, *arrays):
    """The program of one rule; the first size of each array is a parameter."""
    shapes = [(None, *a.shape[1:]) for a in arrays]
    ctx = lowering(rule, *shapes, dtypes=[str(a.dtype) for a in arrays])
    ctx.lower_node(ctx.graph.nodes[0])
    program = ctx.finish()
    verify(program)
    return program


def result(rule, *arrays):
    program = program_of(rule, *arrays)
    (y,) = run(program, dict(zip(program.inputs, arrays, strict=True)))
    return y


# The emitter


def test_the_elements_of_operands_that_broadcast_are_mapped():
    def rule(ctx):
        return ctx.map(lambda a, b: call("sub", a, b), *ctx.inputs())

    y = X[:, :1] * 3
    np.testing.assert_array_equal(result(rule, X, y), X - y)


@pytest.mark.parametrize("keep", [False, True])
def test_a_reduction_over_some_dimensions(keep):
    x = X.reshape(5, 2, 2)
    y = result(lambda ctx: ctx.reduce("max", ctx.input(0), [0, 2], keep), x)
    np.testing.assert_array_equal(y, x.max((0, 2), keepdims=keep))


def test_an_equal_check_is_made_once():
    """Sizes that had to be equal have one name, so that nothing is left to check."""

    def rule(ctx):
        a, b = (ctx.input(k).atoms[0] for k in (0, 1))
        ctx.equal(a, b)
        ctx.equal(b, a)
        assert ctx.input(0).atoms == ctx.input(1).atoms
        return ctx.input(0)

    assert len(program_of(rule, X, X).checks) == 1


def test_constant_sizes_that_differ():
    emitter = Emitter(node=Node("n", "Op"))
    with pytest.raises(Unsupported, match="sizes 3 and 4 are different"):
        emitter.equal(affine(3), affine(4))


def test_a_size_is_checked_unless_it_cannot_be_negative():
    def rule(ctx, less):
        size = ctx.input(0).shape[0] - less
        ctx.nonnegative(size)
        ctx.nonnegative(size)
        return ctx.input(0)

    assert not program_of(lambda ctx: rule(ctx, 0), X).checks
    program = program_of(lambda ctx: rule(ctx, 6), X)
    (check,) = program.checks
    assert "op (Op): size x0_0 + -6 is negative" in check.message
    assert len(program.context) == 1


def test_names_are_unused_and_of_letters():
    emitter = Emitter()
    first = emitter.new_tensor("float32", (), stem="a/b:0")
    assert first == "a_b_0"
    assert emitter.new_tensor("float32", (), stem="a/b:0") not in ("", first)


def test_elements_are_demanded_where_the_node_is_run():
    """The error has the message that belongs to the demand that fails."""

    def rule(ctx):
        first = ctx.input(0).at((affine(0), affine(0)))
        for name, limit in (("ge", -9), ("lt", 3)):
            ctx.demand(call(name, first, Const(float(limit), "float32"), dtype="bool"), name)
        return ctx.input(0)

    np.testing.assert_array_equal(result(rule, X), X)
    with pytest.raises(InvalidArgument, match=r"^op \(Op\): ge"):
        result(rule, X - 9)
    with pytest.raises(InvalidArgument, match=r"^op \(Op\): lt"):
        result(rule, X + 10)


# What rules read


def test_an_element_of_an_input_is_known_as_a_parameter_only_where_that_is_asked():
    ctx = lowering(None, (2,), dtypes=["int32"])
    ctx.node = ctx.graph.nodes[0]
    assert ctx.known(ctx.input(0)) is None
    assert not ctx.params.defined
    assert len({str(e) for e in ctx.host(0)}) == 2
    assert len(ctx.params.defined) == 2
    with pytest.raises(Unsupported, match="input 0 must be constant"):
        ctx.host_ints(0)


def test_what_a_trial_defines_is_forgotten():
    ctx = lowering(None, (None, 4), (None, 4))
    ctx.node = ctx.graph.nodes[0]
    before = list(ctx.tensors)
    with ctx.trial():
        ctx.equal(ctx.input(0).atoms[0], ctx.input(1).atoms[0])
        ctx.materialize(ctx.input(0))
    assert (list(ctx.tensors), ctx.statements, ctx.checks) == (before, [], [])
    assert ctx.input(0).atoms[0] != ctx.input(1).atoms[0]


def test_a_list_is_no_tensor():
    ctx = lowering(lambda ctx: TensorList("float32", poly(2)), (3,))
    ctx.lower_node(ctx.graph.nodes[0])
    with pytest.raises(Unsupported, match="a list is used as a tensor"):
        ctx.read(Edge("op"))
    with pytest.raises(Unsupported, match="input 0 is a list that is not made in this region"):
        ctx.tensor_list(0)


# Movement


@pytest.mark.parametrize(
    ("begin", "end", "step"),
    [(1, 3, 1), (-2, None, 1), (None, 99, 2), (None, None, -1), (4, -99, -2), (4, 1, 1)],
)
def test_a_slice_with_steps(begin, end, step):
    def rule(ctx):
        bounds = [None if b is None else poly(b) for b in (begin, end)]
        return strided(ctx, ctx.input(0), 0, bounds, step)

    np.testing.assert_array_equal(result(rule, X), X[begin:end:step])


def test_positions_from_the_end_and_bounds_of_slices():
    ctx = lowering(None)
    assert from_front(ctx, poly(-1), poly(5)) == poly(4)
    assert from_front(ctx, poly(2), poly(5)) == poly(2)
    assert clamp(ctx, poly(9), poly(5), 0, 0) == poly(5)
    assert clamp(ctx, poly(-9), poly(5), -1, -1) == poly(-1)


# Elements at positions


@pytest.mark.parametrize("axis", [0, 1])
def test_elements_at_positions(axis):
    where = np.array([3, 0, 3], "int32")
    y = result(lambda ctx: gather(ctx, *ctx.inputs(), axis), X, where)
    np.testing.assert_array_equal(y, np.take(X, where, axis))


def test_elements_at_positions_of_each_row():
    where = np.array([[0, 3], [1, 1], [2, 0], [3, 2], [0, 0]], "int32")
    y = result(lambda ctx: gather(ctx, *ctx.inputs(), 1, 1), X, where)
    np.testing.assert_array_equal(y, np.take_along_axis(X, where, 1))


@pytest.mark.parametrize(
    ("fn", "combined"), [("", 50), ("add", 55), ("sub", -45), ("max", 50), ("min", 5)]
)
def test_rows_are_combined_with_what_is_there(fn, combined):
    def rule(ctx):
        where = ctx.constant(np.array([[3], [0]], "int32"))
        return scatter(ctx, fn, ctx.input(0), where, ctx.constant(np.full((2, 4), 50, "f")))

    y = result(rule, X)
    assert X[3, 0] == 5
    assert y[3, 0] == combined
    np.testing.assert_array_equal(y[[1, 2, 4]], X[[1, 2, 4]])


# Selection


def test_a_nan_is_beaten_by_every_number():
    x = np.array([[np.nan, -3, np.nan], [np.nan] * 3], "f")
    y = result(lambda ctx: ctx.materialize(comparable(ctx.input(0), "max")), x)
    assert y[0, 1] == -3
    assert (np.delete(y, 1) < -3e38).all()


def test_the_position_of_an_element():
    def rule(ctx):
        x = ctx.input(0)
        return ctx.define("int64", x.dims, lambda i: own_position(x, 1, i, "int64"))

    np.testing.assert_array_equal(result(rule, X), np.indices(X.shape)[1])


# Lists


def test_what_is_written_to_a_list_and_what_is_left():
    def rule(ctx):
        x = ctx.input(0)
        row = ctx.constant(np.array([1, 2, 3, 4], "f"))
        writes = (Write(poly(1), row), Write(poly(3), row), Write(poly(1), negated(ctx, row)))
        return settled(ctx, TensorList(x.dtype, x.shape[0], x, writes)).stack

    def negated(ctx, row):
        return ctx.map(lambda e: call("neg", e), row)

    want = X.copy()
    want[3] = 1, 2, 3, 4
    want[1] = -want[3]  # the last one
    np.testing.assert_array_equal(result(rule, X), want)


def test_an_element_of_another_shape():
    ctx = lowering(None, (3, 1), (3, 4))
    ctx.node = ctx.graph.nodes[0]
    with pytest.raises(Unsupported, match="a shape changes"):
        conform(ctx, ctx.input(0), ctx.input(1).dims)
    assert conform(ctx, ctx.input(1), ctx.input(1).dims).dims == ctx.input(1).dims


# Windows


def test_the_elements_of_windows():
    axis = Axis(poly(4), 3, stride=2, dilation=5, start=-1)
    source = axis.view((affine(99),))
    assert source((affine(3), affine(2))) == (affine(3 * 2 + 2 * 5 - 1),)
    assert [[a.const for a in dim] for dim in axis.dims] == [[4], [3]]


def test_phases_that_are_computed_together():
    axis = Axis(poly(4), 2)
    first = Phase(0, 4, range(1, 8, 4), axis, width=2)
    assert Phase(2, 4, range(3, 8, 4), axis).follows(first)
    assert not Phase(1, 4, range(3, 8, 4), axis).follows(first)
    assert not Phase(2, 4, range(2, 8, 4), axis).follows(first)
    assert not Phase(2, 4, range(3, 3), axis).follows(first)
    q, j = symbol("q"), symbol("j")
    assert Phase(1, 4, range(2), axis, 2).place((affine(16),), (q,), (j,)) == (q * 4 + 1 + j,)
