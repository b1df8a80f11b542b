# SPDX-License-Identifier: Apache-2.0
"""How calls, branches, loops (of both kinds) and lists are drawn. A body is drawn as graphs are."""

from __future__ import annotations

import contextlib
import itertools

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from tests.reliability.fuzz.drawing import CONSTANT, FLOATS, INTEGERS, Drawing, N, Undrawable
from tests.reliability.fuzz.ops import OPS, draws, scalar

NESTED = ("If", "StatelessIf", "Case", "StatelessCase", "While", "StatelessWhile", "Frames")
DEPTH = 2  # of bodies in one another
_numbers = itertools.count()


def some_ops(d: Drawing, least: int, most: int, tries: int = 30) -> None:
    """Draw some ops into a graph."""
    left = d.number(least, most)
    names = sorted(OPS)
    while left and tries:
        name = d.one(names)
        if name in NESTED and (d.depth >= DEPTH or d.chance(0.5)):
            continue
        tries -= 1
        with contextlib.suppress(Undrawable):
            OPS[name](d, name)
            left -= 1


def _bodied(build):
    try:
        return build()
    except (ValueError, TypeError, tf.errors.OpError) as error:
        raise Undrawable(str(error)) from error


def _result(d: Drawing, like, own):
    """A tensor of the type of `like`, of what a body has drawn if that has one."""
    shape, dtype = like.shape.as_list(), like.dtype
    made = [t for t in own if t.dtype == dtype and t.shape.as_list() == shape]
    if made:
        return tf.identity(made[-1])
    if dtype.name == "bool":
        return tf.logical_not(like)
    casts = {dtype.name, *INTEGERS, *(FLOATS if dtype.is_floating else ())}  # as in Drawing.cast
    for t in reversed(own):
        if t.dtype.name in casts and t.shape.as_list() in (shape, shape[1:], []):
            return tf.raw_ops.Maximum(x=like, y=tf.cast(t, dtype))
    return tf.raw_ops.Minimum(x=like, y=tf.ones([], dtype))


def _body(d: Drawing, likes, tensors):
    """Results like some tensors, of a body that may also read these."""
    inner = Drawing(d.rng, d)
    inner.tensors += tensors
    start = len(inner.tensors)
    some_ops(inner, 1, 3, 8)
    own = [t for t in inner.tensors[start:] if t.graph is tf.compat.v1.get_default_graph()]
    return [_result(inner, like, own) for like in likes]


@contextlib.contextmanager
def _version(frames: bool):
    """Control flow of TF1, or of TF2."""
    former = control_flow_util.ENABLE_CONTROL_FLOW_V2
    control_flow_util.ENABLE_CONTROL_FLOW_V2 = not frames
    try:
        yield
    finally:
        control_flow_util.ENABLE_CONTROL_FLOW_V2 = former


def _condition(d: Drawing):
    kind = d.rng.random()
    if kind < 0.4:
        return d.input([], "bool")
    if kind < 0.6:
        return d.op("Greater", d.extent(N), d.const(d.number(0, 4), "int32"))
    x = d.pick(None, 0, 2, where=lambda s: 0 not in s)
    return d.op("Any", d.op("Cast", x, DstT="bool"), d.const(range(x.shape.rank), "int32"))


@draws("If", "StatelessIf")
def branch(d: Drawing, op: str):
    condition = _condition(d)
    likes = [d.pick() for _ in range(d.number(1, 2))]
    frames = d.chance(0.2)
    build = lambda: tf.cond(condition, *[lambda: _body(d, likes, [])] * 2)
    with _version(frames):
        d.made(_bodied(build))


@draws("Case", "StatelessCase")
def case(d: Drawing, op: str):
    index, likes = d.input([], "int32", -1, 4), [d.pick()]
    d.made(_bodied(lambda: tf.switch_case(index, [lambda: _body(d, likes, [])] * 3)))


@draws("While", "StatelessWhile", "Frames")
def loop(d: Drawing, op: str):
    limit = scalar(d, 0, 3)
    states = [d.pick(None, 0, 3) for _ in range(d.number(1, 2))]
    data = d.chance(0.25)

    def going(i, *values):
        first = tf.cast(values[0], tf.float32)
        return (i < limit) & (tf.reduce_sum(first) < 20.0) if data else i < limit

    def step(i, *values):
        return [i + 1, *_body(d, values, [i, *values])]

    with _version(op == "Frames"):
        loop = tf.compat.v1.while_loop
        d.made(_bodied(lambda: loop(going, step, [tf.constant(0), *states])))


@draws("PartitionedCall", "StatefulPartitionedCall")
def called(d: Drawing, op: str):
    given = [d.pick() for _ in range(d.number(1, 2))]
    function = tf.function(lambda *args: _body(d, args, list(args)), autograph=False)
    d.made(_bodied(lambda: function(*given)))


@draws("Assert")
def asserted(d: Drawing, op: str):
    kind, x = d.rng.random(), d.pick()
    condition = d.op("Less", d.extent(N), d.const(30, "int32")) if kind < 0.5 else _condition(d)
    made = tf.raw_ops.Assert(condition=condition, data=[tf.constant(f"fuzz {next(_numbers)}")])
    with tf.control_dependencies([made]):
        d.op("Identity", x)


@draws("NoOp")
def nothing(d: Drawing, op: str):
    x = d.pick()
    with tf.control_dependencies([x, tf.raw_ops.NoOp()]):
        d.op("Identity", d.pick())


# Lists


def _element(d: Drawing):
    x = d.pick(None, 1, 3, where=lambda s: 0 < s[0] <= CONSTANT, new=[4, *d.shape(0, 1)])
    shape = x.shape.as_list()[1:]
    declared = d.const([-1 if s > CONSTANT else s for s in shape], "int32")
    return x, shape, declared


def _read(d: Drawing, made, x, shape, declared):
    """What a list is read by."""
    like, dtype = declared, x.dtype.name
    kind = d.rng.random()
    if kind < 0.5:
        return d.op("TensorListStack", made, like, element_dtype=dtype, num_elements=-1)
    if kind < 0.7:
        where = d.positions([d.number(1, 3)], x.shape.as_list()[0])
        return d.op("TensorListGather", made, where, like, element_dtype=dtype)
    if kind < 0.8:
        return d.op("TensorListLength", made)
    at = d.const(d.number(0, x.shape.as_list()[0] - 1), "int32")
    return d.op("TensorListGetItem", made, at, like, element_dtype=dtype)


@draws("TensorListFromTensor", "TensorListSetItem", "TensorListScatterIntoExistingList")
def updated_list(d: Drawing, op: str):
    x, shape, declared = _element(d)
    made = tf.raw_ops.TensorListFromTensor(tensor=x, element_shape=declared)
    size = x.shape.as_list()[0]
    new = d.same(x, shape=shape if op != "TensorListScatterIntoExistingList" else [1, *shape])
    if op == "TensorListSetItem":
        at = d.const(d.number(0, size - 1), "int32")
        made = d.op(op, made, at, new)
    if op == "TensorListScatterIntoExistingList":
        made = d.op(op, made, new, d.const([d.number(0, size - 1)], "int32"))
    _read(d, made, x, shape, declared)


@draws("EmptyTensorList", "TensorListPushBack", "TensorListReserve", "TensorListScatterV2")
def filled_list(d: Drawing, op: str):
    x, shape, declared = _element(d)
    size = x.shape.as_list()[0]
    parts = tf.unstack(x)
    if op == "TensorListReserve":
        made = d.op(op, declared, d.const(size, "int32"), element_dtype=x.dtype)
        for k, part in enumerate(parts):
            made = d.op("TensorListSetItem", made, d.const(k, "int32"), part)
    elif op == "TensorListScatterV2":
        order = d.const(d.rng.permutation(size), "int32")
        made = d.op(op, x, order, declared, d.const(size, "int32"))
    else:
        most = d.const(size, "int32")
        made = d.op("EmptyTensorList", declared, most, element_dtype=x.dtype)
        for part in parts:
            made = d.op("TensorListPushBack", made, part)
    _read(d, made, x, shape, declared)


@draws("TensorListStack", "TensorListGather", "TensorListLength", "TensorListGetItem")
def list_of_a_loop(d: Drawing, op: str):
    """A list that a loop fills, element after element, or goes through."""
    x = d.pick(None, 1, 3)
    size, frames = x.shape.as_list()[0], d.chance(0.3)
    count = d.extent(size)

    def build():
        out = tf.TensorArray(x.dtype, count, element_shape=x.shape[1:])
        given = tf.TensorArray(x.dtype, count, element_shape=x.shape[1:]).unstack(x)

        def step(i, array):
            element = given.read(i)
            return i + 1, array.write(i, _body(d, [element], [element])[0])

        loop = tf.compat.v1.while_loop
        return loop(lambda i, _: i < count, step, [tf.constant(0), out])[1].stack()

    with _version(frames):
        d.made(_bodied(build))


@draws("TensorListConcatV2", "TensorListSplit")
def list_of_rows(d: Drawing, op: str):
    x = d.pick(None, 1, 3, where=lambda s: 0 < s[0] <= CONSTANT, new=[4, d.size()])
    rows, rest = x.shape.as_list()[0], x.shape.as_list()[1:]
    first = d.number(0, rows)
    declared = d.const([-1, *(-1 if s > CONSTANT else s for s in rest)], "int32")
    lengths = d.const([first, rows - first], "int64")
    made = d.op("TensorListSplit", x, declared, lengths)
    none = d.const([], "int64")
    d.op("TensorListConcatV2", made, declared, none, element_dtype=x.dtype)
