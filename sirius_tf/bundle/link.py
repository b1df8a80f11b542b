# SPDX-License-Identifier: Apache-2.0
"""Kernels -> one shared object: code for every instruction set, weights, manifest."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sirius_tf.bundle import cc
from sirius_tf.codegen.c import ALIGN, Kernel, print_plan, print_run, weight_offsets
from sirius_tf.codegen.scalar import PRELUDE
from sirius_tf.ir.program import Program

ISAS = ("v3", "v4")
_NATIVE = Path(__file__).parent.parent / "native"
# -fno-builtin: a loop that copies stays a loop, instead of becoming a call of memcpy
_FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=on", "-fno-sanitize=all", "-fvisibility=hidden"]
_FLAGS += ["-fno-builtin"]
_COMPILERS = 2  # compilations at once
# TensorFlow's DataType (tensorflow/core/framework/types.proto)
_DATA_TYPE = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6}
_DATA_TYPE |= {"int64": 9, "bool": 10}

# The compiler may still call these, for structs; a bundle imports nothing.
_MEMORY = """\
__attribute__((weak)) void *memset(void *to, int byte, unsigned long n) {
  void *end = to;
  __asm__ volatile("rep stosb" : "+D"(end), "+c"(n) : "a"(byte) : "memory");
  return to;
}
__attribute__((weak)) void *memcpy(void *restrict to, const void *restrict from, unsigned long n) {
  void *end = to;
  __asm__ volatile("rep movsb" : "+D"(end), "+S"(from), "+c"(n) : : "memory");
  return to;
}
"""


@dataclass(frozen=True)
class _Unit:
    """One compilation: `stem`.o from `text`."""

    stem: str
    text: str
    flags: tuple[str, ...]


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
    kernels: Sequence[Kernel],
    output: Path,
    manifest: Mapping[str, object],
    variables_hash: str = "",
    command: str | None = None,
) -> None:
    """Write the bundle of some kernels, whose programs have different names.

    `variables_hash` is that of the checkpoint the constants come from (sirius_abi.h); `command` is
    a C compiler other than zig's.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "weights.bin"
        data.write_bytes(b"".join(weights(k.program) for k in kernels) or bytes(ALIGN))
        tables = _tables(kernels, data, json.dumps(manifest), variables_hash)
        # plan must run on any CPU, so that an unsupported one gets an error and not a signal
        units = [_Unit("tables", PRELUDE + _MEMORY + tables, ("-march=x86_64",))]
        for k in kernels:
            for isa in ISAS:
                text = PRELUDE + print_run(k, isa)
                units.append(_Unit(f"{k.program.name}_{isa}", text, (f"-march=x86_64_{isa}",)))

        def build(unit: _Unit) -> Path:
            source = folder / f"{unit.stem}.c"
            source.write_text(unit.text)
            target = source.with_suffix(".o")
            flags = [*_FLAGS, f"-I{_NATIVE}", *unit.flags]
            cc.compile_object(source, target, flags, command)
            return target

        with ThreadPoolExecutor(_COMPILERS) as pool:
            objects = list(pool.map(build, units))
        cc.compile_shared(objects, output, ["-nostdlib"], command)


def _tables(kernels: Sequence[Kernel], data: Path, manifest: str, variables_hash: str) -> str:
    """The plans, and what the host reads: regions, weights, manifest."""
    text, rows, offset = "", [], 0
    for k in kernels:
        declared, row = _region(k, offset)
        text += print_plan(k) + declared
        rows.append(row)
        offset += weight_offsets(k.program)[""]
    return f"""{text}
static const SiriusRegionInfo regions[] = {{{", ".join(rows)}}};
__asm__(".section .rodata\\n.balign {ALIGN}\\n.hidden sirius_weights\\n.globl sirius_weights\\n"
        "sirius_weights: .incbin \\"{data}\\"\\n.text\\n");
extern const char sirius_weights[];
static const char manifest[] = {json.dumps(manifest)};
__attribute__((visibility("default"))) const SiriusBundle sirius_bundle = {{
    SIRIUS_ABI_VERSION, {len(kernels)}, regions, manifest, sizeof manifest - 1, sirius_weights,
    {data.stat().st_size}, "{variables_hash}"}};
"""


def _region(kernel: Kernel, weights_offset: int) -> tuple[str, str]:
    """Declarations for, and the initializer of, the SiriusRegionInfo of a kernel."""
    program = kernel.program
    outputs = [program.tensor[o.tensor] for o in program.outputs]
    inputs = [program.tensor[n] for n in program.inputs]
    rows = {
        "in_rank": [len(t.shape) for t in inputs],
        "in_dtype": [_DATA_TYPE[t.dtype] for t in inputs],
        "out_rank": [len(o.shape) for o in program.outputs],
        "out_dtype": [_DATA_TYPE[t.dtype] for t in outputs],
    }
    name = program.name
    text = "".join(
        f"static const int32_t {name}_{key}[] = {{{', '.join(map(str, row or [0]))}}};\n"
        for key, row in rows.items()
    )
    runs = [f"{name}_run_{isa}" for isa in ISAS]
    text += "".join(f"void {run}(SiriusCall *call, int32_t worker);\n" for run in runs)
    tables = ", ".join(f"{name}_{key}" for key in rows)
    return text, (
        f'{{"{name}", {len(inputs)}, {len(outputs)}, {len(program.params)}, {tables}, '
        f"{name}_plan, {{{', '.join(runs)}}}, {weights_offset}}}"
    )
