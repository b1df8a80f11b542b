# SPDX-License-Identifier: Apache-2.0
"""LoopNest -> C for one kernel: a `plan` and a `run` function (native/sirius_abi.h).

Every statement is printed as scalar code. The outermost parallel loop of a phase that has an
iteration for every worker is divided among them; a phase without one belongs to worker 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sirius_tf.codegen import scalar
from sirius_tf.codegen.nest import Block, Bound, Guard, Loop, LoopNest, Phase, Run
from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import Expr, Load, substitute
from sirius_tf.ir.program import Program, Statement, Tensor

ALIGN = 64  # bytes, of every array in the workspace and among the weights
Window = tuple[int | None, ...]


@dataclass(frozen=True)
class Kernel:
    """A program with its loops and with the slots kept of its temporaries (schedule/storage.py)."""

    program: Program
    nest: LoopNest
    windows: Mapping[str, Window]


def print_run(kernel: Kernel, threads: int = 2) -> str:
    """The SPMD function `<name>_run`, for one instruction set (macro SIRIUS_ISA names it)."""
    return _Printer(kernel, threads).run()


def print_plan(kernel: Kernel) -> str:
    """`<name>_plan`: checks the inputs, then parameters, output shapes and workspace."""
    program = kernel.program
    body = []
    for number, name in enumerate(program.inputs):
        for axis, extent in enumerate(program.tensor[name].shape):
            if extent.is_const:
                body += _require(
                    f"in[{number}].dims[{axis}] == {extent.const}",
                    f"input {name} has extent %lld on axis {axis}, not {extent.const}",
                    f"in[{number}].dims[{axis}]",
                )
    for number, param in enumerate(program.params):
        body.append(f"const int64_t {param.name} = {_entry(program, param.value)};")
        body.append(f"params[{number}] = {param.name};")
        body += _require(
            f"{param.name} >= {param.minimum}",
            f"{param.name} is %lld, less than {param.minimum}",
            param.name,
        )
    for number, name in enumerate(program.inputs):
        for axis, extent in enumerate(program.tensor[name].shape):
            if not extent.is_const:
                body += _require(
                    f"in[{number}].dims[{axis}] == {scalar.index(extent)}",
                    f"input {name} has extent %lld on axis {axis}, not %lld",
                    f"in[{number}].dims[{axis}], {scalar.index(extent)}",
                )
    for check in program.checks:
        body += _require(_entry(program, check.condition), check.message.replace("%", "%%"), "0")
    for number, output in enumerate(program.outputs):
        for axis, size in enumerate(output.shape):
            body.append(f"out_dims[{number}][{axis}] = {_entry(program, size)};")
    sizes = [_bytes(kernel, t) for t in program.tensors if t.role == "temp"]
    work = " + ".join(_points(s) for s in program.statements) or "0"
    body.append(f"*workspace_bytes = {' + '.join(sizes) or '0'};")
    body += [f"*work = {work};", "(void)in; (void)threads; (void)params; (void)error;", "return 0;"]
    head = (
        f"int32_t {program.name}_plan(const SiriusTensor *in, int32_t threads, int64_t *params,\n"
        "    int64_t (*out_dims)[SIRIUS_MAX_RANK], int64_t *workspace_bytes, int64_t *work,\n"
        "    SiriusError *error) {\n"
    )
    return head + "".join(f"  {line}\n" for line in body) + "}\n"


def weight_offsets(program: Program) -> dict[str, int]:
    """Byte offset of each constant among the bundle's weights, and the total under ''."""
    offsets, end = {}, 0
    for t in program.tensors:
        if t.role == "constant":
            assert t.value is not None
            offsets[t.name] = end
            end += -(-t.value.nbytes // ALIGN) * ALIGN
    return offsets | {"": end}


def _require(condition: str, message: str, arguments: str) -> list[str]:
    failure = f"*error = (SiriusError){{{scalar.string(message)}, {{{arguments}}}}};"
    return [f"if (!({condition})) {{ {failure} return 1; }}"]


def _entry(program: Program, value: Expr) -> str:
    """An expression of entry time: loads read the inputs themselves."""
    inputs = {name: number for number, name in enumerate(program.inputs)}

    def address(load: Load) -> str:
        t = program.tensor[load.tensor]
        flat = scalar.flat([affine(i) for i in load.index if isinstance(i, Affine)], t.shape)
        return f"((const {scalar.TYPES[t.dtype]} *)in[{inputs[load.tensor]}].data)[{flat}]"

    return scalar.expression(value, address, inputs)


def _bytes(kernel: Kernel, t: Tensor) -> str:
    slots = kernel.windows.get(t.name, (None,) * len(t.shape))
    extents = [
        scalar.index(e) if w is None else str(w) for e, w in zip(t.shape, slots, strict=True)
    ]
    count = " * ".join(f"({e})" for e in extents) or "1"
    return f"(({count}) * (int64_t)sizeof({scalar.TYPES[t.dtype]}) + {ALIGN - 1} & -{ALIGN})"


def _points(s: Statement) -> str:
    return " * ".join(f"({scalar.index(i.extent)})" for i in s.all_iters) or "1"


class _Printer:
    def __init__(self, kernel: Kernel, threads: int) -> None:
        self.kernel = kernel
        self.program = kernel.program
        self.statements = {s.name: s for s in kernel.program.statements}
        self.threads = threads

    def run(self) -> str:
        lines = [f"void SIRIUS_NAME({self.program.name}_run)(SiriusCall *call, int32_t worker) {{"]
        for k, p in enumerate(self.program.params):
            lines.append(f"  const int64_t {p.name} = call->params[{k}];")
        lines += [f"  {line}" for line in self.arrays()]
        lines += self.node(self.kernel.nest, "  ")
        names = [p.name for p in self.program.params]
        names += [t.name for t in self.program.tensors] + ["worker"]
        lines.append("  " + " ".join(f"(void){n};" for n in names))
        return "\n".join([*lines, "}", ""])

    def arrays(self) -> list[str]:
        """A pointer for every tensor; temporaries lie one after the other in the workspace."""
        inputs = {n: k for k, n in enumerate(self.program.inputs)}
        outputs = {o.tensor: k for k, o in enumerate(self.program.outputs)}
        offsets = weight_offsets(self.program)
        lines = ["char *workspace = call->workspace;"]
        for t in self.program.tensors:
            c_type = scalar.TYPES[t.dtype]
            if t.role == "input":
                lines.append(f"const {c_type} *{t.name} = call->in[{inputs[t.name]}].data;")
            elif t.role == "output":
                lines.append(f"{c_type} *{t.name} = call->out[{outputs[t.name]}];")
            elif t.role == "constant":
                where = f"(call->weights + {offsets[t.name]})"
                lines.append(f"const {c_type} *{t.name} = (const {c_type} *){where};")
            else:
                lines.append(f"{c_type} *{t.name} = ({c_type} *)workspace;")
                lines.append(f"workspace += {_bytes(self.kernel, t)};")
        return [*lines, "(void)workspace;"]

    def node(self, nest: LoopNest, pad: str, divide: bool = False) -> list[str]:
        match nest:
            case Block(parts):
                return [line for part in parts for line in self.node(part, pad, divide)]
            case Phase(body):
                if _divisible(body):
                    lines = self.node(body, pad, divide=True)
                else:
                    lines = [f"{pad}if (worker == 0) {{", *self.node(body, pad + "  "), f"{pad}}}"]
                return [*lines, f"{pad}sirius_barrier(call);"]
            case Loop():
                return self.loop(nest, pad, divide)
            case Guard(conditions, body, otherwise):
                test = " && ".join(f"{scalar.index(c)} >= 0" for c in conditions)
                lines = [f"{pad}if ({test}) {{", *self.node(body, pad + "  "), f"{pad}}}"]
                if otherwise:
                    lines += [f"{pad}else {{", *self.node(otherwise, pad + "  "), f"{pad}}}"]
                return lines
            case Run(statement, iters):
                return [pad + line for line in self.statement(statement, iters)]

    def loop(self, loop: Loop, pad: str, divide: bool) -> list[str]:
        here = divide and loop.parallel and self.enough(loop)
        inner = divide and not here and isinstance(loop.body, Loop) and loop.body.parallel
        if divide and not here and not inner:
            here = True
        first, end = _bound("max", loop.lower), _bound("min", loop.upper)
        lines = []
        if here:
            lines.append(f"{pad}const int64_t {loop.var}_n = {end} - ({first});")
            share = f"{loop.var}_n * %s / call->threads"
            end = f"({first}) + {share % '(worker + 1)'}"
            first = f"({first}) + {share % 'worker'}"
        lines.append(
            f"{pad}for (int64_t {loop.var} = {first}; {loop.var} < {end}; "
            f"{loop.var} += {loop.step}) {{"
        )
        lines += [*self.node(loop.body, pad + "  ", inner), f"{pad}}}"]
        return [f"{pad}{{", *lines, f"{pad}}}"] if here else lines

    def enough(self, loop: Loop) -> bool:
        """The loop has an iteration for every worker at the sizes of the samples."""
        hints = self.program.hints
        try:
            return loop.upper.terms[0].evaluate(hints) >= self.threads
        except KeyError:  # the bound of a loop inside another
            return True

    def statement(self, name: str, values: tuple[Affine, ...]) -> list[str]:
        s = self.statements[name]
        point = {i.name: v for i, v in zip(s.iters, values, strict=True)}
        local: dict[str, Affine] = {}
        if s.reduce:
            local = {i.name: symbol(f"r_{i.name}") for i in s.reduce.iters}
        value = scalar.expression(substitute(s.value, {**point, **local}), self.address, {})
        target = self.element(s.target, tuple(i.substitute(point) for i in s.index))
        if not s.reduce:
            return [f"{target} = {value};"]
        dtype = self.program.tensor[s.target].dtype
        c_type = scalar.TYPES[dtype]
        lines = [f"{{ {c_type} sum = {scalar.identity(s.reduce.op, dtype)};"]
        for i in s.reduce.iters:
            lines.append(
                f"for (int64_t r_{i.name} = 0; r_{i.name} < {scalar.index(i.extent)}; ++r_{i.name})"
            )
        combined = scalar.apply(s.reduce.op, ["sum", value], dtype)
        return [*lines, f"  sum = {combined};", f"{target} = sum; }}"]

    def address(self, load: Load) -> str:
        return self.element(
            load.tensor,
            tuple(
                i if isinstance(i, Affine) else scalar.expression(i, self.address, {})
                for i in load.index
            ),
        )

    def element(self, tensor: str, index: tuple[Affine | str, ...]) -> str:
        t = self.program.tensor[tensor]
        slots = self.kernel.windows.get(tensor, (None,) * len(index))
        kept: list[Affine | str] = []
        shape: list[Affine] = []
        for i, extent, slot in zip(index, t.shape, slots, strict=True):
            kept.append(i if slot is None or isinstance(i, str) else i % slot)
            shape.append(extent if slot is None else affine(slot))
        return f"{tensor}[{scalar.flat(kept, shape)}]"


def _divisible(body: LoopNest) -> bool:
    return isinstance(body, Loop) and body.parallel


def _bound(function: str, bound: Bound) -> str:
    texts = [scalar.index(t) for t in bound.terms]
    result = texts[0]
    for text in texts[1:]:
        result = f"sirius_{function}_i64({result}, {text})"
    return result
