# SPDX-License-Identifier: Apache-2.0
"""Random values for hypothesis."""

from hypothesis import strategies as st

from sirius_tf.ir.affine import affine, symbol

i, j, n = symbol("i"), symbol("j"), symbol("N")


ints = st.integers(-50, 50)


def trees():
    leaf = st.sampled_from([i, j, n]) | ints.map(affine)
    return st.recursive(
        leaf,
        lambda e: st.one_of(
            st.builds(lambda a, b: a + b, e, e),
            st.builds(lambda a, b: a - b, e, e),
            st.builds(lambda a, k: a * k, e, ints),
            st.builds(lambda a, d: a // d, e, st.integers(1, 9)),
            st.builds(lambda a, d: a % d, e, st.integers(1, 9)),
        ),
        max_leaves=8,
    )
