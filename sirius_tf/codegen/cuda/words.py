# SPDX-License-Identifier: Apache-2.0
"""C of what blocks exchange in words (mapping/words.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sirius_tf.codegen import scalar
from sirius_tf.codegen.cuda.leaf import Points, ThreadPrinter
from sirius_tf.codegen.function import indented
from sirius_tf.ir.program import Statement
from sirius_tf.mapping.exchange import EVERY, Exchange
from sirius_tf.mapping.micro import Awaits
from sirius_tf.nest.coalesce import Leaf
from sirius_tf.nest.scheduled import Scheduled


class AwaitPrinter(ThreadPrinter):
    """The leaf that copies words: threads look for some at once, so that these travel together, and
    then again for those that were not there."""

    def __init__(self, kernel: Scheduled, leaf: Leaf, how: Awaits) -> None:
        super().__init__(kernel, leaf, how)
        self.at_once = how.at_once

    def body(self) -> list[str]:
        """A loop over the words of this thread."""
        n = self.numbers(list(self.box))
        to, words = self.address(self.s.target), self.address(_words_of(self.s))
        count = self.at_once
        time = self.ctx.integer(self.s.index[self.time])
        if count == 1:
            found = f"sirius_load_relaxed({words[1]})"
            lines = [*to[0], *words[0], f"sirius_await({to[1]}, {words[1]}, {found}, {time});"]
            return self.over("threadIdx.x", "blockDim.x", lines)
        stride = f"{count} * blockDim.x"
        check = f"if ({n.type} point = first + k * blockDim.x; point < {n.total}) "
        return [
            *n.before,
            f"const auto word = [&]({n.type} point) {{",
            *indented([*n.places, *words[0], f"return {words[1]};"]),
            "};",
            f"for ({n.type} first = threadIdx.x; first < {n.total}; first += {stride}) {{",
            f"  uint64_t found[{count}];",
            "  #pragma unroll",
            f"  for (int k = 0; k < {count}; ++k) {{",
            f"    {check}found[k] = sirius_load_relaxed(word(point));",
            "  }",
            "  #pragma unroll",
            f"  for (int k = 0; k < {count}; ++k) {{",
            f"    {check}{{",
            *indented(indented(indented([*n.places, *to[0]]))),
            f"      sirius_await({to[1]}, word(point), found[k], {time});",
            "    }",
            "  }",
            "}",
        ]

    @property
    def time(self) -> int:
        """The dimension of time: the one that is folded."""
        window = self.ctx.storage.window(self.program.tensor[_words_of(self.s)])
        return next(k for k, w in enumerate(window) if w is not None)

    def address(self, tensor: str) -> tuple[list[str], str]:
        """The lines before, and the address of a point's element."""
        block = Points(self.ctx, 1, 1, {}, ())
        pointer, offset = block.address(tensor, self.s.index, 0, 0)
        return block.before, f"{pointer} + {offset}"


def _words_of(s: Statement) -> str:
    return s.loads[0].tensor


def cleared(kernel: Scheduled, e: Exchange, pointers: Mapping[str, str]) -> list[str]:
    """C that forgets the words of earlier calls, but for where statements before the loop publish;
    `pointers` to the words by tensor."""
    lines = list[str]()
    for name, one in e.words.items():
        shape = kernel.storage.shape(kernel.program.tensor[kernel.storage.words[name].name])
        inner = " * ".join(["1", *(scalar.index(extent) for extent in shape[one.time + 1 :])])
        size = " * ".join(scalar.index(extent) for extent in shape)
        slots = (f"e / ({inner}) % {one.window} != {at}" for at in one.before)
        test = f"if ({' && '.join(slots)}) " if one.before else ""
        lines += [
            f"for (int64_t e = block * blockDim.x + threadIdx.x; e < {size}; "
            "e += blocks * blockDim.x) {",
            f"  {test}{pointers[name]}[e] = 0;",
            "}",
        ]
    return lines


def end_of_iteration(e: Exchange, barrier: str) -> list[str]:
    """C at the end of an iteration: a barrier, now and then."""
    if not e.words:
        return []
    return [
        f"// words are kept for {EVERY} iterations: no block may be further ahead",
        f"if (({e.var} + 1) % {EVERY} == 0) {barrier}",
    ]


def reason(e: Exchange, made: Iterable[str]) -> str:
    """Why a phase ends without a barrier, as a comment."""
    sent = [name for name in made if name in e.words]
    rest = "what is read here was made by the same block"
    if not sent:
        return f"// No barrier of the grid: {rest}"
    return f"// No barrier of the grid: {', '.join(sent)} travels in words; of the rest, {rest}"
