# SPDX-License-Identifier: Apache-2.0
"""Cells of recurrent layers."""

import tensorflow as tf


def lstm(gates, c):
    """c and h of the next step: the four parts of `gates` are what the products add up to."""
    i, f, o, g = tf.split(gates, 4, 1)
    c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
    return c, tf.sigmoid(o) * tf.tanh(c)
