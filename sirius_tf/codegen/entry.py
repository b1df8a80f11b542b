# SPDX-License-Identifier: Apache-2.0
"""Entry of a kernel, in C: its `plan`, and the places of its arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from sirius_tf.codegen import scalar
from sirius_tf.codegen.scalar import Language
from sirius_tf.ir.affine import Affine, FloorDiv, affine, symbol
from sirius_tf.ir.expr import Call, Expr, Index, Load, loads
from sirius_tf.ir.program import UNBOUNDED, Program, Statement, Tensor
from sirius_tf.nest.nodes import Bound, Loop, LoopNest, Phase, parts_of
from sirius_tf.nest.scheduled import Scheduled
from sirius_tf.schedule.cpu_costs import WORTH_A_BARRIER
from sirius_tf.schedule.storage import ALIGN

PLAN = """\
int32_t {name}_plan(const SiriusTensor *in, int32_t threads, int64_t *params,
    int64_t (*out_dims)[SIRIUS_MAX_RANK], int64_t workspace_bytes[2], int64_t *work,
    SiriusError *error)"""
SHAPES = "void {name}_shapes(const int64_t *params, int64_t (*out_dims)[SIRIUS_MAX_RANK])"
GROWN = 1 << 43  # bytes of addresses for a tensor that loops make until data ends them


def late_outputs(program: Program) -> tuple[bool, ...]:
    """Whether the shape of each output is known after the run only: it depends on data."""
    late = program.exits.keys()
    shapes = (program.tensor[o.tensor].shape for o in program.outputs)
    return tuple(any(late & set(e.names()) for e in shape) for shape in shapes)


def plan_reads(program: Program) -> tuple[int, ...]:
    """Numbers of the inputs of which plan reads elements, and not the shape alone."""
    values: list[Expr] = [p.value for p in program.params]
    values += [c.condition for c in program.checks]
    values += [size for o in program.outputs for size in o.shape]
    read = {load.tensor for value in values for load in loads(value)}
    return tuple(k for k, name in enumerate(program.inputs) if name in read)


def print_plan(kernel: Scheduled) -> str:
    """`<name>_plan`: checks the inputs, then parameters, output shapes and workspace.

    Where data decides shapes, these are upper bounds; `<name>_shapes` then says what they became.
    """
    program = kernel.program
    body = ["SiriusCall local = {0}, *const call = &local; /* what helpers report to */"]
    body += ["int32_t overflow = 0;"]
    for number, name in enumerate(program.inputs):
        for axis, extent in enumerate(program.tensor[name].shape):
            if extent.is_const:
                body += _require(
                    f"in[{number}].dims[{axis}] == {extent.const}",
                    f"input {name} has extent %lld on axis {axis}, not {extent.const}",
                    f"in[{number}].dims[{axis}]",
                )
    for number, param in enumerate(program.params):
        value = nested("min", [_entry(program, param.value), *_room(kernel, number)])
        body.append(f"const int64_t {param.name} = {value};")
        body.append(f"params[{number}] = {param.name};")
        if param.minimum > UNBOUNDED:
            body += _require(
                f"{param.name} >= {param.minimum}",
                f"{param.name} is %lld, less than {param.minimum}",
                param.name,
            )
    for number, name in enumerate(program.inputs):
        for axis, extent in enumerate(program.tensor[name].shape):
            if not extent.is_const:
                size = _sizes.index(extent)
                body += _require(
                    f"in[{number}].dims[{axis}] == {size}",
                    f"input {name} has extent %lld on axis {axis}, not %lld",
                    f"in[{number}].dims[{axis}], {size}",
                )
    for check in program.checks:
        body += _require(_entry(program, check.condition), check.message.replace("%", "%%"), "0")
    body += [line for t in program.tensors for line in _require_sizes(kernel, t)]
    body += _output_shapes(program)
    body += _require("overflow == 0", "a size does not fit into 64 bits", "0")
    body.append(f"workspace_bytes[0] = {_total(slot_bytes(kernel, 'threads', _sizes))};")
    body.append(f"workspace_bytes[1] = {_certain_bytes(kernel)};")
    body.append("if (overflow) workspace_bytes[0] = workspace_bytes[1] = -1;")
    body += [f"*work = {_work(kernel)};", "(void)in; (void)threads; (void)params;"]
    body += ["if (call->failed) *error = call->error;", "return call->failed;"]
    lines = "".join(f"  {line}\n" for line in body)
    return f"{PLAN.format(name=program.name)} {{\n{lines}}}\n{_print_shapes(program)}"


def _output_shapes(program: Program) -> list[str]:
    return [
        f"out_dims[{number}][{axis}] = {_entry(program, size)};"
        for number, output in enumerate(program.outputs)
        for axis, size in enumerate(output.shape)
    ]


def _require_sizes(kernel: Scheduled, t: Tensor) -> Iterator[str]:
    """No extent is negative of what a call allocates, and each fits into 64 bits.

    The extents of a tensor that is defined under guards may be, where these do not hold.
    """
    program = kernel.program
    if t.role not in ("temp", "output") or t.name in program.guarded:
        return
    for extent in dict.fromkeys((*t.shape, *kernel.storage.shape(t))):
        if not _is_nonnegative(program, extent):
            size = _sizes.index(extent)
            yield from _require(f"{size} >= 0", f"a size of {t.name} is %lld, less than 0", size)


def _is_nonnegative(program: Program, extent: Affine) -> bool:
    """Whether an extent follows from sizes of inputs without any subtraction."""
    least = {p.name: p.minimum for p in program.params}
    if any(isinstance(key, FloorDiv) or least[key] < 0 or c < 0 for key, c in extent.terms):
        return False
    return extent.const >= 0


def _print_shapes(program: Program) -> str:
    if not any(late_outputs(program)):
        return ""
    body = [f"const int64_t {p.name} = params[{k}];" for k, p in enumerate(program.params)]
    body += ["SiriusCall local = {0}, *const call = &local;", "int32_t overflow = 0;"]
    body += _output_shapes(program)  # less than what plan allows
    body += [f"(void){p.name};" for p in program.params] + ["(void)call; (void)overflow;"]
    lines = "".join(f"  {line}\n" for line in body)
    return f"{SHAPES.format(name=program.name)} {{\n{lines}}}\n"


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
    """An expression of entry time: loads read the inputs themselves.

    One that lies outside of its input, whose size is checked later, is 0 until then.
    """
    inputs = {name: number for number, name in enumerate(program.inputs)}

    def address(load: Load) -> str:
        t = program.tensor[load.tensor]
        number, index = (
            inputs[load.tensor],
            [affine(i) for i in load.index if isinstance(i, Affine)],
        )
        element = (
            f"((const {scalar.C.types[t.dtype]} *)in[{number}].data)[{scalar.flat(index, t.shape)}]"
        )
        pairs = enumerate(zip(index, t.shape, strict=True))
        inside = [f"in[{number}].dims[{k}] > {i.const}" for k, (i, n) in pairs if not n.is_const]
        return f"({' && '.join(inside)} ? {element} : 0)" if inside else element

    return _sizes.expression(value, address, inputs)


class _Sizes(Language):
    """C of sizes that a request chooses: one that does not fit into 64 bits sets `overflow`.

    Arithmetic on elements of inputs wraps, as TensorFlow's does.
    """

    def expression(
        self, expr: Expr, address: Callable[[Load], str], inputs: Mapping[str, int]
    ) -> str:
        match expr:
            case Call("add" | "mul", (a, b), "int64") if not loads(expr):
                texts = [self.expression(x, address, inputs) for x in (a, b)]
                return self.plus(*texts) if expr.fn == "add" else self.times(*texts)
        return super().expression(expr, address, inputs)

    def index(self, value: Affine) -> str:
        return scalar.combined(value, self.index, self.plus, self.times)

    def plus(self, a: str, b: str) -> str:
        return f"sirius_add({a}, {b})"

    def times(self, a: str, b: str) -> str:
        return f"sirius_mul({a}, {b})"


_sizes = _Sizes()


def grown(kernel: Scheduled, t: Tensor) -> tuple[str, int] | None:
    """The trip count of the loop that makes rows of a tensor until data ends it, by name, and how
    many more rows than trips there are. None if no loop does.

        h[t + 1, i] = ...   for t < X, i < 16384, with X <= n     has X + 1 rows, not n + 1
    """
    if t.role != "temp" or not t.shape or t.name in kernel.storage.private:
        return None
    made = [s for s in kernel.program.statements if s.target == t.name]
    first = kernel.storage.shape(t)[0]
    for p in kernel.program.params:
        if p.exit is None or p.unlimited or not isinstance(p.value, Index):
            continue
        more = first - p.value.value
        if more.is_const and all(_stays_below(s, symbol(p.name), more.const) for s in made):
            return p.name, more.const
    return None


def _stays_below(s: Statement, trips: Affine, more: int) -> bool:
    """Whether all rows that a statement defines are below trips + more."""
    row = s.index[0]
    if row.is_const:
        return row.const < more
    beyond = [i.extent - trips for i in s.iters if row - symbol(i.name) == affine(row.const)]
    return any(b.is_const and b.const + row.const <= more for b in beyond)


def _room(kernel: Scheduled, number: int) -> list[str]:
    """C of the trips for which tensors have addresses, for each that grows with parameter `number`
    and has rows of a size that is known before."""
    before, found = {p.name for p in kernel.program.params[:number]}, list[str]()
    for t in kernel.program.tensors:
        trips, more = grown(kernel, t) or ("", 0)
        row = kernel.storage.shape(t)[1:]
        if trips == kernel.program.params[number].name and all(
            before >= set(e.names()) for e in row
        ):
            size = f"(int64_t)sizeof({_sizes.types[t.dtype]})"
            for extent in row:
                size = _sizes.times(size, _sizes.index(extent))
            rows = f"INT64_C({GROWN}) / sirius_max_i64({size}, 1)"
            found.append(f"sirius_max_i64({rows} - {more}, 1)")
    return found


def tensor_bytes(kernel: Scheduled, t: Tensor, language: Language = scalar.C) -> str:
    """C of the size of a tensor in the workspace."""
    shape, growth = kernel.storage.shape(t), grown(kernel, t)
    if growth:
        shape = (symbol(growth[0]) + growth[1], *shape[1:])
    extents = [language.index(e) for e in shape]
    if t.name in kernel.program.guarded:
        extents = [e if "-" not in e else f"sirius_max_i64({e}, 0)" for e in extents]
    size = f"(int64_t)sizeof({language.types[t.dtype]})"
    for extent in extents:
        size = language.times(size, extent)
    return f"({language.plus(size, str(ALIGN - 1))} & -{ALIGN})"


def slot_bytes(kernel: Scheduled, threads: str, language: Language = scalar.C) -> list[str]:
    """C of the size of each slot: that of its largest tensor, or of a copy for each worker."""
    members: dict[int, list[str]] = {}
    for name, slot in kernel.storage.slots.items():
        size = tensor_bytes(kernel, kernel.program.tensor[name], language)
        size = language.times(threads, size) if name in kernel.storage.private else size
        members.setdefault(slot, []).append(size)
    return [nested("max", list(dict.fromkeys(texts))) for _, texts in sorted(members.items())]


def nested(function: str, texts: list[str]) -> str:
    """C of the minimum or maximum of some integers."""
    result = texts[0]
    for text in texts[1:]:
        result = f"sirius_{function}_i64({result}, {text})"
    return result


def _certain_bytes(kernel: Scheduled) -> str:
    """C of the bytes of workspace, and of outputs whose shape data decides, that a call needs if
    each loop that data may end has one iteration."""
    program = kernel.program
    if not program.exits:
        return "workspace_bytes[0]"
    ends = [symbol(name) for name in program.exits]
    ends += [p.value.value for p in program.params if p.exit and isinstance(p.value, Index)]
    loops = {s.target for s in program.statements if program.exits.keys() & _trips(s)}

    def least(extent: Affine) -> Affine:
        beyond = ((extent - end) for end in ends)
        return next((affine(1 + e.const) for e in beyond if e.is_const), extent)

    def shrunk(t: Tensor) -> Tensor:
        known = t.role == "output" or t.name in loops or grown(kernel, t) is not None
        return replace(t, shape=tuple(map(least, t.shape))) if known else t

    one = replace(kernel, program=replace(program, tensors=tuple(map(shrunk, program.tensors))))
    outputs = [one.program.tensor[o.tensor] for o in program.outputs]
    late = [t for t, is_late in zip(outputs, late_outputs(program), strict=True) if is_late]
    sizes = [tensor_bytes(one, t, _sizes) for t in late]
    return _total(slot_bytes(one, "threads", _sizes) + sizes)


def _trips(s: Statement) -> set[str]:
    """The parameters that say how often the loops around a statement run."""
    return {name for i in s.iters if i.loop for name in i.extent.names()}


def _total(sizes: list[str]) -> str:
    return functools.reduce(_sizes.plus, sizes) if sizes else "0"


def bound_text(function: str, bound: Bound) -> str:
    """C of a loop's bound, of which `function` ("min" or "max") says which term counts."""
    return nested(function, [scalar.index(t) for t in bound.terms])


def _work(kernel: Scheduled) -> str:
    """C of the points that a call evaluates, less what its barriers cost several workers.

    An estimate: plan has refused sizes of which sums overflow.
    """
    program = kernel.program
    likely = {p.name: p.hint for p in program.params if p.exit and p.unlimited}
    points = [_product([i.extent for i in s.all_iters], likely) for s in program.statements]
    known = {p.name for p in program.params}
    phases = [
        _product([e for e in extents if known.issuperset(e.names())], likely)
        for extents in _phases(kernel.nest, ())
    ]
    total = f"{' + '.join(points) or '0'} - {WORTH_A_BARRIER}.0 * ({' + '.join(phases) or '0'})"
    return f"sirius_estimate({total})"


def _product(extents: Iterable[Affine], likely: Mapping[str, int]) -> str:
    """C of a product of extents in double, which cannot overflow."""
    return " * ".join(f"(double){scalar.index(e.substitute(likely))}" for e in extents) or "1.0"


def _phases(nest: LoopNest, extents: tuple[Affine, ...]) -> Iterator[tuple[Affine, ...]]:
    """For every phase the trip counts of the loops around it."""
    if isinstance(nest, Phase):
        yield extents
        return
    if isinstance(nest, Loop):
        extents = (*extents, nest.upper.terms[0] - nest.lower.terms[0])
    for part in parts_of(nest):
        yield from _phases(part, extents)
