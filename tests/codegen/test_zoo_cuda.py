# SPDX-License-Identifier: Apache-2.0
"""Every model of the zoo as CUDA: small ones compile, and agree with TensorFlow in the emulator.

A region is fed what it reads when TensorFlow runs the model on its samples.
"""

import functools
from collections import Counter
from dataclasses import dataclass

import keras
import numpy as np
import pytest
from tensorflow.python.saved_model import loader_impl

from sirius_tf.bundle import cache
from sirius_tf.driver.parts import cut, hints
from sirius_tf.frontend import savedmodel
from sirius_tf.ir.program import Program
from sirius_tf.lower.graph import lower
from sirius_tf.rewrite import metagraph, samples
from sirius_tf.rewrite.difference import relative_error
from sirius_tf.rewrite.session import Session
from sirius_tf.tools.models import zoo
from tests.reliability.round_trips import KINDS, MACHINES, trips
from tests.support.emulated import Emulated, check_resources
from tests.support.small_zoo import SIZES

pytestmark = pytest.mark.cuda_emu

LAUNCHES = ((3, 64, "forward"), (2, 96, "random:1"))  # blocks, threads, order
TOLERANCE = 1e-5
RACED = ("bert_small", "blockdrop", "lstm10", "mobilenet")
WITHOUT_BARRIERS = ("attn_decode", "bidirectional", "lstm10", "nasrnn")


@dataclass(frozen=True)
class Region:
    """A region's program, what it reads and what TensorFlow makes of that."""

    program: Program
    feeds: list[np.ndarray]
    expected: list[np.ndarray]

    @functools.cached_property
    def emulated(self):
        """The kernel, which stops at an access out of bounds or behaviour that C++ leaves open."""
        return Emulated(self.program, "address")


def regions_of(path, given) -> list[Region]:
    """The regions of a SavedModel as it is converted, on samples; one of those that are equal."""
    model = savedmodel.read(path)
    meta_graph = metagraph.select(loader_impl.parse_saved_model(str(path)))
    found: dict[str, Region] = {}
    for name, choice in samples.of_signatures(model.signatures, given).items():
        signature = model.signatures[name]
        part = cut(path, cache.content(path), meta_graph, signature, name, choice)
        feeds = {signature.inputs[key].name: array for key, array in part.samples.items()}
        nodes = signature.graph.by_name
        with Session(path, meta_graph, signature.inlined, signature.graph) as session:
            for region in (use.region for use in part.uses):
                key = region.digest
                if key in found:
                    continue
                read = session.values(feeds, region.outputs)
                inputs = [
                    part.values[e] if e in part.values else nodes[e.node].attr_array()
                    for e in region.inputs
                ]
                program = lower(region.graph, hints(part, region))
                found[key] = Region(program, inputs, [read[e] for e in region.outputs])
    return list(found.values())


@pytest.fixture(scope="module", params=sorted(zoo.ZOO))
def regions(request, tmp_path_factory):
    """The regions of a small version of a model."""
    keras.backend.clear_session()
    path = tmp_path_factory.mktemp("zoo") / request.param
    given = zoo.build(request.param, path, **SIZES[request.param])
    found = regions_of(path, given)
    assert found
    return found


def test_compiles(regions) -> None:
    for region in regions:
        check_resources(region.emulated.kernel)


def test_texts_are_read_back(regions) -> None:
    for region in regions:
        found = Counter(trips(region.program))
        assert set(found) == {(kind, True) for kind in KINDS}
        assert found["schedules", True] == len(MACHINES)


def agree(region, results):
    for result, want in zip(results, region.expected, strict=True):
        assert (result.dtype, result.shape) == (want.dtype, want.shape)
        assert relative_error(result, want) < TOLERANCE


def test_agrees_with_tensorflow(regions) -> None:
    for region in regions:
        for launch in LAUNCHES:
            agree(region, region.emulated(region.feeds, *launch))


@pytest.mark.parametrize("regions", WITHOUT_BARRIERS, indirect=True)
def test_recurrences_need_no_barriers(regions) -> None:
    """Words make no difference to results, if samples are too short for them to pay."""
    for region in regions:
        emulated = Emulated(region.program, words=True)
        assert "// No barrier of the grid" in emulated.kernel.source
        agree(region, emulated(region.feeds, 3, 64, "random:2"))


@pytest.mark.parametrize("regions", RACED, indirect=True)
def test_has_no_races(regions) -> None:
    for region in regions:
        agree(region, Emulated(region.program, "thread")(region.feeds, 2, 64))
