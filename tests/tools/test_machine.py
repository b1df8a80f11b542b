# SPDX-License-Identifier: Apache-2.0
"""Limits of the CPU that runs this, by orders of magnitude; costs have units and commands."""

import ctypes
import json
from types import SimpleNamespace

import numpy as np
import pytest

from sirius_tf.schedule import cpu_costs, gpu_costs
from sirius_tf.tools.perf import costs, cpu_limits, machine, probe
from tests.support import ROOT
from tests.support.commands import parse

UNITS = {"blocks", "bytes", "elements", "microseconds", "multiply-adds", "nanoseconds", "points"}
UNITS |= {"rows", "rows, lanes", "terms", "threads", "tiles", "times", "words"}


def numbers(module):
    return {name for name in vars(module) if name.isupper()}


@pytest.mark.parametrize("module", [cpu_costs, gpu_costs])
def test_each_cost_has_a_unit_and_a_command(module):
    found = costs.remarks(module)
    assert found.keys() == numbers(module)
    assert {r.unit for r in found.values()} <= UNITS
    for name, remark in found.items():
        assert (ROOT / "tools" / f"{remark.command}.py").is_file(), name
        assert f" {remark.command} " in module.__doc__, f"{name}: the module explains commands"
        assert f" {remark.source} " in module.__doc__ or not remark.source, name


def test_a_comment_without_its_unit_is_none(tmp_path, monkeypatch):
    text = "A = 1  # bytes: of B2 [machine]\nB2 = 2, 3  # rows, lanes: x [data sheet; tune]\n"
    text += "C = 4  # bytes of D\nD = 5\n"
    (tmp_path / "numbers_of_test.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    import numbers_of_test

    found = costs.remarks(numbers_of_test)
    assert found == {
        "A": costs.Remark("bytes", "of B2", "", "machine"),
        "B2": costs.Remark("rows, lanes", "x", "data sheet", "tune"),
    }
    assert numbers(numbers_of_test) == {"A", "B2", "C", "D"}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What the command writes, measured hastily."""
    file = tmp_path_factory.mktemp("machine") / "limits.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "REPEATED", 0.001)
        patch.setattr(cpu_limits, "MOST_MEMORY", 1 << 26)
        machine.main(*parse(machine, "--threads=2", f"--json={file}"))
    return json.loads(file.read_text())


def test_probes_do_what_they_are_counted_for():
    found = probe.compiled()
    assert found.loops.sirius_probe_add(ctypes.c_int64(7)) == 7 * 32 * 7
    for chains in probe.CHAINS:
        out = np.ones(chains * found.lanes, np.float32)
        loop = found.loops[f"sirius_probe_multiply_{found.lanes}_{chains}"]
        loop(ctypes.c_int64(7), ctypes.c_void_p(out.ctypes.data))
        assert (out == 7).all()  # each lane of each sum has added 1 * 1 in every step
    data = probe.data(1 << 12)
    data.x[:] = np.arange(data.x.size)
    found.over("copy", data, 1 << 12)
    assert (data.to[: 1 << 12] == data.x[: 1 << 12]).all() and data.to[1 << 12] == 1
    with probe.team(2) as workers:
        copied = probe.Data(*(np.zeros(3 * (1024 + probe.MARGIN), np.float32) for _ in "xy"))
        copied.x[:] = 1
        found.together_over(workers, "copy", copied, 1024)
    first, second, third = copied.to.reshape(3, -1)
    assert first[:1024].all() and second[:1024].all() and not third.any()
    assert not first[1024:].any() and not second[1024:].any()


def test_a_load_that_needs_the_one_before_goes_everywhere():
    seen = []

    def follow(at, steps):
        for _ in range(steps.value):
            seen.append(at.value)
            at = ctypes.c_void_p(ctypes.c_uint64.from_address(at.value).value)
        return at.value

    lines = 64
    probe.Probe(SimpleNamespace(sirius_probe_follow=follow), 8).follow(lines * probe.LINE, lines)
    first = seen[:lines]
    assert sorted(first) == [min(first) + probe.LINE * k for k in range(lines)]
    assert min(first) % probe.LINE == 0 and first != sorted(first)


def test_multiply_adds_are_plausible(measured):
    limits = measured["limits"]
    assert 0.5 < limits["ghz"] < 8
    assert [u["lanes"] for u in limits["units"]] == [4, 8, 16][: len(limits["units"])]
    for u in limits["units"]:
        assert 2 < u["latency"] < 12 and 0.4 < u["per_cycle"] < 5
        assert 1 < u["sums"] <= max(probe.CHAINS)
        assert u["sums"] > 0.6 * u["latency"] * u["per_cycle"]


def test_levels_are_plausible(measured):
    first, *others, memory = measured["limits"]["levels"]
    assert first["size"] < others[0]["size"] and memory["size"] == 0
    assert first["load"]["1"] > memory["load"]["1"] > 0.1
    assert first["apart"] < first["load"]["1"] < 5000
    assert 0 < 2 * first["latency_ns"] < memory["latency_ns"] < 1e5
    widest = 4 * measured["limits"]["units"][-1]["lanes"] * measured["limits"]["ghz"]
    assert 0.2 < first["load"]["1"] / widest < 5  # loads a cycle
    for level in (first, *others, memory):
        assert level["load"].keys() == {"1", "2", "4", "8"}
        assert level["copy"] > 0.1 and level["together"] > 0.1


def test_workers_take_time(measured):
    team = measured["limits"]["team"]
    assert team.pop("workers") == 2
    assert all(0.1 < ns < 1e9 for ns in team.values()), team
    assert team["claim_alone"] < 1000 < team["call"]


def test_costs_that_can_be_measured_are(measured):
    found = {c["name"]: c for c in measured["costs"]}
    of_machine = {n for n, r in costs.remarks(cpu_costs).items() if r.command == "machine"}
    assert found.keys() == of_machine == costs.MEASURED.keys()
    for name, cost in found.items():
        assert cost["in_force"] == getattr(cpu_costs, name) and cost["how"]
    assert 2 < found["IN_FLIGHT"]["measured"] < 30
    assert found["LANES"]["measured"] == measured["limits"]["units"][-1]["lanes"]
    half = measured["limits"]["levels"][1]["size"] / 2
    assert found["CACHE"]["measured"] == half


def test_tables_have_all_numbers():
    limits = cpu_limits.Limits(
        3.0,
        (cpu_limits.Units(8, 4.0, 2.0, 8),),
        tuple(
            cpu_limits.Level(name, size, 1.5, {1: 96.0, 8: 64.0}, 12.0, 48.0, 192.0)
            for name, size in (("L1", 1 << 15), ("L2", 1 << 19), ("memory", 0))
        ),
        cpu_limits.Team(2, 200.0, 30_000.0, 900.0, 2.0, 5.0, 9_000.0),
    )
    text = machine.markdown(limits)
    for line in (
        "3.00 GHz; 1.0 loads of the widest vectors a cycle.",
        "| 8 | 2.00 | 4.0 | 8 |",
        "| L2 | 512 | 1.5 | 96.0 | 64.0 | 12.0 | 48.0 | 192.0 |",
        "| to wake workers that sleep | 30000 |",
        "| WORTH_A_WORKER | points | 8192 | 4000 | of which the others' share takes a barrier |",
        "| SCATTERED | times | 16 | 8 | lanes apart in L1, over a vector |",
        "| READ | multiply-adds | 6 | 2 | at the peak, while the last cache loads an element |",
        "| WRITTEN | multiply-adds | 9 | 2 | likewise, by what a copy takes longer than a load |",
    ):
        assert line in text.splitlines(), line
