# SPDX-License-Identifier: Apache-2.0
"""The texts of stages in docs/*.md: fenced blocks below a comment that says what they are.

    <!-- lstm: split_dims of S3 S12 -->    lines of a pass that removes (-) or adds (+) statements
    <!-- lstm: schedule of S5 -->          the parts of a schedule tree that run a statement
    <!-- softmax: leaf S3 -->              the C function that computes a statement
    <!-- lstm: sum S5 -->                  the last loop over the terms of its sum
    <!-- gelu: bug powers -->              what a bisection says of a bug of tests/support/bugs.py

A whole stage is graph, program, a pass, schedule, plans, storage, loops, entry and run (functions
of C), or kernel (of CUDA).
"""

from __future__ import annotations

import functools
import re
import tempfile
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from sirius_tf.codegen.cpu.kernel import print_kernel
from sirius_tf.codegen.cuda.kernel import print_kernel as print_cuda
from sirius_tf.compile import allocate, laid_out, realize
from sirius_tf.debug.reproducer import Case
from sirius_tf.frontend.graph import Graph, show
from sirius_tf.frontend.graphdef import from_graph_def
from sirius_tf.ir import printer
from sirius_tf.ir.program import Program
from sirius_tf.lower.graph import lower
from sirius_tf.mapping.choose import choose_mapping
from sirius_tf.mapping.targets import machine_of
from sirius_tf.mapping.text import show as show_mapping
from sirius_tf.nest import nodes
from sirius_tf.nest.scheduled import Scheduled
from sirius_tf.pipeline import Step
from sirius_tf.poly.scop import extract
from sirius_tf.schedule import schedule as schedules
from sirius_tf.schedule.fuse import fuse
from sirius_tf.schedule.machine import CPU, Machine
from sirius_tf.schedule.schedule import Schedule, show_tree
from sirius_tf.schedule.tree import Sequence as Siblings
from tests.support import bugs
from tests.support.document_models import EXAMPLES, tf

WIDTH = 118
_BLOCK = re.compile(r"<!-- (\w+): ([^>]+?) -->\n(?:```\w*\n.*?\n```\n)?", re.DOTALL)
_COUNTED = re.compile(r"(_(?:cond|body))_\d+")
_C = ("leaf", "sum", "entry", "run", "kernel")
_PARTS = ("schedule", "plans", "storage")


def renewed(page: Path) -> str:
    """The page with the texts of its comments as the compiler prints them now."""

    def block(match: re.Match[str]) -> str:
        body = text(match[1], match[2])
        language = "c" if match[2].split()[0] in _C else "text"
        return f"<!-- {match[1]}: {match[2]} -->\n```{language}\n{body}\n```\n"

    return _BLOCK.sub(block, page.read_text())


def text(name: str, request: str) -> str:
    """The text of a stage of an example; StopIteration if there is no such stage."""
    stage, *rest = request.split()
    names = rest[1:] if rest[:1] == ["of"] else rest
    graph, program, steps = _passes(name)
    match stage:
        case "graph":
            shown = _graph(graph)
        case "program":
            shown = printer.show(program)
        case "schedule" | "plans" | "storage":
            shown = _schedule(name, stage, names)
        case "loops":
            shown = nodes.show(_scheduled(name)[0].nest)
        case "entry":
            shown = print_kernel(_scheduled(name)[0]).plan
        case "run":
            shown = _function(name, None)
        case "leaf":
            shown = _function(name, names[0])
        case "sum":
            shown = _sum(_function(name, names[0]))
        case "kernel":
            shown = _kernel(name)
        case "bug":
            shown = _bisection(names[0])
        case "mapping":
            shown = show_mapping(choose_mapping(_scheduled(name, True)[0]))
        case _:
            shown = "\n".join(_changes(next(s for s in steps if s.name == stage), names))
    return _wrapped(shown.rstrip("\n").split("\n"))


def case(name: str) -> Case:
    """The program of an example, with numbers for its inputs, as a case to bisect."""
    example, rng = EXAMPLES[name], np.random.default_rng(0)
    program = _passes(name)[1]
    arrays = [
        rng.integers(0, 8, i.shape).astype(i.dtype)
        if i.dtype == "int32"
        else rng.standard_normal(i.shape).astype(i.dtype)
        for i in example.inputs.values()
    ]
    inputs = dict(zip(program.inputs, arrays, strict=True))
    return Case(program, inputs, "sm_90" if example.cuda else "")


@functools.cache
def _passes(name: str) -> tuple[Graph, Program, tuple[Step, ...]]:
    example = EXAMPLES[name]
    specs = [tf.TensorSpec(i.spec.shape, i.dtype, n) for n, i in example.inputs.items()]
    concrete = tf.function(example.fn, input_signature=specs).get_concrete_function()
    names, outputs = ([t.name for t in tensors] for tensors in (concrete.inputs, concrete.outputs))
    graph = from_graph_def(concrete.graph.as_graph_def(), names, outputs, name)
    program = lower(graph, {n: i.shape for n, i in example.inputs.items()})
    steps = list[Step]()
    laid_out(program, _machine(name), watching=[steps.append])
    return graph, program, tuple(steps)


def _machine(name: str) -> Machine:
    return machine_of("sm_90") if EXAMPLES[name].cuda else CPU


@functools.cache
def _scheduled(name: str, cuda: bool = False) -> tuple[Scheduled, Schedule]:
    machine = machine_of("sm_90") if cuda else _machine(name)
    program, flows = laid_out(_passes(name)[1], machine)
    scop = extract(program)
    schedule = allocate(program, scop, fuse(program, flows, machine), machine)
    return realize(program, scop, flows, schedule, machine), schedule


# Stages, and parts of them


def _graph(graph: Graph) -> str:
    """The nodes without attributes, but for constants, which are left out."""
    lines = _COUNTED.sub(r"\1", show(graph)).splitlines()
    kept = (line for line in lines if " = Const(" not in line)
    return "\n".join(re.sub(r" \{.*\}:", ":", line) for line in kept)


def _changes(step: Step, names: Sequence[str]) -> Iterator[str]:
    """The statements that a pass removed and added, without their nodes; those of some names."""
    old, new = (
        {printer.show_statement(s).split("   # ")[0]: s.name for s in program.statements}
        for program in (step.before, step.after)
    )
    for sign, here, there in (("-", old, new), ("+", new, old)):
        for line, name in here.items():
            if line not in there and (not names or name in names):
                yield f"{sign} {line}"


def _schedule(name: str, part: str, names: Sequence[str]) -> str:
    """A part of a schedule; of its tree the children of the outermost node that run `names`."""
    schedule = _scheduled(name)[1]
    root = schedule.tree
    if names and isinstance(root, Siblings):
        return "".join(show_tree(c) for c in root.children if {*names} & {*c.statements})
    parts = re.split(r"^\w+:\n", schedules.show(schedule), flags=re.MULTILINE)[1:]
    return textwrap.dedent(parts[_PARTS.index(part)])


def _function(name: str, statement: str | None) -> str:
    """The function of a statement's leaf, or the one that calls them all."""
    source = print_kernel(_scheduled(name)[0]).runs["v3"]
    functions = re.findall(r"^(?:static|void) .*?^}$", source, re.DOTALL | re.MULTILINE)
    if statement is None:
        return functions[-1]
    leaf = re.search(rf"(\w+)\(.*\); /\* {statement} \*/", functions[-1])
    assert leaf is not None, f"{name} has no leaf of {statement}"
    return next(f for f in functions if f" {leaf[1]}(" in f)


def _sum(function: str) -> str:
    start = function[: function.rindex("for (int64_t r")].rindex("\n") + 1
    indent = function[start:].partition("for")[0]
    end = function.index(f"\n{indent}}}", start) + len(indent) + 2
    return textwrap.dedent(function[start:end])


def _kernel(name: str) -> str:
    source = print_cuda(_scheduled(name, cuda=True)[0]).source
    return source[source.index('extern "C"') :]


def _bisection(stage: str) -> str:
    """The text of a bisection where a stage has its bug."""
    bug = next(bug for bug in bugs.BUGS if bug.stage == stage)
    with tempfile.TemporaryDirectory() as folder:
        return bugs.said(bug, Path(folder))


def _wrapped(lines: Iterable[str]) -> str:
    """The lines, of which long ones go on below, further in; the domain of a statement does so."""
    made = []
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()))
        head, domain, tail = line.partition("   for ")
        parts = [line] if len(line) <= WIDTH else [head, domain + tail]
        for k, part in enumerate(part for part in parts if part):
            first = indent + "    " if k else ""
            made += textwrap.wrap(
                part.lstrip() if k else part,
                WIDTH,
                initial_indent=first,
                subsequent_indent=indent + "    ",
                break_long_words=False,
                break_on_hyphens=False,
            )
    return "\n".join(made)
