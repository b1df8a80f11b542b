# SPDX-License-Identifier: Apache-2.0
"""Mutants of C, line by line: the same changes as those of Python, and only what compiles."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sirius_tf.bundle import cc
from tests.mutation.mutant import Mutant, replaced

#: Tokens, which clang-format puts between spaces, and what takes their place.
TOKENS = {
    " < ": (" <= ", " >= "),
    " <= ": (" < ", " > "),
    " > ": (" >= ", " <= "),
    " >= ": (" > ", " < "),
    " == ": (" != ",),
    " != ": (" == ",),
    " && ": (" || ",),
    " || ": (" && ",),
    " + ": (" - ",),
    " - ": (" + ",),
    " * ": (" / ",),
    " / ": (" * ",),
    " += ": (" -= ",),
    " & ": (" | ",),
    " | ": (" & ",),
}
TOKEN = re.compile("|".join(map(re.escape, TOKENS)))
NUMBER = re.compile(r"(?<![\w.])\d+(?![\w.])")
CONDITION = re.compile(r"(?<=\bif )\((?=.*\))|(?<=\bwhile )\((?=.*\))")
RETURN = re.compile(r"(?<=\breturn )(?!0;)[^;]+(?=;)")
STATEMENT = re.compile(
    r"(?<=^ {2})\s*(?!return|goto)[\w.\->\[\]*]+( [-+|&]?= [^;]*|\([^;]*\));$", re.M
)
FLAGS = ("-march=x86_64_v3", "-std=gnu11", "-w", "-O0")
SILENT = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|^#[^\n]*(?:\\\n[^\n]*)*', re.S | re.M)


def mutants(file: str, text: str) -> Iterator[Mutant]:
    """Every mutant of a file, whether it compiles or not."""
    code = SILENT.sub(lambda m: re.sub(r"[^\n]", "\0", m[0]), text)
    for match in TOKEN.finditer(code):
        for token in TOKENS[match[0]]:
            yield replaced(file, text, *match.span(), token)
    for match in NUMBER.finditer(code):
        yield replaced(file, text, *match.span(), str(int(match[0]) + 1))
    for match in CONDITION.finditer(code):
        end = closing(code, match.start())
        yield replaced(file, text, match.start(), end, f"(!{text[match.start() : end]})")
    for match in RETURN.finditer(code):
        yield replaced(file, text, *match.span(), "0")
    for match in STATEMENT.finditer(code):
        yield replaced(file, text, *match.span(), ";")


def closing(code: str, start: int) -> int:
    """The place after the parenthesis that closes the one at `start`."""
    depth = 0
    for k in range(start, len(code)):
        depth += {"(": 1, ")": -1}.get(code[k], 0)
        if not depth:
            return k + 1
    raise ValueError("an open parenthesis")


def compiles(root: Path, mutant: Mutant) -> bool:
    """Whether clang takes the mutated file, or header."""
    path = root / mutant.file
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "mutant.c")
        source.write_text(mutant.applied(path.read_text()))
        try:
            cc.compile_object(source, Path(folder, "mutant.o"), [*FLAGS, f"-I{path.parent}"])
        except cc.CompilerError:
            return False
    return True
