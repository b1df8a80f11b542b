# SPDX-License-Identifier: Apache-2.0
"""numpy's dtypes by TensorFlow's DataType number."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from sirius_tf.errors import SiriusError
from sirius_tf.ir.dtypes import numpy_dtype

_BFLOAT16 = 14


def _dtypes() -> Iterator[tuple[int, np.dtype[np.generic]]]:
    found: dict[int, np.dtype[Any]] = {
        1: np.dtype(np.float32),
        2: np.dtype(np.float64),
        3: np.dtype(np.int32),
        4: np.dtype(np.uint8),
        5: np.dtype(np.int16),
        6: np.dtype(np.int8),
        9: np.dtype(np.int64),
        10: np.dtype(np.bool_),
        17: np.dtype(np.uint16),
        19: np.dtype(np.float16),
        22: np.dtype(np.uint32),
        23: np.dtype(np.uint64),
    }
    yield from found.items()
    with contextlib.suppress(ImportError):  # it comes with TensorFlow
        yield _BFLOAT16, numpy_dtype("bfloat16")


#: numpy's dtypes by TensorFlow's DataType number.
DTYPES: Mapping[int, np.dtype[np.generic]] = MappingProxyType(dict(_dtypes()))


def dtype_of(number: int) -> np.dtype[np.generic]:
    """Return the dtype of a number; SiriusError if numpy has none."""
    if number not in DTYPES:
        missing = "it needs the package ml_dtypes" if number == _BFLOAT16 else "there is none"
        raise SiriusError(f"no numpy dtype for TensorFlow's DataType {number}: {missing}")
    return DTYPES[number]
