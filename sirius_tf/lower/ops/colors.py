# SPDX-License-Identifier: Apache-2.0
"""Rules of ops on the colors of images: the last dimension holds the components of a color."""

from __future__ import annotations

from collections.abc import Sequence

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.affine import affine
from sirius_tf.ir.dtypes import number
from sirius_tf.ir.expr import Expr, call
from sirius_tf.lower import value as values
from sirius_tf.lower.boxes import concat
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.rules import lowers
from sirius_tf.lower.value import Value


def _select(fn: str, left: Expr, right: Expr, yes: Expr, no: Expr) -> Expr:
    return call("select", call(fn, left, right, dtype="bool"), yes, no)


def _components(ctx: Lowering) -> list[Value]:
    """The three components of the colors, each a tensor without the last dimension."""
    x = ctx.input(0)
    # TF refuses others in a class of error of its own
    ctx.equal(x.shape[-1].to_affine(), affine(3), narrow=True)
    axis = x.rank - 1
    return [values.remove_dim(values.slice_dim(x, axis, k, 1), axis) for k in range(3)]


def _colors(ctx: Lowering, components: Sequence[Value]) -> Value:
    axis = components[0].rank
    return concat(ctx, [values.insert_dim(x, axis) for x in components], axis)


def _extreme(ctx: Lowering, fn: str, rgb: Sequence[Value]) -> Value:
    return ctx.map(lambda r, g, b: call(fn, call(fn, r, g), b), *rgb)


@lowers("RGBToHSV")
def _hsv(ctx: Lowering, node: Node) -> Value:
    """Smith 1978, in TF's order of operations: the hue is in sixths of the circle from red, by the
    component that is the greatest."""
    rgb = _components(ctx)
    low, high = (_extreme(ctx, fn, rgb) for fn in ("min", "max"))
    chroma = ctx.map(lambda v, low: call("sub", v, low), high, low)

    def saturation(v: Expr, c: Expr) -> Expr:
        zero = number(0.0, v.dtype)
        return _select("gt", v, zero, call("div", c, v), zero)

    def hue(r: Expr, g: Expr, b: Expr, v: Expr, c: Expr) -> Expr:
        zero, one = number(0.0, v.dtype), number(1.0, v.dtype)
        sixth = call("mul", call("div", one, c), number(1 / 6, v.dtype))
        of_red, of_green, of_blue = (
            call("mul", sixth, call("sub", x, y)) for x, y in ((g, b), (b, r), (r, g))
        )
        of_green = call("add", of_green, number(2 / 6, v.dtype))
        of_blue = call("add", of_blue, number(4 / 6, v.dtype))
        h = _select("eq", r, v, of_red, _select("eq", g, v, of_green, of_blue))
        h = _select("gt", c, zero, h, zero)
        return _select("lt", h, zero, call("add", h, one), h)

    return _colors(ctx, [ctx.map(hue, *rgb, high, chroma), ctx.map(saturation, high, chroma), high])


@lowers("HSVToRGB")
def _rgb(ctx: Lowering, node: Node) -> Value:
    """(1 - s + s*d) * v, where d is 0 to 1 by the distance of the hue from that of a component."""
    hue, saturation, brightness = _components(ctx)

    def component(k: int) -> Value:
        def at(h: Expr, s: Expr, v: Expr) -> Expr:
            one, two, three = (number(float(n), v.dtype) for n in (1, 2, 3))
            turns = call("mul", h, number(6.0, v.dtype))
            if k == 0:
                d = call("sub", call("abs", call("sub", turns, three)), one)
            else:
                d = call("sub", two, call("abs", call("sub", turns, number(2.0 * k, v.dtype))))
            d = call("min", call("max", d, number(0.0, v.dtype)), one)
            return call("mul", call("add", call("sub", one, s), call("mul", s, d)), v)

        return ctx.map(at, hue, saturation, brightness)

    return _colors(ctx, [component(k) for k in range(3)])


@lowers("AdjustContrastv2")
def _contrast(ctx: Lowering, node: Node) -> Value:
    """(x - m) * factor + m, m the mean of a channel of an image."""
    x, factor = ctx.inputs()
    rows, columns = x.rank - 3, x.rank - 2
    total = ctx.reduce("add", x, [rows, columns], True)
    count = (x.shape[rows] * x.shape[columns]).to_expr()
    mean = ctx.map(lambda s: call("div", s, call("cast", count, dtype=s.dtype)), total)

    def moved(e: Expr, m: Expr, f: Expr) -> Expr:
        f = f if f.dtype == e.dtype else call("cast", f, dtype=e.dtype)
        return call("add", call("mul", call("sub", e, m), f), m)

    return ctx.map(moved, x, mean, factor)
