# SPDX-License-Identifier: Apache-2.0
"""Running bundles, with or without TensorFlow."""

from sirius_tf.runtime.limits import limited
from sirius_tf.runtime.load import Model, Signature, Spec, load

__all__ = ["Model", "Signature", "Spec", "limited", "load"]
