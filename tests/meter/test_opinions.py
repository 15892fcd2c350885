"""Second opinions: the real Zeus and CodeCarbon, on simulated cards in virtual time and on this machine."""

from __future__ import annotations

import importlib.util
import logging
import socket
import time
from pathlib import Path

import pytest
from other_tools import Timers, gpu_opinion, on_simulated, opinions_on

from harness.meter.base import Energy
from harness.meter.opinions.base import OPINIONS, Part, SecondOpinion
from harness.meter.opinions.compare import OURS, compare, table
from harness.meter.rapl import RaplMeter
from harness.meter.simulated.load import Load
from harness.meter.simulated.nvml import SimulatedNvml
from harness.meter.simulated.play import VirtualClock
from harness.meter.simulated.scenario import Card, Fault, FaultKind, Scenario
from harness.types import Basis

TOOLS = ["zeus", "codecarbon"]
NODE = Scenario(load=Load(power_w=100.0), cards=tuple(Card(load_scale=scale) for scale in (1.0, 2.0, 4.0)))
"""Three cards of 100, 200 and 400 W."""


def gpu(opinions: list[SecondOpinion]) -> SecondOpinion:
    (one,) = (opinion for opinion in opinions if opinion.part is Part.GPU)
    return one


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(("cards", "watts"), [([0], 100), ([2], 400), ([2, 0], 500), ([0, 1, 2], 700)])
def test_only_the_cards_that_are_asked_for_count(tool: str, cards: list[int], watts: int) -> None:
    said = gpu(opinions_on(tool, NODE, 2.0, 40.0, cards=cards))
    assert said.joules == pytest.approx(watts * 40.0, rel=0.005)
    assert said.seconds == pytest.approx(40.0, abs=0.01)
    assert (said.basis, said.covers.split()[0]) == (Basis.MEASURED, str(len(cards)))
    assert said.tool.lower().startswith(tool)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("visible", ["1", "2,1", "GPU-SIMULATED-1", ""])
def test_visible_devices_make_no_difference(tool: str, visible: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu(opinions_on(tool, NODE, 2.0, 20.0, cards=[2])).joules == pytest.approx(8000.0, rel=0.01)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_card_that_is_not_there_is_a_reason_and_no_number(tool: str) -> None:
    clock = VirtualClock()
    opinion = OPINIONS.get(tool)()
    with on_simulated(SimulatedNvml(NODE, None, clock), clock, Timers(clock)):
        opinion.start(["GPU-elsewhere"])
        (said,) = opinion.stop()
    assert said.joules is None
    assert "GPU-elsewhere" in said.reason
    assert "it sees GPU-SIMULATED" in said.reason or "it shows GPU-SIMULATED" in said.reason


def test_a_lost_card_is_an_error_in_zeus_and_too_small_a_number_with_a_note_in_codecarbon() -> None:
    scenario = Scenario(load=NODE.load, cards=(Card(faults=(Fault(kind=FaultKind.LOST, from_s=22.0),)),))
    zeus, codecarbon = (gpu_opinion(tool, scenario, 2.0, 60.0) for tool in TOOLS)
    assert zeus.joules is None
    assert "ZeusGPULostError" in zeus.reason
    assert codecarbon.joules is not None
    assert codecarbon.joules < 3000
    assert "power usage of GPU 0" in codecarbon.reason


def test_a_counter_that_was_reset_is_a_negative_number_in_zeus_and_said_to_be() -> None:
    scenario = Scenario(load=NODE.load, cards=(Card(faults=(Fault(kind=FaultKind.RESET, from_s=30.0),)),))
    said = gpu_opinion("zeus", scenario, 2.0, 60.0)
    assert said.joules is not None
    assert said.joules < 0
    assert "counter was reset" in said.reason


def test_codecarbon_is_taken_apart_writes_nothing_asks_nobody_and_ignores_the_users_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def no_network(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    (tmp_path / ".codecarbon.config").write_text("[codecarbon]\npue = 3\nsave_to_file = true\nlog_level = debug\n")
    monkeypatch.setenv("CODECARBON_GPU_IDS", "0")
    monkeypatch.setenv("CODECARBON_EMISSIONS_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("CODECARBON_CO2_SIGNAL_API_TOKEN", "token")
    log = logging.getLogger("codecarbon")
    before = (list(log.handlers), log.level, log.propagate, list(log.filters))
    said = opinions_on("codecarbon", NODE, 2.0, 40.0, cards=[2])
    assert gpu(said).joules == pytest.approx(16_000.0, rel=0.005)
    memory = next(one for one in said if one.part is Part.MEMORY)
    assert memory.basis is Basis.MODELLED
    assert [path.name for path in tmp_path.iterdir()] == [".codecarbon.config"]
    assert (list(log.handlers), log.level, log.propagate, list(log.filters)) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(RaplMeter.available() is None, reason="this machine has RAPL: the CPU is measured")
def test_on_a_cpu_without_rapl_one_says_nothing_and_the_other_models() -> None:
    zeus, codecarbon = (OPINIONS.get(tool)() for tool in TOOLS)
    for opinion in (zeus, codecarbon):
        opinion.prepare([])
        opinion.start([])
    time.sleep(0.2)
    (silent,) = zeus.stop()
    assert silent.joules is None
    assert "RAPL" in silent.reason
    parts = {one.part: one for one in codecarbon.stop()}
    assert set(parts) == {Part.CPU, Part.MEMORY}
    assert {one.basis for one in parts.values()} == {Basis.MODELLED}
    assert all(one.joules and one.joules > 0 for one in parts.values())
    assert parts[Part.CPU].seconds == pytest.approx(0.2, abs=0.15)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_missing_package_is_said_with_the_command_that_gets_it(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert OPINIONS.get(tool).available() is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install" in (OPINIONS.get(tool).available() or "")


def ours(scope: str, joules: float | None = 1000.0) -> Energy:
    known = joules is not None
    return Energy(
        joules=joules,
        basis=Basis.MEASURED,
        source="s",
        scope=scope,
        uncertainty_j=50.0 if known else None,
        reason="" if known else "lost",
        seconds=10.0,
    )


def said(
    part: Part | None, joules: float | None, basis: Basis = Basis.MEASURED, seconds: float = 10.0
) -> SecondOpinion:
    covers = part.value if part else "nothing"
    return SecondOpinion(
        tool="Other 1",
        part=part,
        joules=joules,
        basis=basis,
        covers=covers,
        seconds=seconds,
        reason="" if part else "gone",
    )


def test_a_difference_is_given_for_what_covers_the_same_alone() -> None:
    rows = compare(ours("gpu"), [said(Part.GPU, 1100.0), said(Part.CPU, 40.0, Basis.MODELLED), said(None, None)])
    assert [row.tool for row in rows] == [OURS, "Other 1", "Other 1", "Other 1"]
    assert [row.difference_j for row in rows] == [None, pytest.approx(100.0), None, None]
    assert rows[1].difference == pytest.approx(0.1)
    assert rows[0].uncertainty_j == 50.0
    cells = table(rows)
    assert len({len(row) for row in cells}) == 1
    assert cells[1][2] == "1,000.0 J ± 50.0 J"
    assert cells[2][3] == "+100.0 J (+10.00%)"
    assert cells[3][3:5] == ["-", "modelled"]
    assert cells[4][2:] == ["unknown", "-", "measured", "gone"]


def test_packages_and_memory_are_held_against_the_sum_of_both() -> None:
    parts = [said(Part.CPU, 800.0), said(Part.MEMORY, 300.0, Basis.MODELLED)]
    rows = compare(ours("packages and memory"), parts)
    assert [row.difference_j for row in rows] == [None, None, None, pytest.approx(100.0)]
    assert rows[-1].basis is Basis.MODELLED
    assert compare(ours("packages"), parts)[1].difference_j == pytest.approx(-200.0)


def test_unlike_windows_and_unlike_scopes_are_said() -> None:
    (_, row) = compare(ours("gpu"), [said(Part.GPU, 1100.0, seconds=12.0)])
    assert "12 s long, ours 10 s" in row.reason
    (_, row) = compare(ours("process tree"), [said(Part.CPU, 1100.0)])
    assert "not the same thing" in row.reason


def test_nothing_is_compared_with_an_unknown() -> None:
    (mine, theirs) = compare(ours("gpu", None), [said(Part.GPU, 1100.0)])
    assert (mine.joules, theirs.joules, theirs.difference_j) == (None, 1100.0, None)
    (_, theirs) = compare(ours("wall socket"), [said(Part.GPU, 1100.0)])
    assert theirs.difference_j is None
