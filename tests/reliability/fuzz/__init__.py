# SPDX-License-Identifier: Apache-2.0
"""A differential fuzzer: random graphs by TensorFlow, the interpreter, C of each instruction set,
and emulated CUDA."""
