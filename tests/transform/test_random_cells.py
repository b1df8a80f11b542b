# SPDX-License-Identifier: Apache-2.0
"""Random cells of unrolled loops, and the order of the loops that take their place."""

import random

import numpy as np
import pytest

from sirius_tf.ir.expr import Const
from sirius_tf.ir.interp import run
from sirius_tf.ir.program import Reduce
from sirius_tf.ir.verify import verify
from sirius_tf.transform.align import Chains
from sirius_tf.transform.reroll import _Roller, reroll
from tests.support.programs import call, i, it, k, load, program, stmt, tensor

pytestmark = pytest.mark.ir


def random_layers(seed):
    """Layers of random cells, unrolled by hand; some read backward, or differ in one step."""
    rng = random.Random(seed)
    steps, size = rng.randint(4, 9), 3
    tensors = [tensor("x", [steps, size], role="input"), tensor("h", [size], role="input")]
    statements = []

    def define(value, reduce=None):
        name = f"v{len(statements)}"
        tensors.append(tensor(name, [size]))
        statements.append(stmt(f"S_{name}", [it("i", size)], name, [i], value, reduce))
        return (name,)

    def read(place, iterator=i):
        return load(*place, iterator) if place else Const(0.0, "float32")

    inputs = [("x", t) for t in range(steps)]
    for layer in range(rng.randint(1, 3)):
        weights_ = np.random.default_rng([seed, layer]).standard_normal((size, size)).astype("f")
        tensors.append(tensor(f"w{layer}", [size, size], role="constant", value=weights_))
        kinds = ("matmul", "tanh", "sigmoid", "add", "sub", "mul")
        recipe = [(rng.choice(kinds), rng.random(), rng.random()) for _ in range(rng.randint(2, 6))]
        start = [rng.choice([None, ("h",), define(read(("h",)))]) for _ in range(rng.randint(0, 2))]
        states, strange, outputs = [start, start], rng.randint(0, 3 * steps), []
        for t, given in enumerate(inputs[:: rng.choice([1, -1])]):
            values = [given, *states[-1], *states[-2]]
            for fn, *at in recipe:
                a, b = (values[int(x * len(values))] for x in at)
                if fn == "matmul":
                    product = call("mul", read(a, k), load(f"w{layer}", k, i))
                    values.append(define(product, Reduce("add", (it("k", size),))))
                elif fn in ("tanh", "sigmoid"):
                    values.append(define(call("exp" if t == strange else fn, read(a))))
                else:
                    values.append(define(call(fn, read(a), read(b))))
            states.append(values[-1 : -1 - len(start) : -1])
            outputs.append(values[-1])
        inputs = outputs
    tensors.append(tensor("y", [steps, size], role="output"))
    for t, place in enumerate(inputs):
        statements.append(stmt(f"S{t}", [it("i", size)], "y", [t, i], read(place)))
    rng.shuffle(statements)
    return program("cells", [], tensors, statements, (steps, size))


def test_random_cells():
    """Nothing is rounded differently, as the same functions have the same arguments."""
    fewer = 0
    for seed in range(30):
        before = random_layers(seed)
        after = reroll(before)
        verify(after)
        rng = np.random.default_rng(seed)
        shapes = {n: [e.const for e in before.tensor[n].shape] for n in before.inputs}
        feeds = {n: rng.standard_normal(shape).astype("f") for n, shape in shapes.items()}
        np.testing.assert_array_equal(run(after, feeds)[0], run(before, feeds)[0])
        fewer += len(after.statements) * 2 < len(before.statements)
    assert fewer > 15


@pytest.mark.parametrize(("lag", "offset"), [(3, 3), (4, 4), (5, 0)])
def test_a_step_comes_after_all_steps_that_it_reads(lag, offset):
    """r[k] = tanh(w[k + lag]) beside w[k], 0 <= k < 5: with a lag of 5 it reads none of them."""
    w = [stmt(f"w{n}", [it("i", 3)], f"w{n}", [i], call("exp", load("x", n, i))) for n in range(5)]
    r = [
        stmt(f"r{n}", [it("i", 3)], f"r{n}", [i], call("tanh", load(f"w{n + lag}", i)))
        for n in range(5)
    ]
    names = (tuple(f"w{n}" for n in range(10)), tuple(f"r{n}" for n in range(5)))
    tensors = [tensor(name, [3]) for chain in names for name in chain]
    tensors.append(tensor("x", [5, 3], role="input"))
    chains = Chains((tuple(w), tuple(r)), names, {s.name: 0 for s in (*w, *r)})
    roller = _Roller(program("chains", [], tensors, [*w, *r], [3]), chains)
    found = {run.chain[0].name: at for run, at in roller._offsets(roller.runs).items()}
    assert found == {"w0": 0, "r0": offset}
