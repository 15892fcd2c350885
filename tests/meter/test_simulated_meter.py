"""The simulated meter as an instrument, and its play in virtual time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from itertools import pairwise

import pytest
from simulated_cases import scenario_file

from harness.meter.aliasing import sensor_of
from harness.meter.base import METERS, Calibration, ChannelCalibration, MeterInfo, Quantity, ReadStatus
from harness.meter.energy import energy_of, windows_energy
from harness.meter.samples import read, write
from harness.meter.simulated.load import Load, square_wave
from harness.meter.simulated.meter import SimulatedMeter
from harness.meter.simulated.play import play
from harness.meter.simulated.scenario import Card, Fault, FaultKind, Scenario, Sensor
from harness.types import Basis, UserError

NS = 1_000_000_000


def channels(info, quantity: Quantity) -> list[int]:
    return [index for index, channel in enumerate(info.channels) if channel.quantity is quantity]


# The instrument


def test_it_is_marked_in_every_place_a_record_keeps(tmp_path):
    path = scenario_file(tmp_path, load={"power_w": 100}, arms={"sat": {"power_w": 40}}, name="mine.yaml")
    meter = SimulatedMeter(path, arm="sat")
    info = meter.open(os.getpid(), None)
    samples = meter.read()
    meter.close()
    assert (info.name, info.basis, SimulatedMeter.basis) == ("simulated", Basis.SIMULATED, Basis.SIMULATED)
    assert {channel.basis for channel in info.channels} == {Basis.SIMULATED}
    assert all("SIMULATED" in channel.device for channel in info.channels)
    assert info.source.startswith("simulation mine (")
    assert ", arm 'sat': NVML, NVIDIA H100 80GB HBM3 (simulated), driver 580.95.05 (simulated)" in info.source
    assert info.assumptions[0].startswith("simulated: ")
    energy = energy_of(info, samples, samples[0].at_ns, samples[0].at_ns + 1000)
    assert energy.basis is Basis.SIMULATED
    assert "simulation" in energy.source
    write(tmp_path / "s", info, samples)
    assert read(tmp_path / "s").info == info  # and in the samples file


def test_an_arm_chooses_the_load_and_nobody_is_the_idle_load(tmp_path):
    path = scenario_file(
        tmp_path, load={"power_w": 500}, arms={"sat": {"power_w": 200}}, idle={"power_w": 60},
        cards=[{"sensor": {"quantum_w": 1}}],
    )  # fmt: skip

    def watts(pid: int | None, **options: str) -> float:
        meter = SimulatedMeter(path, **options)
        info = meter.open(pid, None)
        (power,) = [s.value for s in meter.read() if s.channel in channels(info, Quantity.POWER_W)]
        return power

    me = os.getpid()
    assert [watts(me), watts(me, arm="dense"), watts(me, arm="sat")] == [500, 500, 200]
    assert watts(None) == 60
    assert watts(None, arm="sat") == 200


@pytest.mark.parametrize("number", [1, 3])
def test_foreign_processes_are_seen_beside_the_runs_own(tmp_path, number):
    path = scenario_file(tmp_path, cards=[{"faults": [{"kind": "foreign", "value": number}]}])
    meter = SimulatedMeter(path)
    info = meter.open(os.getpid(), None)
    (foreign,) = [s for s in meter.read() if s.channel in channels(info, Quantity.FOREIGN_PROCESSES)]
    assert foreign.value == number
    alone = SimulatedMeter(scenario_file(tmp_path, name="alone.yaml"))
    info = alone.open(os.getpid(), None)
    assert [s.value for s in alone.read() if s.channel in channels(info, Quantity.FOREIGN_PROCESSES)] == [0]


def test_time_really_passes(tmp_path):
    path = scenario_file(tmp_path, load={"power_w": 1000}, cards=[{"counter": {"of": "power", "period_s": 0.001}}])
    meter = SimulatedMeter(path)
    began = time.monotonic()
    meter.open(None, None)
    first = meter.read()[0]
    time.sleep(0.05)
    second = meter.read()[0]
    assert 45 <= second.value - first.value <= 1000 * (time.monotonic() - began) + 1


def test_a_scenario_is_asked_for_by_name_or_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scenario_file(tmp_path, {"title": "mine"}, name="m.yaml")
    assert SimulatedMeter.options_of("m.yaml") == {"scenario": str(tmp_path / "m.yaml")}
    assert SimulatedMeter.options_of("h100")["scenario"].endswith("scenarios/h100.yaml")
    for argument, says in (("", "needs a scenario"), ("h10", "did you mean 'h100'"), ("x.yaml", "neither a file nor")):
        with pytest.raises(UserError, match=says):
            SimulatedMeter.options_of(argument)
    (tmp_path / "m.yaml").write_text("laod: 3")
    with pytest.raises(UserError, match="did you mean 'load'"):
        SimulatedMeter.options_of("m.yaml")


def test_it_knows_its_own_sensor_where_a_real_meter_must_assume(tmp_path):
    def look(*sensors: dict[str, float]) -> tuple[float | None, float | None]:
        path = scenario_file(tmp_path, cards=[{"sensor": sensor} for sensor in sensors])
        info = SimulatedMeter(path).open(None, None)
        assert sum("looks" in assumption for assumption in info.assumptions) == 1
        return info.update_period_s, info.look_s

    assert look({"period_s": 0.2, "window_s": 0.03}) == (0.2, 0.03)
    assert look({"period_s": 0.05, "window_s": 0.3}) == (0.05, 0.05)
    assumed = play(Scenario(), 0.1).info
    assert look({"period_s": 0.2}, {"period_s": 0.05}) == (assumed.update_period_s, assumed.look_s)


def test_a_sensor_that_misses_nothing_has_nothing_to_alias(tmp_path):
    path = scenario_file(tmp_path, cards=[{"sensor": {"period_s": 0.1, "window_s": 0.1}}])
    info = SimulatedMeter(path).open(None, None)
    (power,) = [info.channels[index].name for index in channels(info, Quantity.POWER_W)]

    def seen(period_s: float) -> MeterInfo:
        line = ChannelCalibration(channel=power, updates=50, period_s=period_s)
        found = Calibration(seconds=5, poll_hz=500, read_s=1e-4, read_cpu_s=1e-4, channels=(line,))
        return info.model_copy(update={"calibration": found})

    assert sensor_of(info) is None
    assert sensor_of(seen(0.1003)) is None  # no calibration is that exact
    assert sensor_of(seen(0.2)) == (0.2, 0.1)


def test_a_card_that_can_not_be_metered_says_why():
    meter = SimulatedMeter(SimulatedMeter.options_of("vgpu")["scenario"])
    with pytest.raises(UserError, match="neither energy nor power"):
        meter.open(None, None)


def test_no_meter_is_taken_for_an_instrument_that_is_none():
    bases = {name: meter.basis for name, meter in METERS.items()}
    assert {name for name, basis in bases.items() if basis is Basis.SIMULATED} == {"simulated", "replay"}
    assert bases["modelled"] is Basis.MODELLED
    assert bases["nvml"] is bases["rapl"] is Basis.MEASURED


def test_looking_for_scenarios_is_cheap():
    code = (
        "import sys; from harness.meter.simulated.scenario import shipped; shipped();"
        "print([m for m in ('torch', 'numpy', 'scipy', 'pandas', 'transformers', 'pynvml') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


# Play


def test_a_play_is_a_metering_of_the_truth():
    played = play(Scenario(load=square_wave(0.337, 600, 200)), 62)
    start, end = played.start_ns + NS, played.start_ns + 61 * NS
    energy = energy_of(played.info, played.samples, start, end)
    assert energy.joules == pytest.approx(played.true_energy_j(start, end), rel=0.01)
    assert (energy.basis, energy.coverage, played.error) == (Basis.SIMULATED, 1.0, "")
    halves = windows_energy(played.info, played.samples, [(start, start + 30 * NS), (start + 30 * NS, end)])
    assert sum(half.joules for half in halves) == pytest.approx(energy.joules)


def test_the_same_play_is_the_same_to_the_last_bit():
    scenario = Scenario(load=Load(power_w=300), cards=(Card(sensor=Sensor(noise_w=4)),))
    assert play(scenario, 5).samples == play(scenario, 5).samples
    assert play(scenario, 5, seed=1).samples != play(scenario, 5).samples


def test_reads_are_late_by_little_and_on_a_grid():
    samples = play(Scenario(), 30, sample_hz=20).samples
    times = sorted({(sample.at_ns - NS) / NS for sample in samples if sample.channel == 0})
    assert len(times) == 601
    late = [at - n / 20 for n, at in enumerate(times)]
    assert min(late) >= 0
    assert 0.0005 < sum(late) / len(late) < 0.002


def test_what_comes_late_is_not_made_up_for_by_a_burst():
    slow = Scenario(cards=(Card(faults=(Fault(kind=FaultKind.SLOW, from_s=1, until_s=3, value=0.3),)),))
    times = [s.at_ns / NS for s in play(slow, 5).samples if s.channel == 0]
    gaps = [b - a for a, b in pairwise(times)]
    assert max(gaps) > 0.3
    assert min(gaps) > 0.04


def test_a_breakdown_ends_the_reading_as_it_would_the_samplers():
    broken = Scenario(cards=(Card(faults=(Fault(kind=FaultKind.CRASH, from_s=2),)),))
    played = play(broken, 5)
    assert played.error == "RuntimeError: the simulated driver's library broke down"
    assert max(sample.at_ns for sample in played.samples) < played.start_ns + 2.1 * NS


def test_a_lost_card_leaves_its_statuses():
    played = play(Scenario(cards=(Card(faults=(Fault(kind=FaultKind.LOST, from_s=2),)), Card())), 4)
    last = played.samples[-1].at_ns
    at_end = {played.info.channels[s.channel].name: s.status for s in played.samples if s.at_ns > last - NS // 25}
    assert (at_end["gpu0/energy"], at_end["gpu1/energy"]) == (ReadStatus.LOST, ReadStatus.OK)
