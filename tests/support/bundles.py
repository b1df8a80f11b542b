# SPDX-License-Identifier: Apache-2.0
"""A model of one region, as TensorFlow would have written it."""

from types import MappingProxyType

import numpy as np

from sirius_tf.bundle.link import link
from sirius_tf.bundle.seal import crc32c
from sirius_tf.compile import compile_program
from tests.support import programs

TABLE = np.array([2.0, 3.0, 5.0], "f")


PREFIX = b"before the table"


def scale():
    """y[i] = x[i] * table[1]: x and the table are arguments."""
    n = programs.symbol("n")
    return programs.program(
        "scale",
        [programs.param("n", "x", 0)],
        [
            programs.tensor("table", (3,), role="input"),
            programs.tensor("x", (n,), role="input"),
            programs.tensor("y", (n,), role="output"),
        ],
        [
            programs.stmt(
                "y_stmt",
                [programs.it("i", n)],
                "y",
                (programs.i,),
                programs.call("mul", programs.load("x", programs.i), programs.load("table", 1)),
            )
        ],
        (n,),
    )


def manifest():
    file = "variables/variables.data-00000-of-00001"
    table = {"key": "t", "dtype": "float32", "shape": [3], "file": file, "offset": len(PREFIX)}
    table["crc32c"] = crc32c(TABLE.tobytes())
    floats = {"dtype": "float32", "shape": [None]}
    words = {"dtype": "string", "shape": None}
    scale_entry = {
        "inputs": {"x": floats, "unused": words},
        "outputs": {"out": floats, "same": floats},
        "region": "scale",
        "arguments": [{"table": table}, {"input": "x"}],
        "results": {"out": {"output": 0}, "same": {"input": "x"}},
    }
    plain = {"inputs": {"w": words}, "outputs": {}, "region": None, "reason": "w is a string"}
    return {"sirius": 2, "signatures": {"scale": scale_entry, "words": plain}}


def save(folder, content, cuda=(), digests=MappingProxyType({})):
    (folder / "assets").mkdir(parents=True)
    (folder / "variables").mkdir()
    data = PREFIX + TABLE.tobytes()
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(data)
    bundle = folder / "assets" / "model.sirius.so"
    link([compile_program(scale())], bundle, content, cuda=cuda, digests=digests)
    return folder
