from __future__ import annotations

import json
import time

import pytest
from meter_samples import channel, counter, info, power

from harness.meter.base import Quantity, ReadStatus
from harness.meter.energy import energy_of
from harness.meter.replay import Curve, ReplayMeter, load_script
from harness.meter.samples import write
from harness.types import Basis, UserError

NS = 1_000_000_000


def script(tmp_path, **content):
    path = tmp_path / "script.json"  # JSON is YAML
    path.write_text(json.dumps(content))
    return path


def at(monkeypatch, seconds: float) -> None:
    monkeypatch.setattr("harness.meter.replay.read_ns", lambda: round(seconds * NS))


def test_a_planted_saving_comes_out_exactly(tmp_path, monkeypatch):
    path = script(tmp_path, power_w=100, arms={"sat": {"power_w": 40}})
    joules = {}
    for arm in ("dense", "sat"):
        at(monkeypatch, 0)
        meter = ReplayMeter(path, arm=arm)
        meter_info = meter.open(None, None).model_copy(update={"sample_hz": 20.0})
        samples = []
        for i in range(101):
            at(monkeypatch, i / 20)
            samples += meter.read()
        energy = energy_of(meter_info, samples, NS, 4 * NS)
        assert energy.basis is Basis.SIMULATED
        assert energy.second_joules == pytest.approx(energy.joules)
        joules[arm] = energy.joules
    assert joules["dense"] == pytest.approx(300)
    assert 1 - joules["sat"] / joules["dense"] == pytest.approx(0.6)
    assert meter_info.source == "replay of script.json, arm 'sat'"
    assert "simulated" in meter_info.assumptions[0]


def test_the_counter_is_the_exact_integral_of_the_steps():
    curve = Curve(curve=((0, 50), (2, 100), (3, 0)), repeat_s=4)
    fine = [curve.power_at((i + 0.5) / 1000) / 1000 for i in range(11_000)]
    for seconds in (0.0, 1.0, 2.5, 3.5, 4.0, 6.25, 11.0):
        assert curve.energy_until(seconds) == pytest.approx(sum(fine[: round(seconds * 1000)]), abs=1e-6)


def test_planted_faults(tmp_path, monkeypatch):
    path = script(tmp_path, power_w=100, missing=[[1, 2]], reset_at_s=3, lost_at_s=5)
    at(monkeypatch, 0)
    meter = ReplayMeter(path)
    meter.open(None, None)

    def seen(seconds):
        at(monkeypatch, seconds)
        return [(sample.status, sample.value) for sample in meter.read()]

    assert seen(0.5) == [(ReadStatus.OK, 50.0), (ReadStatus.OK, 100.0)]
    assert seen(1.5) == [(ReadStatus.MISSING, None)] * 2
    assert seen(4) == [(ReadStatus.OK, 100.0), (ReadStatus.OK, 100.0)]
    assert seen(5) == [(ReadStatus.LOST, None)] * 2


def test_noise_is_the_same_every_time(tmp_path, monkeypatch):
    path = script(tmp_path, power_w=100, noise_w=5)
    at(monkeypatch, 0)
    rounds = []
    for _ in range(2):
        meter = ReplayMeter(path)
        meter.open(None, None)
        rounds.append([meter.read()[1].value for _ in range(5)])
    assert rounds[0] == rounds[1]
    assert len(set(rounds[0])) == 5


def test_recorded_samples_play_again_as_a_simulation(tmp_path, monkeypatch):
    recorded = info(channel(Quantity.ENERGY_J, quantum=1e-3), channel(Quantity.POWER_W, quantum=1e-3))
    samples = sorted(counter(100, 5) + power(100, 5), key=lambda sample: sample.at_ns)
    write(tmp_path / "rec", recorded, samples)
    at(monkeypatch, 1000)
    meter = ReplayMeter(tmp_path / "rec")
    replayed = meter.open(None, None)
    assert replayed.basis is Basis.SIMULATED
    assert {c.basis for c in replayed.channels} == {Basis.SIMULATED}
    assert "played again" in replayed.assumptions[-1]
    got = []
    for i in range(11):
        at(monkeypatch, 1000 + i / 2)
        got += meter.read()
    assert [(s.channel, s.at_ns - 1000 * NS, s.value) for s in got] == [(s.channel, s.at_ns, s.value) for s in samples]
    at(monkeypatch, 1006)
    assert {sample.status for sample in meter.read()} == {ReadStatus.LOST}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "either power_w or curve"),
        ({"power_w": 1, "curve": [[0, 1]]}, "either power_w or curve"),
        ({"power_w": -1}, "power_w: Input should be greater than or equal to 0"),
        ({"watts": 1}, "watts: Extra inputs are not permitted"),
        ({"curve": [[1, 1]]}, "must start at 0"),
        ({"curve": [[0, 1], [3, 1], [2, 1]]}, "seconds must rise"),
        ({"curve": [[0, 1], [3, 1]], "repeat_s": 3}, "longer than it"),
        ({"power_w": 1, "arms": {"sat": {}}}, "arms.sat: give either"),
    ],
)
def test_nonsense_is_refused_with_its_place(tmp_path, content, says):
    path = script(tmp_path, **content)
    with pytest.raises(UserError, match=says) as caught:
        load_script(path)
    assert str(path) in str(caught.value)


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        ReplayMeter(tmp_path / "nowhere").open(None, None)
    broken = tmp_path / "broken"
    broken.write_text("a: [")
    with pytest.raises(UserError, match="not YAML"):
        load_script(broken)
    write(tmp_path / "empty", info(channel(Quantity.ENERGY_J)), [])
    with pytest.raises(UserError, match="holds no samples"):
        ReplayMeter(tmp_path / "empty").open(None, None)


def test_time_really_passes(tmp_path):
    meter = ReplayMeter(script(tmp_path, power_w=1000))
    start = time.monotonic()
    meter.open(None, None)
    time.sleep(0.05)
    joules = meter.read()[0].value
    assert 50 <= joules <= 1000 * (time.monotonic() - start) + 1
