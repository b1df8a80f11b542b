# SPDX-License-Identifier: Apache-2.0
"""The steps of a conversion, each by itself: no model is needed."""

import gc
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from tensorflow.core.protobuf import saved_model_pb2

from sirius_tf.bundle import cache, store
from sirius_tf.bundle.cc import CodeError
from sirius_tf.config import Options
from sirius_tf.debug.differences import Finding
from sirius_tf.driver import blame, bundles, failures, publish, steps
from sirius_tf.driver.draft import Draft, draft
from sirius_tf.driver.garbage import rarely_collected
from sirius_tf.driver.parts import Part, Values
from sirius_tf.driver.sampled import Sampled
from sirius_tf.driver.trials import Trial
from sirius_tf.errors import DifferenceError, SiriusError, Unsupported, VerifyError
from sirius_tf.frontend.graph import Argument, Edge, Graph, Node
from sirius_tf.frontend.savedmodel import Signature, Tensor
from sirius_tf.report import Accuracy, RegionReport
from sirius_tf.rewrite.check import Measured
from sirius_tf.rewrite.regions import Region
from sirius_tf.rewrite.samples import Choice
from sirius_tf.rewrite.substitute import Use
from sirius_tf.runtime import native
from tests.support import bundles as written
from tests.support import saved

X = Argument("x", "float32", (3,))
INPUTS = {"x": Tensor("x:0", "float32", (3,))}


def node(name, op, source):
    return Node(name, op, (Edge(source),), (), {}, ("float32",), ((3,),))


GRAPH = Graph(
    "g",
    (X,),
    (("y", Edge("probe")),),
    (node("a", "Exp", "x"), node("b", "NoRule", "a"), node("probe", "Identity", "b")),
)
SIGNATURE = Signature("s", INPUTS, {"y": Tensor("b:0", "float32", (3,))}, GRAPH, None)


def region(name):
    graph = Graph(name, (X,), (("a", Edge("a")),), GRAPH.nodes[:1])
    return Region(name, graph, (Edge("x"),), (Edge("a"),), frozenset({f"node_of_{name}"}))


def part(*uses, left=None):
    return Part(SIGNATURE, {}, Values({}, dict), uses, left or {})


def test_results_that_differ_are_computed_once_more_with_strict_arithmetic() -> None:
    tried = []

    def convert(options):
        tried.append(options)
        if not options.strict_math:
            raise DifferenceError("y is off")
        return "made"

    assert steps.strictly_if_needed(convert, Options(threads=3)) == ("made", "y is off")
    assert tried == [Options(threads=3), Options(threads=3, strict_math=True)]
    assert steps.strictly_if_needed(convert, Options(strict_math=True)) == ("made", "")


@pytest.mark.parametrize(
    ("error", "strict"), [(DifferenceError("off"), True), (SiriusError("no"), False)]
)
def test_what_strict_arithmetic_cannot_help_is_tried_once(error, strict) -> None:
    tried = []

    def convert(options):
        tried.append(options)
        raise error

    with pytest.raises(type(error)):
        steps.strictly_if_needed(convert, Options(strict_math=strict))
    assert len(tried) == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (Options(without=("no_such_pass",)), "there is no 'no_such_pass' that can be left out"),
        (Options(target="cuda", arch=()), "name an architecture of GPUs"),
    ],
)
def test_options_with_which_no_region_could_be_compiled(options, reason) -> None:
    with pytest.raises(SiriusError, match=reason):
        steps.check_options(options)
    steps.check_options(Options(arch=()))  # which only GPUs have


def test_stages_are_told_in_order() -> None:
    told = []
    stage = steps.stages(Options(progress=told.append))
    for name in ("read", "link", "check"):
        stage(name)
    assert told == ["read", "link", "check"]


def test_reasons_of_failures(monkeypatch, tmp_path) -> None:
    """What is refused on purpose has no notes; a defect has, unless there is nowhere to keep it."""
    monkeypatch.setattr(store, "directory", lambda: tmp_path)
    refused = failures.reason(region("r"), Unsupported("n", "Op", "too hard"))
    assert refused == "Unsupported: n (Op): too hard"
    assert not list(tmp_path.iterdir())
    broken = "the compiler failed: VerifyError: out of order"
    found = failures.reason(region("r"), VerifyError("out of order"))
    (notes,) = (tmp_path / "failures").iterdir()
    assert found == f"{broken} (see {notes})"
    assert "--region=r --bisect" in notes.read_text() and "Exp" in notes.read_text()
    monkeypatch.setattr(store, "directory", lambda: None)
    assert failures.reason(region("r"), VerifyError("out of order")) == broken


def test_regions_whose_code_is_not_accepted_are_left(monkeypatch) -> None:
    """All regions of the kernel go back to TensorFlow, in all signatures; the others are linked."""
    linked = []

    def link(_work, _meta_graph, parts, *_):
        linked.append([[use.region.name for use in p.uses] for p in parts])
        if len(linked) == 1:
            raise CodeError("bad", "no such word")
        return {"good": "linked"}

    monkeypatch.setattr(bundles, "link", link)
    monkeypatch.setattr(store, "directory", lambda: None)
    given = (
        part(Use(region("r0"), "bad"), Use(region("r1"), "good")),
        part(Use(region("r2"), "bad")),
    )
    parts, kernels = bundles.link_what_compiles(None, None, given, {}, None)
    assert linked == [[["r0", "r1"], ["r2"]], [["r1"], []]]
    assert kernels == {"good": "linked"}
    reason = "the compiler failed: CodeError: no such word"
    assert [p.left for p in parts] == [{"node_of_r0": reason}, {"node_of_r2": reason}]


def test_no_regions_have_no_bundle(tmp_path) -> None:
    bundle = tmp_path / "old.sirius.so"
    bundle.write_text("of a run before")
    assert bundles.link(None, None, [part()], {}, bundle) == {}
    assert not bundle.exists()


def test_errors_are_noted_in_a_bundle_that_stays_whole(tmp_path) -> None:
    content = written.manifest() | {"kernels": {"scale": {"threads": 1}}}
    bundle = written.save(tmp_path / "model", content) / "assets" / "model.sirius.so"
    before = native.Bundle(bundle).manifest
    report = RegionReport("r", "s", 1, 1.0, 0.5, True, accuracy=Accuracy(2e-7, 1e-7))
    given = replace(part(Use(region("r"), "scale")), timed=(report,))
    bundles.note_accuracy([given], bundle)
    noted = {"sirius": 2e-7, "tensorflow": 1e-7, "because": ""}
    kernels = {"scale": {"threads": 1, "accuracy": noted}}
    assert native.Bundle(bundle).manifest == {**before, "kernels": kernels}


def test_a_draft_counts_what_computes(tmp_path) -> None:
    saved_model = saved_model_pb2.SavedModel()
    saved_model.meta_graphs.add().meta_info_def.tags.append("serve")
    bundle = tmp_path / "b.sirius.so"
    given = part(left={"b": "there is no rule", "probe": ""})
    made = draft("hash", tmp_path, saved_model, [given], bundle, Options(tolerance=0.5))
    assert made.content == ("hash", cache.content(tmp_path / "saved_model.pb"))
    assert (made.bundle, made.tags, made.tolerances) == (bundle.name, ("serve",), {"s": 0.5})
    (report,) = made.reports
    assert (report.ops, report.compiled) == (2, 1)
    assert [(n.node, n.op, n.reason) for n in report.left] == [("b", "NoRule", "there is no rule")]
    bundle.write_text("code")
    again = draft("hash", tmp_path, saved_model, [given], bundle, Options())
    assert again.content == (*made.content, cache.content(bundle))


@pytest.fixture
def drafted(monkeypatch, tmp_path):
    """A draft without signatures, and the target that it would replace."""
    monkeypatch.setattr(store, "directory", lambda: tmp_path)
    for name in ("work", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").write_text(f"of {name}")
    made = Draft(tmp_path / "work", "b.so", ("hash",), (), {}, {}, {}, (), {"t": "no rule"})
    return made, tmp_path / "target"


def test_a_draft_with_other_results_is_not_published(drafted, monkeypatch, tmp_path) -> None:
    def differs(*_):
        raise DifferenceError("y is off")

    monkeypatch.setattr(publish.check, "compare", differs)
    made, target = drafted
    with pytest.raises(DifferenceError):
        publish.compared(tmp_path, made, Options())
    assert (target / "saved_model.pb").read_text() == "of target"
    assert made.work.exists()


def test_a_draft_is_compared_once_and_published(drafted, monkeypatch, tmp_path) -> None:
    compared = []
    monkeypatch.setattr(publish.check, "compare", lambda *args: compared.append(args) or {})
    made, target = drafted
    measured = publish.compared(tmp_path, made, Options())
    result = publish.published(target, made, measured, Options(force=True), 0.0)
    assert (target / "saved_model.pb").read_text() == "of work"
    assert (result.output_dir, result.bundle, result.bundle_bytes) == (target, None, 0)
    assert (result.output_bytes, result.skipped) == (len("of work"), {"t": "no rule"})
    publish.compared(tmp_path, made, Options())
    assert len(compared) == 1


@pytest.mark.parametrize("slow", [(2.0, 3.0, (0.0, 0.0)), (2.0, 1.0, (2.0, 3.0))])
def test_a_comparison_with_something_slower_is_not_remembered(
    drafted, monkeypatch, tmp_path, slow
) -> None:
    found = [Measured(0.0, *slow), Measured(0.0, 2.0, 1.0)]
    monkeypatch.setattr(publish.check, "compare", lambda *_: {"s": found.pop(0)})
    for slower in (True, False, False):
        measured = publish.compared(tmp_path, drafted[0], Options())
        assert bool(measured["s"].slower) is slower


def test_what_measurements_differ_by_is_not_slower() -> None:
    assert not Measured(0.0, 2.0, 2.1, (0.01, 0.015)).slower
    text = Measured(0.0, 2.0, 1.0, (4.0, 5.0)).slower
    assert text == "5 ms against 4 ms on twice the samples"


class Session:
    """A session that fails on samples below zero."""

    def __init__(self):
        self.ran = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def values(self, feeds, edges):
        self.ran.append(edges)
        if feeds["x:0"][0] < 0:
            raise SiriusError(f"it fails\n on {feeds['x:0'][0]:g}")
        return dict.fromkeys(edges, feeds["x:0"])


def trial(choice, session):
    return Trial(INPUTS, GRAPH, choice, [Edge("a")], lambda: session)


def samples(first):
    return {"x": np.full(3, first, np.float32)}


def test_a_signature_runs_on_the_first_samples_that_it_accepts() -> None:
    session = Session()
    tried = trial(Choice(None, (samples(-1), samples(2), samples(3))), session)
    number, values = tried.first(GRAPH, [])
    assert number == 1 and list(values) == [Edge("a")] and values[Edge("a")][0] == 2
    assert session.ran == 2 * [[Edge("a"), Edge("probe")]]  # outputs must run, too
    assert tried.read(2)[Edge("a")][0] == 3


def test_samples_that_were_given_are_the_only_ones() -> None:
    with pytest.raises(SiriusError, match="on -1"):
        trial(Choice(samples(-1), (samples(2),)), Session()).first(GRAPH, [])


def test_why_a_signature_does_not_run_is_told_of_the_first_samples(monkeypatch) -> None:
    monkeypatch.setattr("sirius_tf.rewrite.made_up.recipes", lambda *_: iter(()))
    tried = trial(Choice(None, (samples(-1), samples(-2))), Session())
    assert tried.first(GRAPH, []) == "it fails on -1"


@pytest.fixture
def two(monkeypatch):
    """Two regions of which no pass is wrong, and what is felt of rounding in each."""
    program, felt = saved.read("dense"), {}
    regions = [Sampled(name, GRAPH, program, {"of": name}) for name in ("r0", "r1")]
    monkeypatch.setattr(blame, "sampled", lambda *_, **__: regions)
    monkeypatch.setattr(blame, "in_passes", lambda *_: None)
    monkeypatch.setattr(blame, "roughest", lambda _, inputs, *__: felt.get(inputs["of"]))
    return felt


def blamed():
    return blame.blamed("model", None, None, Options(threads=1))


def test_the_pass_to_blame_is_the_one_felt_most(two) -> None:
    assert blamed() == "no pass by itself, on these samples"
    two.update(r0=(2e-3, Finding("winograd", "far")), r1=(1e-3, Finding("powers", "near")))
    assert blamed() == "winograd (in region r0): far"


def test_a_pass_that_is_wrong_is_to_blame_before_any_rounding(two, monkeypatch) -> None:
    two.update(r0=(2e-3, Finding("winograd", "far")))
    wrong = Finding("fold", "h[0] is 1, not 2", "h", "S1: h[i] = x[i]")
    found = {"r1": wrong}
    monkeypatch.setattr(blame, "in_passes", lambda _, inputs, *__: found.get(inputs["of"]))
    assert blamed() == "fold (in region r1, at S1): h[0] is 1, not 2"


def test_no_diagnosis_costs_a_model(two, monkeypatch) -> None:
    monkeypatch.setattr(blame, "LARGEST", 0)
    assert blamed().startswith("not known, since region r1 is large: sirius-inspect")

    def fails(*_, **__):
        raise IndexError("out of range")

    monkeypatch.setattr(blame, "sampled", fails)
    assert blamed() == "not known, since the compiler failed: IndexError: out of range"


def test_circles_are_collected_as_before_when_the_last_conversion_ends() -> None:
    before = gc.get_threshold()
    first, second = ExitStack(), ExitStack()
    first.enter_context(rarely_collected())
    rarely = gc.get_threshold()
    second.enter_context(rarely_collected())
    first.close()  # another thread's conversion goes on
    assert rarely[0] > before[0] and gc.get_threshold() == rarely
    second.close()
    assert gc.get_threshold() == before


def test_circles_are_collected_as_before_when_a_conversion_fails() -> None:
    before = gc.get_threshold()
    with pytest.raises(SiriusError), rarely_collected():
        raise SiriusError("no model")
    assert gc.get_threshold() == before
