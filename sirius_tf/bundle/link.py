# SPDX-License-Identifier: Apache-2.0
"""Regions -> one shared object: code for every instruction set, weights, manifest."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sirius_tf.bundle import cc
from sirius_tf.codegen.c import ALIGN, Region, print_plan, print_run, weight_offsets
from sirius_tf.codegen.scalar import PRELUDE
from sirius_tf.ir.program import Program

ISAS = ("v3", "v4")
_NATIVE = Path(__file__).parent.parent / "native"
_FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=on", "-fno-sanitize=all", "-fvisibility=hidden"]
# TensorFlow's DataType (tensorflow/core/framework/types.proto)
_DATA_TYPE = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6}
_DATA_TYPE |= {"int64": 9, "bool": 10}

# The compiler may turn loops into calls of these; a bundle imports nothing.
_MEMORY = """\
__attribute__((weak)) void *memset(void *to, int byte, unsigned long n) {
  char *p = to;
  while (n--) { *p++ = (char)byte; __asm__ volatile("" : "+r"(p)); }
  return to;
}
__attribute__((weak)) void *memcpy(void *restrict to, const void *restrict from, unsigned long n) {
  char *p = to;
  const char *q = from;
  while (n--) { *p++ = *q++; __asm__ volatile("" : "+r"(p)); }
  return to;
}
"""


def weights(program: Program) -> bytes:
    """The constants of a program, at the offsets of `weight_offsets`."""
    offsets = weight_offsets(program)
    data = bytearray(offsets[""])
    for t in program.tensors:
        if t.role == "constant":
            raw = np.ascontiguousarray(t.value).tobytes()
            data[offsets[t.name] : offsets[t.name] + len(raw)] = raw
    return bytes(data)


def link(
    region: Region, output: Path, manifest: Mapping[str, object], command: str | None = None
) -> None:
    """Write the bundle of one region; `command` is a C compiler other than zig's."""
    with tempfile.TemporaryDirectory() as folder:
        objects = _compile(region, Path(folder), json.dumps(manifest), command)
        cc.compile_shared(objects, output, ["-nostdlib"], command)


def _compile(region: Region, folder: Path, manifest: str, command: str | None) -> Sequence[Path]:
    data = folder / "weights.bin"
    data.write_bytes(weights(region.program) or bytes(ALIGN))
    code, tables = folder / "run.c", folder / "tables.c"
    code.write_text(PRELUDE + print_run(region))
    tables.write_text(PRELUDE + _MEMORY + print_plan(region) + _tables(region, data, manifest))
    flags = [*_FLAGS, f"-I{_NATIVE}"]
    objects = [folder / f"{isa}.o" for isa in ISAS]
    for isa, target in zip(ISAS, objects, strict=True):
        march = [f"-march=x86_64_{isa}", f"-DSIRIUS_ISA={isa}"]
        cc.compile_object(code, target, [*flags, *march], command)
    # plan must run on any CPU, so that an unsupported one gets an error and not a signal
    cc.compile_object(
        tables, folder / "tables.o", [*flags, "-march=x86_64", "-DSIRIUS_ISA=v1"], command
    )
    return [*objects, folder / "tables.o"]


def _tables(region: Region, data: Path, manifest: str) -> str:
    program = region.program
    outputs = [program.tensor[o.tensor] for o in program.outputs]
    inputs = [program.tensor[n] for n in program.inputs]
    rows = {
        "in_rank": [len(t.shape) for t in inputs],
        "in_dtype": [_DATA_TYPE[t.dtype] for t in inputs],
        "out_rank": [len(o.shape) for o in program.outputs],
        "out_dtype": [_DATA_TYPE[t.dtype] for t in outputs],
    }
    arrays = "".join(
        f"static const int32_t {name}[] = {{{', '.join(map(str, row or [0]))}}};\n"
        for name, row in rows.items()
    )
    runs = [f"{program.name}_run_{isa}" for isa in ISAS]
    text = json.dumps(manifest)
    return f"""
{"".join(f"void {r}(SiriusCall *call, int32_t worker);{chr(10)}" for r in runs)}{arrays}
static const SiriusRegionInfo regions[] = {{{{"{program.name}", {len(inputs)}, {len(outputs)},
    {len(program.params)}, in_rank, in_dtype, out_rank, out_dtype, {program.name}_plan,
    {{{", ".join(runs)}}}}}}};
__asm__(".section .rodata\\n.balign {ALIGN}\\n.hidden sirius_weights\\n.globl sirius_weights\\n"
        "sirius_weights: .incbin \\"{data}\\"\\n.text\\n");
extern const char sirius_weights[];
static const char manifest[] = {text};
__attribute__((visibility("default"))) const SiriusBundle sirius_bundle = {{
    SIRIUS_ABI_VERSION, 1, regions, manifest, sizeof manifest - 1, sirius_weights,
    {data.stat().st_size}}};
"""
