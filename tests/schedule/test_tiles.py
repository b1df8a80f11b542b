# SPDX-License-Identifier: Apache-2.0
"""Plans and sizes of tiles of single statements, for some machines: golden texts."""

from dataclasses import replace

import numpy as np
import pytest

from sirius_tf.ir.affine import symbol
from sirius_tf.ir.parser import parse
from sirius_tf.mapping.targets import machine_of
from sirius_tf.schedule.machine import cpu
from sirius_tf.schedule.plan import choose
from sirius_tf.schedule.tile import tile_sizes

pytestmark = pytest.mark.ir

TEXT = """\
program one(x)
params:
  n = dim(x, 0)   # >= 0, hint {n}
tensors:
  input x[n, {k}]: float32
  input z[n, {h}, {k}]: float32
  constant w[{k}, {j}]: float32
  output y[{shape}]: float32
statements:
  S: {statement}
outputs:
  y: [{shape}]
"""
KINDS = {
    "product": ("n, {j}", "y[i, j] = sum over k of x[i, k] * w[k, j]", "i < n, j < {j}, k < {k}"),
    "image": (
        "n, {h}, {j}",
        "y[i, h, j] = sum over k of z[i, h, k] * w[k, j]",
        "i < n, h < {h}, j < {j}, k < {k}",
    ),
    "sums": ("n", "y[i] = sum over k of x[i, k]", "i < n, k < {k}"),
    "numbers": ("n, {k}", "y[i, k] = exp(x[i, k])", "i < n, k < {k}"),
    "turned": ("{k}, n", "y[k, i] = x[i, k] + 1.0", "k < {k}, i < n"),
}
SIZES = [(1, 7, 16, 16), (7, 13, 100, 40), (30, 56, 64, 64), (64, 7, 768, 300), (1000, 5, 33, 24)]
MACHINES = {
    **{f"cpu{workers}": cpu(workers) for workers in (1, 2, 3, 16)},
    "small": replace(cpu(2), cache=1 << 13),
    "sm_90": machine_of("sm_90"),
    "sm_86.tf32": machine_of("sm_86", "tf32"),
}


def program(kind, n, h, k, j):
    sizes = {"n": n, "h": h, "k": k, "j": j}
    shape, value, box = (part.format(**sizes) for part in KINDS[kind])
    text = TEXT.format(**sizes, shape=shape, statement=f"{value}   for {box}")
    return parse(text, {"w": np.zeros((k, j), "f")})


@pytest.mark.parametrize("machine", MACHINES)
def test_tiles(golden, machine):
    lines = []
    for kind in KINDS:
        for sizes in SIZES:
            made = program(kind, *sizes)
            (s,) = made.statements
            plan = choose(made, s, MACHINES[machine])
            loops = [{s.name: symbol(i.name)} for i in s.iters]
            tile = tile_sizes(made, {s.name: plan}, [s.name], loops, MACHINES[machine])
            extents = " x ".join(str(i.extent.evaluate(made.hints)) for i in s.all_iters)
            across = " across" if plan.across else ""
            lines.append(
                f"{kind} {extents}: {' x '.join(map(str, tile))}, "
                f"lanes {plan.lanes}{across}, rows {plan.rows}"
            )
    golden(machine, "\n".join(lines) + "\n")
