# SPDX-License-Identifier: Apache-2.0
"""Mutants that tests have missed once, by what they break, each with the tests that notice it."""

from tests.mutation.mutant import Mutant

STORAGE, DIFFERENCE, BLOCK = (
    "sirius_tf/schedule/storage.py",
    "sirius_tf/rewrite/difference.py",
    "sirius_tf/codegen/block.py",
)
CHECK, SESSION, OP = (
    "sirius_tf/rewrite/check.py",
    "sirius_tf/rewrite/session.py",
    "sirius_tf/native/tf_op.c",
)
GATE = ("tests/driver/test_gate.py",)
SCALARS = ("tests/codegen/test_scalars.py",)
OF_STORAGE = ("tests/schedule/test_storage.py",)
OF_DIFFERENCE = ("tests/rewrite/test_difference.py",)
OF_CHECK = ("tests/rewrite/test_check.py",)
OF_OP = ("tests/runtime/test_op.py",)


def change(name: str, file: str, before: str, after: str, *tests: str) -> Mutant:
    """A mutant of a line, or lines, that the file has once."""
    return Mutant(file, before, after, name=name, tests=tests)


KNOWN = (
    # memory and its verification
    change("slots-same-phase", STORAGE, "if end < life", "if end <= life", *OF_STORAGE),
    change("condition-window", STORAGE, "(w + 1 if w is not", "(w if w is not", *OF_STORAGE),
    change(
        "conditions-share",
        STORAGE,
        "    life |= dict.fromkeys(program.conditions & life.keys(), (0, len(life) + len(when)))\n",
        "",
        *OF_STORAGE,
    ),
    change(
        "reflow-subset",
        "sirius_tf/schedule/verify.py",
        "actual.is_equal(wanted)",
        "actual.is_subset(wanted)",
        "tests/schedule/test_schedule.py",
    ),
    change("cells-after", "sirius_tf/schedule/verify.py", "after=False", "after=True", *OF_STORAGE),
    change(
        "private-copies",
        "sirius_tf/codegen/entry.py",
        "language.times(threads, size) if name in kernel.storage.private else size",
        "size",
        "tests/codegen/test_sanitizers.py",
    ),
    change(
        "workspace-too-small",
        "sirius_tf/native/workspace.c",
        "has >= bytes && ",
        "",
        "tests/runtime/test_memory.py",
    ),
    change(
        "plan-one-worker",
        "sirius_tf/native/call.c",
        "plan(r->in, threads, r->params",
        "plan(r->in, 1 + 0 * threads, r->params",
        "tests/codegen/test_sanitizers.py",
    ),
    # workers
    change(
        "barrier-gone",
        "sirius_tf/native/sirius_barrier.h",
        "  if (threads <= 1) return;\n",
        "  if (threads <= 99) return;\n",
        "tests/codegen/test_c.py",
    ),
    change(
        "helped-tile",
        "sirius_tf/codegen/cpu/kernel.py",
        "whose, turn)) < end{self",
        "whose, turn)) < end - (k > 0){self",
        "tests/schedule/test_private.py",
    ),
    change(
        "denormals-leak",
        "sirius_tf/native/team.c",
        "{ _mm_setcsr(state); }",
        "{ (void)state; }",
        "tests/runtime/test_team.py",
    ),
    change(
        "denormals-worker",
        "sirius_tf/native/team.c",
        "  sirius_flush_denormals();\n",
        "",
        "tests/runtime/test_team.py",
    ),
    change(
        "threads-env",
        "sirius_tf/native/environment.c",
        "  if (settings.wanted) return settings.wanted;\n",
        "",
        "tests/runtime/test_team.py",
    ),
    change(
        "isa-env",
        "sirius_tf/native/isa.c",
        'wanted && strcmp(wanted, "v3") == 0',
        "wanted && 0",
        "tests/runtime/test_runtime.py",
    ),
    # the gate
    change(
        "nan-error-check",
        DIFFERENCE,
        "(same and np.isfinite(a[finite]).all())",
        "same",
        *OF_DIFFERENCE,
    ),
    change(
        "tolerance-x1000",
        DIFFERENCE,
        "all(error <= tolerance ",
        "all(error <= 1000 * tolerance ",
        *OF_DIFFERENCE,
    ),
    change(
        "relerr-ints",
        DIFFERENCE,
        'return 0.0 if np.array_equal(got, want) else float("inf")',
        "return 0.0",
        *OF_DIFFERENCE,
    ),
    change(
        "session-nan",
        SESSION,
        "        for edge in compared.wrong:\n",
        "        for edge in filter(lambda e: np.isfinite(compared.errors[e]), compared.wrong):\n",
        *GATE,
    ),
    change("session-equal", SESSION, "in compared.wrong:", "in ():", *GATE),
    change("compare-nothing", CHECK, "in compared.wrong:", "in ():", *OF_CHECK),
    change("objects-not-compared", CHECK, "(objects or {}).items()", "{}.items()", *OF_CHECK),
    change(
        "strict-fallback",
        "sirius_tf/driver/steps.py",
        "        if options.strict_math:\n",
        "        if True:\n",
        *GATE,
    ),
    change(
        "refresh-same",
        "sirius_tf/driver/new_weights.py",
        "old if same else None",
        "old",
        "tests/driver/test_optimize.py",
        "-k=new_weights",
    ),
    change(
        "output-parent",
        "sirius_tf/rewrite/output.py",
        "any(_is_within(place, target) for place in _places(source))",
        "False",
        "tests/rewrite/test_output.py",
    ),
    # passes
    change(
        "share-ignores-guards",
        "sirius_tf/transform/simplify.py",
        "program.tensor[name].dtype, s.guards)",
        "program.tensor[name].dtype)",
        "tests/transform/test_simplify.py",
    ),
    change(
        "forward-guarded",
        "sirius_tf/transform/simplify.py",
        "len(uses.writers[s.target]) == 1 and s.target not in uses.readers",
        "s.target not in uses.readers",
        "tests/transform/test_simplify.py",
    ),
    change(
        "scale-of-max",
        "sirius_tf/transform/scale_weights.py",
        'reduce.op != "add" or s.finish is None',
        "s.finish is None",
        "tests/transform/test_scale_weights.py",
    ),
    change(
        "winograd-guards",
        "sirius_tf/transform/winograd.py",
        "s.guards or s.reduce is None",
        "s.reduce is None",
        "tests/transform/test_winograd.py",
    ),
    change(
        "reroll-initial",
        "sirius_tf/transform/reroll.py",
        "if (before.iters, before.value) != (copy.iters, copy.value):",
        "if before.iters != copy.iters:",
        "tests/transform/test_reroll.py",
    ),
    change(
        "reroll-lag",
        "sirius_tf/transform/reroll.py",
        "run.first + lag.const < writer.end and",
        "run.first + lag.const + 1 < writer.end and",
        "tests/transform/test_random_cells.py",
    ),
    change(
        "split-own-iter",
        "sirius_tf/transform/split_dims.py",
        "return own and sum(name in set(i.names()) for i in s.index) == 1",
        "return own",
        "tests/transform/test_split_dims.py",
    ),
    change(
        "rowsums-guards",
        "sirius_tf/transform/lookup_sums.py",
        "if source.guards and not under_guards(source, s, load):",
        "if False:",
        "tests/transform/test_lookup_sums.py",
    ),
    # effects
    change(
        "waits-effects",
        "sirius_tf/rewrite/regions.py",
        "return {c for c in controls if c not in left and has_effect(graph, graph.by_name[c])}",
        "return set()",
        "tests/rewrite/test_regions.py",
    ),
    change(
        "substitute-effects",
        "sirius_tf/rewrite/substitute.py",
        "and has_effect(self._graph, self._graph.by_name[c])",
        "and False",
        "tests/rewrite/test_substitute.py",
    ),
    # the op
    change("op-rank-guard", OP, "if (rank > SIRIUS_MAX_RANK)", "if (rank > 99)", *OF_OP),
    change(
        "op-many-outputs",
        OP,
        "n_in > STACK_INPUTS || n_out > STACK_OUTPUTS",
        "n_in > STACK_INPUTS",
        *OF_OP,
    ),
    change("op-matches", OP, "if (kernel->out_dtype[i] == region->out_dtype[i])", "", *OF_OP),
    # generated code
    change(
        "late-empty-table",
        BLOCK,
        "        if not sizes:\n",
        "        if True:\n",
        "tests/codegen/test_sanitizers.py",
        "-k=table_without_rows",
    ),
    change(
        "exit-failed",
        BLOCK,
        'return f" && !{self.language.failed}" if ends else ""',
        'return ""',
        "tests/lower/test_decisions.py",
        "-k=comes_to_an_end",
    ),
    change(
        "strided-scalar",
        BLOCK,
        '            text = f"sr_strided_',
        '            raise NotVectorizableError("")\n            text = f"sr_strided_',
        "tests/codegen/test_leaf.py",
    ),
    change(
        "pins-bound",
        "sirius_tf/codegen/cpu/leaf.py",
        "{r.name} >= {r.lo} + {r.n}",
        "{r.name} > {r.lo} + {r.n}",
        "tests/lower/test_inplace.py",
    ),
    change(
        "nan-max",
        "sirius_tf/codegen/scalar.py",
        " | ({a} != {a}) ?",
        " ?",
        *SCALARS,
    ),
    change(
        "intmin-div",
        "sirius_tf/codegen/scalar.py",
        "return b == -1 ? (int64_t)(0 - (uint64_t)a) : a / b;",
        "return a / b;",
        *SCALARS,
    ),
    change(
        "dim-equal",
        "sirius_tf/codegen/entry.py",
        "].dims[{axis}] == {size}",
        "].dims[{axis}] >= {size}",
        *SCALARS,
    ),
    change(
        "crowded-store",
        "sirius_tf/native/request.c",
        "  if (failure->format)\n",
        "  if (failure->format || 1)\n",
        "tests/lower/test_assertions.py",
    ),
    # the cache
    change(
        "cache-corrupt",
        "sirius_tf/bundle/store.py",
        " and _is_whole(file, kind, name)",
        "",
        "tests/bundle/test_store.py",
    ),
    change(
        "cache-headers",
        "sirius_tf/bundle/cache.py",
        "        digest.update(header.read_bytes())\n",
        "        pass\n",
        "tests/bundle/test_link.py",
    ),
)
