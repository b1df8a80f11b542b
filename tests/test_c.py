# SPDX-License-Identifier: Apache-2.0
"""Programs through every stage to a bundle that runs, against the interpreter."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sirius_tf.bundle.link import link
from sirius_tf.codegen.c import Kernel, print_plan, print_run
from sirius_tf.codegen.loops import build_loops
from sirius_tf.errors import InvalidArgument
from sirius_tf.ir import interp
from sirius_tf.ir.program import Program
from sirius_tf.poly.dependence import check_defined, check_single_assignment, flow
from sirius_tf.poly.scop import extract
from sirius_tf.runtime import native
from sirius_tf.schedule.fuse import fuse
from sirius_tf.schedule.storage import storage_maps, windows
from sirius_tf.schedule.tree import build
from sirius_tf.schedule.verify import check_order, check_reflow
from tests import programs


def kernel(program: Program) -> Kernel:
    scop = extract(program)
    check_single_assignment(scop)
    check_defined(scop)
    flows = flow(scop)
    tree = fuse(program, flows, 2)
    schedule = build(scop, tree)
    check_order(scop, schedule, flows)
    folded = windows(program, scop, tree)
    check_reflow(scop, schedule, storage_maps(scop, folded))
    return Kernel(program, build_loops(scop, schedule), folded)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")

    def build_one(program: Program) -> native.Bundle:
        path: Path = folder / f"{program.name}.so"
        if not path.exists():
            link([kernel(program)], path, {"program": program.name})
        return native.Bundle(path)

    return build_one


def random_inputs(program: Program, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        name: rng.standard_normal([e.evaluate(sizes) for e in program.tensor[name].shape]).astype(
            program.tensor[name].dtype
        )
        for name in program.inputs
    }


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("sizes", [{"B": 1, "T": 1}, {"B": 7, "T": 33}, {"B": 33, "T": 7}])
@pytest.mark.parametrize("make", [programs.dense, programs.softmax, programs.lstm])
def test_a_bundle_computes_what_the_interpreter_does(compiled, make, sizes, threads) -> None:
    program = make()
    inputs = random_inputs(program, sizes)
    wanted = interp.run(program, inputs)
    got = compiled(program).call(program.name, list(inputs.values()), threads)
    for want, have in zip(wanted, got, strict=True):
        np.testing.assert_allclose(have, want, rtol=2e-5, atol=2e-5)


def test_empty_batch(compiled) -> None:
    program = programs.softmax()
    (got,) = compiled(program).call("softmax", list(random_inputs(program, {"B": 0}).values()))
    assert got.shape[0] == 0


def test_gather_out_of_range_is_an_error(compiled) -> None:
    program = programs.gather()
    bundle = compiled(program)
    inputs = random_inputs(program, {"B": 5})
    inputs["ids"] = np.array([3, 0, 1, 3, 2], "int32")
    (want,) = interp.run(program, inputs)
    (got,) = bundle.call("gather", list(inputs.values()))
    np.testing.assert_array_equal(got, want)
    inputs["ids"][2] = 4
    with pytest.raises(InvalidArgument, match=r"index 4 is not in \[0, 4\)"):
        bundle.call("gather", list(inputs.values()))


def test_a_wrong_extent_is_an_error(compiled) -> None:
    program = programs.dense()
    inputs = random_inputs(program, {"B": 2})
    name = program.inputs[0]
    inputs[name] = inputs[name][:, :-1]
    with pytest.raises(InvalidArgument, match="has extent 498 on axis 1, not 499"):
        compiled(program).call("dense", list(inputs.values()))


def test_a_bundle_without_folding_needs_more_workspace(compiled) -> None:
    """The folded state is what makes the workspace independent of the number of steps."""
    folded = kernel(programs.lstm())
    assert any(w[0] == 2 for w in folded.windows.values())
    whole = replace(folded, windows={})
    assert print_plan(whole) != print_plan(folded) and print_run(whole) != print_run(folded)
