# SPDX-License-Identifier: Apache-2.0
"""Kernels -> one shared object: code for every instruction set, weights, manifest."""

from __future__ import annotations

import hashlib
import json
import mmap
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from sirius_tf.bundle import cache, cc, elf, marks, seal
from sirius_tf.bundle.cuda import Compiled, complete_source, tables
from sirius_tf.codegen.cpu.kernel import Kernel
from sirius_tf.codegen.entry import PLAN, SHAPES, late_outputs, weight_offsets
from sirius_tf.codegen.scalar import PRELUDE, string
from sirius_tf.errors import SiriusError
from sirius_tf.ir.program import Program
from sirius_tf.schedule.storage import ALIGN

Array = np.ndarray[Any, Any]
ISAS = ("v3", "v4")
MARCH: dict[str, tuple[str, ...]] = {isa: (f"-march=x86_64_{isa}",) for isa in ISAS}
_NATIVE = Path(__file__).parent.parent / "native"
# -fno-builtin: a loop that copies stays a loop, instead of becoming a call of memcpy
_FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=on", "-fno-sanitize=all", "-fvisibility=hidden"]
_FLAGS += ["-fno-builtin", "-g0"]  # debugging information names folders
_BASELINE = ("-march=x86_64",)  # plan runs on any CPU: one that is too old gets an error
_COMPILERS = 2  # compilations at once
_MANIFEST_ROOM = 4096  # spaces behind the manifest, for that of another checkpoint
_NOTE_ROOM = 256  # likewise, for what is found out about a kernel when the bundle is there
_HASH_ROOM = 32
_DIGEST_ROOM = 65  # of a region: SHA-256 in hex, and a NUL
_SECTION = "sirius"  # of the weights
# TensorFlow's DataType (tensorflow/core/framework/types.proto)
_DATA_TYPE = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6}
_DATA_TYPE |= {"int64": 9, "bool": 10, "bfloat16": 14, "float16": 19}

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
    """One compilation, of code of a kernel."""

    kernel: str
    text: str
    flags: tuple[str, ...]


def weights(program: Program) -> Iterator[memoryview]:
    """The constants of a program one after the other, at the offsets of `weight_offsets`."""
    for t in program.tensors:
        if t.role == "constant":
            raw = np.ascontiguousarray(t.value).reshape(-1).view(np.uint8)
            yield raw.data
            yield memoryview(bytes(-len(raw) % ALIGN))


def link(
    kernels: Sequence[Kernel],
    output: Path,
    manifest: Mapping[str, object],
    variables_hash: str = "",
    command: str | None = None,
    isas: Sequence[str] = ISAS,
    cuda: Sequence[Compiled] = (),
    digests: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write the bundle of some kernels, whose programs have different names.

    `variables_hash` is that of the checkpoint the constants come from, `digests` are those of the
    graphs that programs were made of, by name (sirius_abi.h). `command` is a C compiler other than
    zig's. A bundle runs on the instruction sets `isas` only, and on GPUs where the programs are
    among `cuda`, too. CodeError says which kernel's code does not compile.
    """
    units = _units(kernels, isas, cuda)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        room = _MANIFEST_ROOM + _NOTE_ROOM * len(kernels)
        text = _manifest(manifest, units, cuda) + " " * room
        tables = _tables(kernels, cuda, folder, text, variables_hash, isas, digests)
        made = (tables.replace(name, ""), cache.content(folder), cc.compiler_command(command))
        code = cache.remembered(
            "code", (units, made), lambda: _link(units, folder, tables, command)
        )
    before, behind = elf.around(code, _SECTION)
    size = _weights_size(kernels, cuda)
    all_weights = _all_weights(kernels, cuda)
    seal.write_sealed(output, chain([before, marks.head("weights", size)], all_weights, [behind]))


def _link(units: Sequence[_Unit], folder: Path, tables: str, command: str | None) -> bytes:
    """A bundle without weights."""

    def build(numbered: tuple[int, _Unit]) -> Path:
        number, unit = numbered
        flags, path = [*_FLAGS, *unit.flags], folder / f"{number}.o"
        try:
            path.write_bytes(cache.compiled(PRELUDE + unit.text, flags, _NATIVE, command))
        except cc.NoCompilerError:
            raise
        except cc.CompilerError as error:
            raise cc.CodeError(unit.kernel, str(error)) from error
        return path

    with ThreadPoolExecutor(_COMPILERS) as pool:
        objects = list(pool.map(build, enumerate(units)))
    source, made, output = (folder / name for name in ("tables.c", "tables.o", "code.so"))
    source.write_text(PRELUDE + _MEMORY + tables)
    cc.compile_object(source, made, [*_FLAGS, *_BASELINE, f"-I{_NATIVE}"], command)
    cc.compile_shared([*objects, made], output, ["-nostdlib", "-Wl,-z,defs"], command)
    return output.read_bytes()


def assembly(kernel: Kernel, isa: str) -> str:
    """The assembly of a kernel for an instruction set, as the compiler of bundles writes it."""
    with tempfile.TemporaryDirectory() as name:
        source, made = Path(name, "code.c"), Path(name, "code.s")
        source.write_text(PRELUDE + kernel.runs[isa])
        flags = [*_FLAGS, *MARCH[isa], f"-I{_NATIVE}", "-S", "-fPIC"]
        cc.run_compiler([*flags, "-o", str(made), source.name], folder=source.parent)
        return made.read_text()


def repack(
    bundle: Path,
    output: Path,
    kernels: Sequence[Kernel],
    manifest: Mapping[str, object],
    variables_hash: str,
    cuda: Sequence[Compiled] = (),
    digests: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write `bundle` with other weights to `output`; no compiler runs.

    `kernels` and `cuda` are those of the bundle, made from the graph with its new values;
    SiriusError if their code is not that of the bundle, for then the graph has changed.
    """
    text = _manifest(manifest, _units(kernels, ISAS, cuda), cuda)
    with bundle.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as data:
        end = seal.content_size(data, bundle)
        old = json.loads(data[_payload(bundle, data, "manifest")])
        place = _payload(bundle, data, "weights")
        sizes = place.stop - place.start, _weights_size(kernels, cuda)
        if old.get("code_hash") != json.loads(text)["code_hash"] or sizes[0] != sizes[1]:
            raise SiriusError(
                f"{bundle} is of another graph or another version: convert the model anew"
            )
        if "cuda" in old:  # what its stamps say of the same code
            text = _manifest({**manifest, "cuda": old["cuda"]}, _units(kernels, ISAS, cuda), cuda)
        contents = {"manifest": text, "variables": variables_hash}
        for name, content in {**contents, "digests": _digests(kernels, digests)}.items():
            room = _payload(bundle, data, name)
            spaces = room.stop - room.start - len(content)
            if spaces < 0:
                raise SiriusError(f"{bundle} has no room for its {name}: convert the model anew")
            data[room] = (content + (" " if name == "manifest" else "\0") * spaces).encode()
        all_weights = _all_weights(kernels, cuda)
        before, behind = data[: place.start], data[place.stop : end]
        seal.write_sealed(output, chain([before], all_weights, [behind]))


def left_in_file(
    kernels: Sequence[Kernel], bundle: Path, cuda: Sequence[Compiled] = ()
) -> tuple[list[Kernel], list[Compiled]]:
    """The kernels of a bundle, with constants that are read in its file when they are wanted."""
    data = np.memmap(bundle, np.uint8, "r")
    with bundle.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        at = _payload(bundle, text, "weights").start

    def moved(program: Program) -> Program:
        nonlocal at
        places = {name: at + offset for name, offset in weight_offsets(program).items()}
        at = places[""]
        tensors = (
            t if t.value is None else replace(t, value=_view(data, places[t.name], t.value))
            for t in program.tensors
        )
        return replace(program, tensors=tuple(tensors))

    left = [replace(k, program=moved(k.program)) for k in kernels]
    kept = [replace(c.kernel, program=moved(c.kernel.program)) for c in cuda]
    return left, [replace(c, kernel=kernel) for c, kernel in zip(cuda, kept, strict=True)]


def _view(data: Array, at: int, like: Array) -> Array:
    return data[at : at + like.nbytes].view(like.dtype).reshape(like.shape)


def _payload(bundle: Path, data: mmap.mmap, name: str) -> slice:
    """The place in a bundle of its weights, its manifest or the hash of its variables; SiriusError
    if it has none."""
    place = next(marks.places(data, name), None)
    if place is None:
        raise SiriusError(f"{bundle} is not a sirius_tf bundle: it has no {name}")
    return place


def _units(kernels: Sequence[Kernel], isas: Sequence[str], cuda: Sequence[Compiled]) -> list[_Unit]:
    units = [_Unit(k.program.name, k.plan, _BASELINE) for k in kernels]
    units += [_Unit(c.kernel.program.name, c.kernel.plan, _BASELINE) for c in cuda]
    for k in kernels:
        units += [_Unit(k.program.name, k.runs[isa], MARCH[isa]) for isa in isas]
    return units


def _all_weights(kernels: Sequence[Kernel], cuda: Sequence[Compiled]) -> Iterator[memoryview]:
    programs = [*(k.program for k in kernels), *(c.kernel.program for c in cuda)]
    return chain.from_iterable(map(weights, programs))


def _weights_size(kernels: Sequence[Kernel], cuda: Sequence[Compiled]) -> int:
    programs = [*(k.program for k in kernels), *(c.kernel.program for c in cuda)]
    return sum(weight_offsets(program)[""] for program in programs)


def _manifest(
    manifest: Mapping[str, object], units: Sequence[_Unit], cuda: Sequence[Compiled]
) -> str:
    """JSON, with a hash of the generated code."""
    code = "".join([*(u.text for u in units), *(complete_source(c.kernel) for c in cuda)])
    digest = hashlib.sha256(code.encode()).hexdigest()
    return json.dumps({**manifest, "code_hash": digest})


def _tables(
    kernels: Sequence[Kernel],
    cuda: Sequence[Compiled],
    folder: Path,
    manifest: str,
    variables_hash: str,
    isas: Sequence[str],
    digests: Mapping[str, str],
) -> str:
    """C of the tables that the host reads: regions, weights, manifest. Marked, so that `repack`
    finds them.

    Of the weights there is only the room.
    """
    text, rows, offset = "", list[str](), 0
    cuda_offset = sum(weight_offsets(k.program)[""] for k in kernels)
    infos = {}
    for c in cuda:
        text += tables(c, folder, cuda_offset)
        infos[c.kernel.program.name] = f"&{c.kernel.name}_info"
        cuda_offset += weight_offsets(c.kernel.program)[""]
    for k in kernels:
        declared, row = _region(k, offset, isas, infos.get(k.program.name, "0"))
        text += declared
        rows.append(f"{{{row}, digests.text + {_DIGEST_ROOM * len(rows)}}}")
        offset += weight_offsets(k.program)[""]
    size, room = _weights_size(kernels, cuda), _DIGEST_ROOM * len(kernels)
    return f"""{text}
#define MARKED(name, room) static const struct {{ \\
  _Alignas({ALIGN}) char mark[{marks.MARK_BYTES}]; int64_t bytes; \\
  _Alignas({ALIGN}) char text[room]; }} name __attribute__((used))
MARKED(manifest, {len(manifest.encode())}) = {{"sirius manifest", {len(manifest.encode())},
    {json.dumps(manifest)}}};
MARKED(variables, {_HASH_ROOM}) = {{"sirius variables", {_HASH_ROOM}, "{variables_hash}"}};
MARKED(digests, {room}) = {{"sirius digests", {room}, {_quoted(_digests(kernels, digests))}}};
static const SiriusRegionInfo regions[] = {{{", ".join(rows)}}};
__asm__(".section .{_SECTION},\\"a\\",@nobits\\n.balign {ALIGN}\\n.zero {ALIGN}\\n"
        ".hidden sirius_weights\\n.globl sirius_weights\\n"
        "sirius_weights: .zero {size}\\n.text\\n");
extern const char sirius_weights[];
__attribute__((visibility("default"))) const SiriusBundle sirius_bundle = {{
    SIRIUS_ABI_VERSION, {len(kernels)}, regions, manifest.text, sizeof manifest.text,
    sirius_weights, {size}, variables.text}};
"""


def _digests(kernels: Sequence[Kernel], digests: Mapping[str, str]) -> str:
    """The digests of kernels one after the other, each with NULs up to its room."""
    found = [digests.get(kernel.program.name, "") for kernel in kernels]
    return "".join(digest.ljust(_DIGEST_ROOM, "\0") for digest in found)


def _quoted(text: str) -> str:
    """A string literal of C; escapes have three digits, since others may follow."""
    return '"' + text.replace("\0", "\\000") + '"'


def _region(kernel: Kernel, weights_offset: int, isas: Sequence[str], cuda: str) -> tuple[str, str]:
    """Declarations for the SiriusRegionInfo of a kernel, and its initializers but the digest."""
    program = kernel.program
    outputs = [program.tensor[o.tensor] for o in program.outputs]
    inputs = [program.tensor[n] for n in program.inputs]
    rows = {
        "in_rank": [len(t.shape) for t in inputs],
        "in_dtype": [_DATA_TYPE[t.dtype] for t in inputs],
        "out_rank": [len(o.shape) for o in program.outputs],
        "out_dtype": [_DATA_TYPE[t.dtype] for t in outputs],
        "out_late": [int(late) for late in late_outputs(program)],
    }
    name = program.name
    text = "".join(
        f"static const int32_t {name}_{key}[] = {{{', '.join(map(str, row or [0]))}}};\n"
        for key, row in rows.items()
    )
    messages = ", ".join(map(string, program.messages)) or "0"
    text += f"static const char *const {name}_messages[] = {{{messages}}};\n"
    runs = [f"{name}_run_{isa}" if isa in isas else "0" for isa in ISAS]
    text += f"{PLAN.format(name=name)};\n"
    late = any(late_outputs(program))
    text += f"{SHAPES.format(name=name)};\n" if late else ""
    text += "".join(f"void {name}_run_{isa}(SiriusCall *call, int32_t worker);\n" for isa in isas)
    tables = ", ".join(f"{name}_{key}" for key in rows if key != "out_late")
    shapes = f"{name}_shapes" if late else "0"
    return text, (
        f'"{name}", {len(inputs)}, {len(outputs)}, {len(program.params)}, {tables}, '
        f"{name}_plan, {{{', '.join(runs)}}}, {shapes}, {name}_out_late, {weights_offset}, {cuda}, "
        f"{name}_messages"
    )
