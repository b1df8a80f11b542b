# SPDX-License-Identifier: Apache-2.0
"""The tables of a bundle as ctypes reads them (native/sirius_abi.h)."""

from __future__ import annotations

import ctypes


class CubinInfo(ctypes.Structure):
    """SiriusCubin."""

    _fields_ = (
        ("arch", ctypes.c_char_p),
        ("code", ctypes.c_void_p),
        ("bytes", ctypes.c_int64),
        ("blocks", ctypes.c_int32),
    )


class CudaInfo(ctypes.Structure):
    """SiriusCuda."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("kernels", ctypes.POINTER(ctypes.c_char_p)),
        ("n_kernels", ctypes.c_int32),
        ("cooperative", ctypes.c_int32),
        ("source", ctypes.c_void_p),
        ("source_bytes", ctypes.c_int64),
        ("plan", ctypes.c_void_p),
        ("shapes", ctypes.c_void_p),
        ("geometry", ctypes.c_void_p),
        ("n_slots", ctypes.c_int32),
        ("threads_per_block", ctypes.c_int32),
        ("shared_bytes", ctypes.c_int32),
        ("n_cubins", ctypes.c_int32),
        ("cubins", ctypes.POINTER(CubinInfo)),
        ("weights_offset", ctypes.c_int64),
        ("weights_bytes", ctypes.c_int64),
        ("stamp", ctypes.POINTER(ctypes.c_int32)),
    )


class RegionInfo(ctypes.Structure):
    """SiriusRegionInfo."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("n_in", ctypes.c_int32),
        ("n_out", ctypes.c_int32),
        ("n_params", ctypes.c_int32),
        ("in_rank", ctypes.POINTER(ctypes.c_int32)),
        ("in_dtype", ctypes.POINTER(ctypes.c_int32)),
        ("out_rank", ctypes.POINTER(ctypes.c_int32)),
        ("out_dtype", ctypes.POINTER(ctypes.c_int32)),
        ("plan", ctypes.c_void_p),
        ("run", ctypes.c_void_p * 2),
        ("shapes", ctypes.c_void_p),
        ("out_late", ctypes.POINTER(ctypes.c_int32)),
        ("weights_offset", ctypes.c_int64),
        ("cuda", ctypes.POINTER(CudaInfo)),
        ("messages", ctypes.POINTER(ctypes.c_char_p)),
        ("digest", ctypes.c_char_p),
    )


class BundleInfo(ctypes.Structure):
    """SiriusBundle."""

    _fields_ = (
        ("abi_version", ctypes.c_int32),
        ("n_regions", ctypes.c_int32),
        ("regions", ctypes.POINTER(RegionInfo)),
        ("manifest", ctypes.c_void_p),
        ("manifest_bytes", ctypes.c_int64),
        ("weights", ctypes.c_void_p),
        ("weights_bytes", ctypes.c_int64),
        ("variables_hash", ctypes.c_char_p),
    )
