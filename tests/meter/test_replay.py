"""Recordings played again: every sample once, in time, and never taken for a measurement."""

from __future__ import annotations

import pytest
from meter_samples import bad, channel, counter, info, power

from harness.meter.base import Quantity, ReadStatus
from harness.meter.energy import energy_of
from harness.meter.replay import ReplayMeter
from harness.meter.samples import write
from harness.types import Basis, UserError

NS = 1_000_000_000
RECORDED = info(channel(Quantity.ENERGY_J, quantum=1e-3), channel(Quantity.POWER_W, quantum=1e-3))


@pytest.fixture
def recording(tmp_path):
    """Five seconds at 100 W, one power reading missing."""
    samples = sorted([*counter(100, 5), *power(100, 5), bad(1, 2_500_000_000 + 1)], key=lambda sample: sample.at_ns)
    write(tmp_path / "rec", RECORDED, samples)
    return tmp_path / "rec", samples


def at(monkeypatch, seconds: float) -> None:
    monkeypatch.setattr("harness.meter.replay.read_ns", lambda: round(seconds * NS))


def test_every_sample_comes_once_when_it_is_due(recording, monkeypatch):
    path, samples = recording
    at(monkeypatch, 1000)
    meter = ReplayMeter(path)
    meter.open(None, None)
    got = []
    for i in range(21):
        at(monkeypatch, 1000 + i / 4)
        read = meter.read()
        assert all(1000 + (i - 1) / 4 < sample.at_ns / NS <= 1000 + i / 4 for sample in read)
        got += read
    assert [(s.channel, s.at_ns - 1000 * NS, s.status, s.value) for s in got] == [
        (s.channel, s.at_ns, s.status, s.value) for s in samples
    ]


def test_between_two_samples_there_is_nothing_and_past_the_end_all_is_lost(recording, monkeypatch):
    at(monkeypatch, 0)
    meter = ReplayMeter(recording[0])
    meter.open(None, None)
    meter.read()
    at(monkeypatch, 0.01)
    assert meter.read() == []
    at(monkeypatch, 5)
    assert {sample.status for sample in meter.read()} == {ReadStatus.OK, ReadStatus.MISSING}
    assert [(s.channel, s.status, s.value) for s in meter.read()] == [(i, ReadStatus.LOST, None) for i in (0, 1)]


def test_a_recording_is_marked_as_simulated_whatever_was_measured_then(recording, monkeypatch):
    at(monkeypatch, 7)
    assert RECORDED.basis is Basis.MEASURED
    meter = ReplayMeter(recording[0])
    replayed = meter.open(None, None)
    assert (replayed.basis, ReplayMeter.basis) == (Basis.SIMULATED, Basis.SIMULATED)
    assert {c.basis for c in replayed.channels} == {Basis.SIMULATED}
    assert replayed.source == f"replay of rec: {RECORDED.source}"
    assert "played again: no measurement of this run" in replayed.assumptions[-1]
    at(monkeypatch, 12)
    energy = energy_of(replayed, meter.read(), 8 * NS, 11 * NS)
    assert energy.basis is Basis.SIMULATED
    assert energy.joules == pytest.approx(300)


def test_a_meter_opened_again_plays_from_the_start(recording, monkeypatch):
    meter = ReplayMeter(recording[0])
    for start in (0, 100):
        at(monkeypatch, start)
        meter.open(None, None)
        at(monkeypatch, start + 5)
        assert len(meter.read()) == len(recording[1])


def test_files_that_can_not_be_played_are_refused_when_they_are_named(recording, tmp_path):
    path, _ = recording
    (tmp_path / "torn").write_bytes(path.read_bytes()[:-9])
    (tmp_path / "script.yaml").write_text("power_w: 100")
    write(tmp_path / "empty", RECORDED, [])
    for name, says in (
        ("", "needs a file"),
        ("nowhere", "there is no file"),
        (".", "there is no file"),
        ("torn", "the compressed stream is cut"),
        ("script.yaml", "not a samples file"),
        ("empty", "holds no samples"),
    ):
        argument = str(tmp_path / name) if name else ""
        with pytest.raises(UserError, match=says):
            ReplayMeter.options_of(argument)
        if name:
            with pytest.raises(UserError, match=says):
                ReplayMeter(argument).open(None, None)
    assert ReplayMeter.options_of(str(path)) == {"file": str(path)}
