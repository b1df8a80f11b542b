# SPDX-License-Identifier: Apache-2.0
"""Calls by several numbers of workers, more than there are CPUs among them."""

from sirius_tf.runtime import native

COUNTS = (1, 2, 3, 8)


def call(bundle, region, feeds, counts=COUNTS):
    """Return the results of a call, whose bits do not depend on the number of workers."""
    first, *others = (exactly(bundle, region, feeds, workers) for workers in counts)
    for workers, results in zip(counts[1:], others, strict=True):
        for k, (one, several) in enumerate(zip(first, results, strict=True)):
            same = one.shape == several.shape and one.tobytes() == several.tobytes()
            assert same, f"output {k} is another one with {workers} workers than with one"
    return first


def exactly(bundle, region, feeds, workers):
    """Return the results of a call by so many workers."""
    with native.exactly(workers):
        return bundle.call(region, feeds)
