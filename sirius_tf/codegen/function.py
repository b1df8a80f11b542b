# SPDX-License-Identifier: Apache-2.0
"""A leaf as a function: what it takes, and the loops of its reduction, in any C-like language."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from sirius_tf.codegen.context import Context, Isa
from sirius_tf.codegen.scalar import Language
from sirius_tf.ir.program import Iter, Program
from sirius_tf.nest.coalesce import Leaf
from sirius_tf.schedule.cpu_costs import MOST_UNROLLED
from sirius_tf.schedule.plan import Plan
from sirius_tf.schedule.storage import Storage


@dataclass(frozen=True)
class Function:
    """C of a leaf: `text` without the name; what to pass: tensors, then integers by name.

    `shared`: float32 elements of the memory that threads of a worker share, passed as `staged`.
    """

    text: str
    tensors: tuple[str, ...]
    integers: tuple[str, ...]
    shared: int = 0


class LeafPrinter(ABC):
    """Prints the function of a leaf: the part that all languages share; a language adds its own."""

    reports: ClassVar[str]
    """The parameter that helpers report failures to."""
    target: ClassVar[str]
    """The parameter for the tensor that is defined."""
    unrolled: ClassVar[str]
    """The line before a loop that is to be unrolled."""

    def __init__(
        self,
        program: Program,
        leaf: Leaf,
        plan: Plan,
        storage: Storage,
        isa: Isa,
        language: Language,
    ) -> None:
        self.box = {r.name: r for r in leaf.box}
        self.ctx = Context(program, leaf.statement, plan, isa, storage, self.box, language)
        self.program, self.s, self.plan, self.isa = program, leaf.statement, plan, isa
        self.reduced = tuple(self.s.reduce.iters) if self.s.reduce else ()
        self.dtype = program.tensor[self.s.target].dtype
        self.staged = 0  # float32 elements of the memory that threads of a worker share

    @abstractmethod
    def body(self) -> list[str]:
        """The lines inside of the function."""

    def function(self) -> Function:
        """The whole leaf."""
        body = self.body()
        arguments = [self.declare(name, alias) for name, alias in self.ctx.tensors.items()]
        integers = list(self.ctx.integers)
        for r in self.box.values():
            integers += [a for a in r.arguments if a not in integers]
        fixed = [i.name for i in self.s.iters if i.name not in self.box]
        integers += [name for name in fixed if name not in integers]
        names = [self.ctx.integers.get(name, name) for name in integers]
        staged = ["float *staged"] if self.staged else []
        parameters = [self.reports, *staged, *arguments, *(f"int64_t {n}" for n in names)]
        unused = " ".join(f"(void){n};" for n in [self.ctx.language.report, *names])
        lines = [f"({', '.join(parameters)}) {{", *indented([unused, *body]), "}"]
        return Function("\n".join(lines), tuple(self.ctx.tensors), tuple(integers), self.staged)

    def declare(self, tensor: str, alias: str) -> str:
        """The parameter of a tensor."""
        c_type = self.ctx.language.types[self.program.tensor[tensor].dtype]
        own = self.ctx.is_written(tensor)
        return self.target.format(c_type=c_type, alias=alias) if own else f"const {c_type} *{alias}"

    def loops(self, iters: Sequence[Iter], body: list[str]) -> list[str]:
        """Loops around lines; short ones are unrolled, since neighbours read much of the same.

        Vectors that are gathered share nothing, and each takes the compiler many instructions.
        """
        points = 1 + MOST_UNROLLED * any("sr_strided_" in line for line in body)
        for i in reversed(iters):
            name, size = i.name, self.ctx.integer(i.extent)
            head = f"for (int64_t {name} = 0; {name} < {size}; ++{name}) {{"
            body = [head, *indented(body), "}"]
            points *= i.extent.const if i.extent.is_const else MOST_UNROLLED + 1
            if points <= MOST_UNROLLED:
                body.insert(0, self.unrolled)
        return body


def indented(lines: Sequence[str]) -> list[str]:
    """The lines, one level further in."""
    return [f"  {line}" for line in lines]
