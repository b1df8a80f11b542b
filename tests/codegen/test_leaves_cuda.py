# SPDX-License-Identifier: Apache-2.0
"""CUDA of leaves, by its text: which thread has which points, and where it finds what it reads.

What the text computes of numbers that are not negative is computed here: `/` is `//` in Python.
"""

import re
from collections import Counter
from dataclasses import replace
from itertools import product

import pytest

from sirius_tf.codegen.cuda.leaf import ThreadPrinter
from sirius_tf.codegen.cuda.mma import ProductPrinter
from sirius_tf.codegen.cuda.staged import StagedPrinter
from sirius_tf.codegen.cuda.words import AwaitPrinter, cleared, end_of_iteration, reason
from sirius_tf.ir.affine import symbol
from sirius_tf.ir.program import Reduce
from sirius_tf.mapping.exchange import EVERY, Exchange, Exchanged
from sirius_tf.mapping.micro import Awaits, Products, Staged, Threads
from sirius_tf.mapping.targets import machine_of
from sirius_tf.mapping.tiling import Format, Tiling
from sirius_tf.nest.coalesce import Leaf
from sirius_tf.nest.nodes import Block, Range
from sirius_tf.nest.scheduled import Scheduled
from sirius_tf.schedule.plan import Plan
from sirius_tf.schedule.storage import Storage, Words
from tests.support.programs import B, b, call, dense, it, k, load, param, program, stmt, tensor

pytestmark = pytest.mark.ir

SUMS, ACROSS = Plan("n", "b"), Plan("k", across=True)


def printer(kind, made, how, sizes, plan=SUMS, storage=None):
    """The printer of the only statement of a program, over a box of some sizes."""
    (s,) = made.statements
    machine = machine_of("sm_90", "half")
    kernel = Scheduled(made, Block(()), {s.name: plan}, storage or Storage(), machine)
    return kind(kernel, Leaf(s, tuple(Range(n, 0, size, True) for n, size in sizes.items())), how)


def value(text, **names):
    """The value of an expression of C."""
    return eval(text.replace("/", "//").replace(".x", ""), {"min": min, **names})


def assigned(lines, **names):
    """The values of integers that are declared, one after the other."""
    found = dict(names)
    for line in lines:
        if match := re.fullmatch(r" *const (?:int|int64_t|bool) (.*);", line):
            for declared in re.split(r", (?=\w+ = )", match[1]):
                name, text = declared.split(" = ")
                found[name] = value(text, **found)
    return found


# Points of threads


@pytest.mark.parametrize(("rows", "lanes"), [(1, 1), (2, 4), (3, 1), (1, 3), (4, 5)])
def test_each_point_is_stored_by_one_thread(rows, lanes) -> None:
    """The last threads have fewer, where their number divides no side of the box."""
    made = printer(ThreadPrinter, dense(8, 16), Threads(rows, lanes), {"b": 5, "n": 16})
    numbers, stored = made.numbers(["b", "n"]), Counter()
    tests = [line for line in made.ends() if line.startswith("const bool")]
    steps = {n: step.const for n, step in made.steps().items()}
    for point in range(value(numbers.total)):
        at = assigned(numbers.places, point=point)
        at |= assigned(tests, **at)
        for r, j in product(range(rows), range(lanes)):
            if at.get(f"b_{r}_in", True) and at.get(f"n_{j}_in", True):
                stored[at["b"] + r * steps.get("b", 0), at["n"] + j * steps.get("n", 0)] += 1
    assert stored == Counter(product(range(5), range(16)))


def test_neighbouring_threads_have_neighbouring_lanes() -> None:
    made = printer(ThreadPrinter, dense(8, 16), Threads(1, 4), {"b": 5, "n": 16})
    places = [assigned(made.numbers(["b", "n"]).places, point=p) for p in range(4)]
    assert [at["n"] for at in places] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("depth", "turns", "test"), [(64, 2, False), (70, 3, True), (512, 16, False)]
)
def test_the_lanes_of_a_warp_have_each_term_once(depth, turns, test) -> None:
    """In turns, whose loads are under way together; the last turn may be shorter."""
    text = "\n".join(
        printer(ThreadPrinter, dense(depth), Threads(), {"b": 5, "n": 16}, ACROSS).body()
    )
    assert f"for (int turn = 0; turn < {turns}; ++turn) {{" in text
    assert (f"if (k >= ({depth})) continue;" in text) == test
    (place,) = re.findall(r"const int64_t k = (.*);", text)
    terms = [value(place, threadIdx=lane, turn=n) for n in range(turns) for lane in range(32)]
    assert [term for term in terms if term < depth] == list(range(depth))
    assert (
        text.index("sirius_warp_reduce_add(acc_0_0)") < text.index("== 0) {") < text.index("p5[0]")
    )


def test_many_turns_are_a_loop() -> None:
    text = "\n".join(
        printer(ThreadPrinter, dense(513), Threads(), {"b": 5, "n": 16}, ACROSS).body()
    )
    assert "for (int64_t k = threadIdx.x % 32; k < (513); k += 32) {" in text


def test_what_is_added_to_a_sum_is_asked_for_before_it() -> None:
    made = dense(64)
    (s,) = made.statements
    s = replace(s, finish=call("add", s.result, load("bias", symbol("n"))))
    bias = tensor("bias", [16], role="constant")
    made = replace(made, tensors=(*made.tensors, bias), statements=(s,))
    for how in (Threads(), Threads(warps=4)):
        printed = printer(ThreadPrinter, made, how, {"b": 5, "n": 16}, ACROSS)
        lines = [line.strip() for line in printed.body()]
        (alias,) = [a for name, a in printed.ctx.tensors.items() if name == "bias"]
        asked = next(n for n, line in enumerate(lines) if f"= {alias} + " in line)
        assert asked < lines.index("float acc_0_0 = (float)0x0.0p+0;")


@pytest.mark.parametrize("warps", [2, 4, 5, 8])
def test_warps_have_parts_of_a_sum(warps) -> None:
    """Of each point each term is in one part; the first warp of those at a point adds the parts of
    the others, which are behind a barrier."""
    made = printer(ThreadPrinter, dense(200), Threads(warps=4), {"b": 5, "n": 3}, ACROSS)
    lines = made.body()
    text = "\n".join(lines)
    heads = [line for line in lines if line.startswith("const int ")]
    (own,) = re.findall(r"const int own = (.*);", text)
    start, step = re.findall(r"for \(int64_t k = (.*); k < \(200\); k \+= (.*)\) {", text)[0]
    (other,) = re.findall(r"staged\[(warp \+ .*?)\]", text)
    for first in (0, 1):
        terms, point, summed = {}, {}, {}
        for warp in range(warps):
            at = assigned(heads, threadIdx=32 * warp, blockDim=32 * warps)
            point[warp] = value(own, first=first, **at)
            firsts = [value(start, **at | {"threadIdx": 32 * warp + lane}) for lane in range(32)]
            terms[warp] = [t for k in firsts for t in range(k, 200, value(step, **at))]
            if at["part"] == 0:
                others = [value(other, other=n, **at) for n in range(1, at["share"])]
                summed[warp] = [warp, *others]
        assert sorted(point[warp] for warp in summed) == list(range(first, first + at["beside"]))
        for warp, parts in summed.items():
            assert {point[part] for part in parts} == {point[warp]}
            assert sorted(t for part in parts for t in terms[part]) == list(range(200))
    assert (
        text.index("staged[warp] = acc_0_0;") < text.index("__syncthreads();") < text.index(other)
    )


def test_the_word_of_an_element_is_published_where_it_is_stored() -> None:
    made = dense(8)
    words = tensor("y_words", [B, 16], "int64")
    made = replace(made, tensors=(*made.tensors, words))
    storage = Storage({"y_words": (17, None)}, words={"y": Words("y_words", 0)})
    printed = printer(ThreadPrinter, made, Threads(2), {"b": 5, "n": 16}, storage=storage)
    lines = [line.strip() for line in printed.body()]
    assert [line for line in lines if "publish" in line or "] = acc_" in line] == [
        "p7[0] = acc_0_0;",
        "sirius_publish(p8 + 0, acc_0_0, (b));",
        "if (b_1_in) p9[0] = acc_1_0;",
        "if (b_1_in) sirius_publish(p10 + 0, acc_1_0, (b_1));",
    ]


# Operands in shared memory


def test_threads_find_what_they_have_staged() -> None:
    """An element is read from where it was copied, and a chunk is read whole."""
    made = printer(StagedPrinter, dense(64, 16), Staged(4, 4), {"b": 64, "n": 16})
    text, at = "\n".join(made.body()), {"half": 1, "from_": 32}
    copies = re.compile(
        r"for \(int e = threadIdx\.x; e < (\d+);.*\n *const int64_t (b|n) = (.*);\n"
        r" *const int64_t k = (.*);\n *float \*const to = of_\w \+ (.*);\n"
        r".*\n *sirius_cp_async<(\d+)>"
    )
    staged = {}
    for count, name, side, term, to, size in copies.findall(text):
        for e in range(int(count)):
            names = at | {"e": e}
            where, term_ = value(side, **names), value(term.replace("from", "from_"), **names)
            for lane in range(int(size) // 4):
                along_n = lane if name == "n" else 0
                along_k = lane if name == "b" else 0
                key = name, value(to, **names) + lane
                assert key not in staged
                staged[key] = where + along_n, term_ + along_k
    reads = re.findall(r"= of_(b|n)\[(.*)\];", text)
    assert len(reads) == 8
    for (name, place), step in product(reads, range(16)):
        names = at | {"b": 8, "n": 2, "at": step}
        found = staged[name, value(place, **names)]
        nth = [p for n, p in reads if n == name].index(place)
        assert found == ((8 + nth, 32 + step) if name == "b" else (2 + 4 * nth, 32 + step))


def test_the_last_chunk_of_operands_may_be_shorter() -> None:
    sizes = {"b": 64, "n": 16}
    full = "\n".join(printer(StagedPrinter, dense(64), Staged(4, 4), sizes).body())
    rest = "\n".join(printer(StagedPrinter, dense(40), Staged(4, 4), sizes).body())
    assert "for (int at = 0; at < 16; ++at) {" in full
    assert "for (int at = 0; at < sirius_min_i64(16, (40) - from); ++at) {" in rest


# Products of matrices


@pytest.mark.parametrize(
    "tiling", [Tiling(32, 8, (2, 2), 1, False), Tiling(16, 32, (1, 2), 1, True)], ids=str
)
@pytest.mark.parametrize(("rows", "lanes", "beside"), [(64, 16, 1), (50, 13, 2), (64, 16, 3)])
def test_each_sum_of_products_is_stored_once(rows, lanes, beside, tiling) -> None:
    """Where the instruction leaves it: of m16n8, element q of a lane is in row lane / 4 + q / 2 * 8
    and column lane % 4 * 2 + q % 2."""
    how = Products(Format("float16", "f16"), tiling, 32)
    made = printer(ProductPrinter, dense(64, 16), how, {"b": rows, "n": lanes})
    (write,) = re.findall(r"staged\[(.*)\] = sums\[x\]\[y\]\[q\];", "\n".join(made.shared_sums()))
    sides = ("n", "b") if tiling.by_lanes else ("b", "n")
    matrices = list(product(range(tiling.m // 16), range(tiling.n // 8)))
    stores = made.stores()
    text = "\n".join(stores)
    (count,) = re.findall(r"e < (.*); e \+= blockDim", text)
    (read,) = re.findall(r"float sum = staged\[(.*)\];", text)
    tests = re.findall(r"if \((.*)\) continue;", text)
    stored = Counter()
    for first in range(0, tiling.tiles, beside):
        sums = {}
        for warp, lane, (x, y), q in product(range(beside), range(32), matrices, range(4)):
            place = value(write, warp=warp, lane=lane, x=x, y=y, q=q)
            at = assigned(made.tile()[:2], first=first, warp=warp)
            row, column = 16 * x + lane // 4 + q // 2 * 8, 8 * y + lane % 4 * 2 + q % 2
            sums[place] = at["at_m"] + row, at["at_n"] + column
        for e in range(value(count, beside=beside, first=first)):
            at = assigned(stores, e=e, first=first)
            if not any(value(test.replace("||", "or"), **at) for test in tests):
                stored[at["b"], at["n"]] += 1
                assert sums[value(read, **at)] == tuple(at[name] for name in sides)
    assert stored == Counter(product(range(rows), range(lanes)))


def two_sums():
    """y[b, n] = sum over j < 3 and k < 40 of x[b, j, k] * w[j, k, n]."""
    j, n = symbol("j"), symbol("n")
    tensors = [
        tensor("x", [B, 3, 40], role="input"),
        tensor("w", [3, 40, 16], role="input"),
        tensor("y", [B, 16], role="output"),
    ]
    value = call("mul", load("x", b, j, k), load("w", j, k, n))
    box, over = [it("b", B), it("n", 16)], Reduce("add", (it("j", 3), it("k", 40)))
    return program(
        "two", [param("B", "x", 0)], tensors, [stmt("S", box, "y", [b, n], value, over)], [B, 16]
    )


def test_chunks_go_through_the_whole_reduction() -> None:
    how = Products(Format("float16", "f16"), Tiling(32, 16, (2, 1), 1, False), 8)
    made = printer(ProductPrinter, two_sums(), how, {"b": 64, "n": 16})
    (count,) = re.findall(r"const int64_t chunks = (.*);", "\n".join(made.summed_chunks()))
    lines = [line.replace("from", "from_") for line in made.place_of_chunk()]
    at = [assigned(lines, chunk=chunk) for chunk in range(value(count))]
    assert [(a["j"], a["from_"]) for a in at] == list(product(range(3), (0, 16, 32)))


def test_warps_divide_the_steps_for_a_tile() -> None:
    """Their sums are added up in order; who has none goes on to the barriers."""
    how = Products(Format("float16", "f16"), Tiling(32, 16, (2, 1), 4, False), 32)
    text = "\n".join(printer(ProductPrinter, dense(64), how, {"b": 64, "n": 16}).body())
    assert "for (int step = 8 * group; step < 32; step += 8 * groups) {" in text
    assert "const bool mine = tile < 2 && group < groups;" in text
    assert "for (int other = 1; other < groups; ++other)" in text


# Words


def awaits(at_once, words=70):
    """What copies the words of h[t]."""
    t, i = symbol("t"), symbol("i")
    tensors = [
        tensor("x", [B, words], role="input"),
        tensor("h_words", [B, words], "int64"),
        tensor("y", [B, words], role="output"),
    ]
    s = stmt("S", [it("t", B), it("i", words)], "y", [t, i], load("h_words", t, i, dtype="int64"))
    made = program("await", [param("B", "x", 0)], tensors, [s], [B, words])
    storage = Storage({"h_words": (17, None), "y": (1, None)})
    return printer(AwaitPrinter, made, Awaits(at_once), {"i": words}, Plan("i"), storage)


@pytest.mark.parametrize("at_once", [2, 4])
def test_each_word_is_awaited_by_one_thread(at_once) -> None:
    """Some at once, of which all are asked for before the first is needed."""
    text = "\n".join(awaits(at_once).body())
    assert text.index("found[k] = sirius_load_relaxed(word(point));") < text.index("sirius_await(")
    (step,) = re.findall(r"first < 70; first \+= (.*)\) {", text)
    places = set(re.findall(r"if \(int point = (.*); point < 70\)", text))
    assert len(places) == 1
    points = Counter(
        value(*places, first=first, k=n, blockDim=8)
        for thread in range(8)
        for first in range(thread, 70, value(step, blockDim=8))
        for n in range(at_once)
    )
    assert [points[n] for n in range(70)] == [1] * 70
    assert "word(point), found[k], (t));" in text


def test_one_word_at_a_time_needs_no_second_look() -> None:
    text = "\n".join(awaits(1).body())
    assert "for (int point = threadIdx.x; point < 70; point += blockDim.x) {" in text
    assert "found[" not in text and text.count("sirius_await(") == 1


def test_words_are_forgotten_but_for_those_before_the_loop() -> None:
    made = dense(8)
    made = replace(made, tensors=(*made.tensors, tensor("y_words", [B, 16], "int64")))
    storage = Storage({"y_words": (17, None)}, words={"y": Words("y_words", 0)})
    kernel = Scheduled(made, Block(()), {}, storage, machine_of("sm_90"))
    for before in ((), (0,), (0, 2)):
        e = Exchange("c0", frozenset("S"), {"y": Exchanged(0, 17, before)}, (), 1.0)
        head, line, _ = cleared(kernel, e, {"y": "words"})
        (size,) = re.findall(r"e < (.*); e \+=", head)
        (test,) = re.findall(r"^ *(?:if \((.*)\) )?words\[e\] = 0;", line)
        test = test.replace("&&", "and") or "True"
        kept = [n for n in range(value(size)) if not value(test, e=n)]
        assert kept == [16 * slot + column for slot in before for column in range(16)]
        assert value(size) == 17 * 16


def test_a_barrier_now_and_then_where_there_are_words() -> None:
    with_words = Exchange("c0", frozenset("S"), {"h": Exchanged(0, 17, ())}, (), 1.0)
    assert end_of_iteration(replace(with_words, words={}), "barrier();") == []
    assert (
        end_of_iteration(with_words, "barrier();")[-1] == f"if ((c0 + 1) % {EVERY} == 0) barrier();"
    )
    assert "h travels in words" in reason(with_words, ["g", "h"])
    assert "travels" not in reason(with_words, ["g"])
