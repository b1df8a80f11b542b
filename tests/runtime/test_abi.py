# SPDX-License-Identifier: Apache-2.0
"""The tables of a bundle: ctypes reads them as C lays them out."""

import ctypes
import re

import pytest

from sirius_tf.runtime import abi
from tests.support import ROOT

pytestmark = pytest.mark.ir

HEADER = (ROOT / "sirius_tf" / "native" / "sirius_abi.h").read_text()
TABLES = {
    "SiriusCubin": abi.CubinInfo,
    "SiriusCuda": abi.CudaInfo,
    "SiriusRegionInfo": abi.RegionInfo,
    "SiriusBundle": abi.BundleInfo,
}
WORDS = {"int32_t": 4, "int64_t": 8}  # all others are pointers


def fields(name):
    """The names and sizes of the fields of a struct of the header."""
    code = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)
    (body,) = re.findall(rf"typedef struct {{([^}}]*)}} {name};", code)
    found = []
    for declaration in filter(None, map(str.strip, body.split(";"))):
        kind, rest = re.fullmatch(r"(?:const )?(\w+)\s+(.*)", declaration).groups()
        for declared in rest.split(","):
            field, count = re.fullmatch(r".*?(\w+)(?:\[(\w+)\])?", declared.strip()).groups()
            size = 8 if "*" in declared else WORDS.get(kind, 8)
            found.append((field, size * (constant(count) if count else 1)))
    return found


def constant(name):
    return int(re.search(rf"#define {name} (\d+)", HEADER)[1])


@pytest.mark.parametrize("name", TABLES)
def test_fields_are_those_of_the_header(name) -> None:
    table = TABLES[name]
    assert [(f, getattr(table, f).size) for f, _ in table._fields_] == fields(name)


def test_numbers_are_not_taken_for_addresses() -> None:
    """A pointer and an int64 have the same size, but only one may be followed."""
    for table in TABLES.values():
        kinds = dict(table._fields_)
        numbers = {f for f in kinds if re.fullmatch(r"n_\w+|\w*bytes|\w+_offset", f)}
        assert {kinds[f] for f in numbers} <= {ctypes.c_int32, ctypes.c_int64}
