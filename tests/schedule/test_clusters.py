# SPDX-License-Identifier: Apache-2.0
"""Clusters of small graphs: what is run as one phase, by which tiles, and each as a program."""

from dataclasses import replace

import pytest

from sirius_tf.ir.defuse import Uses
from sirius_tf.ir.printer import show
from sirius_tf.ir.rewrite import map_statements, rename_tensors
from sirius_tf.ir.verify import verify
from sirius_tf.pipeline import run
from sirius_tf.schedule.cluster import alone, fits, key
from sirius_tf.schedule.fuse import tiled
from sirius_tf.schedule.machine import cpu
from tests.support import saved

pytestmark = pytest.mark.ir

NAMES = ("attention", "decided", "pieces", "two_layers")


def clusters(name):
    program, context = run(saved.read(name), cpu(2))
    return program, tiled(program, context.flows, cpu(2))


@pytest.mark.parametrize("name", NAMES)
def test_clusters(golden, name):
    program, found = clusters(name)
    parts = []
    for number, one in enumerate(found):
        made = alone(Uses(program), one.cluster, f"alone{number}")
        verify(made)
        assert fits(one.sizes, one.units)
        loops = " ".join(str({s: str(v) for s, v in loop.items()}) for loop in one.cluster.loops)
        parts.append(
            f"# in {one.entered}, loops {loops}, tiles {one.sizes} of {one.extents}, "
            f"multiples of {one.units}\n{show(made)}"
        )
    golden(name, "\n\n".join(parts) + "\n")


def test_a_key_has_no_names() -> None:
    program, found = clusters("attention")
    names = {t.name: f"other_{t.name}" for t in program.tensors if t.role == "temp"}
    tensors = tuple(replace(t, name=names.get(t.name, t.name)) for t in program.tensors)
    renamed = map_statements(replace(program, tensors=tensors), lambda s: rename_tensors(s, names))
    keys = [key(Uses(p), t.cluster, t.entered, 2) for p in (program, renamed) for t in found]
    half = len(found)
    assert keys[:half] == keys[half:] == [t.key for t in found]
    assert len(set(keys)) == half
    assert not {key(Uses(program), t.cluster, t.entered, 3) for t in found} & set(keys)
