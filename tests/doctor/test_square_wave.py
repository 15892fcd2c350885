"""The experiment gives the right answer on cards whose counter is known, and none where none can be had."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.doctor.square_wave.analysis import ALL, OPEN, SHARES, analyse
from harness.doctor.square_wave.experiment import SAMPLE_HZ, experiment
from harness.doctor.square_wave.load_simulated import simulate
from harness.doctor.square_wave.load_torch import run
from harness.doctor.square_wave.schedule import Stretch, periods, schedule, transition_period_s
from harness.doctor.square_wave.show import text
from harness.meter.samples import read
from harness.meter.simulated.scenario import Card, Counter, Fault, FaultKind, Scenario, Sensor
from harness.types import Basis, UserError

SHORT_S = 8.0  # of each wave: shorter than the real experiment, for the tests' sake


def findings(card: Card, seed: int = 0, wave_s: float = SHORT_S):
    sensor_s = card.sensor.period_s
    plan = schedule(sorted({*periods(sensor_s), transition_period_s(sensor_s)}), sensor_s, wave_s)
    info, samples, done = simulate(Scenario(cards=(card,)), plan, sample_hz=SAMPLE_HZ, seed=seed)
    return analyse(info, samples, done, sensor_s)


@settings(max_examples=8, deadline=None)
@given(
    of=st.sampled_from(["sensor", "power"]),
    phase=st.floats(0, 0.1),
    counter_phase=st.floats(0, 0.1),
    gain=st.floats(0.92, 1.08),
    offset=st.floats(-5, 5),
    noise=st.floats(0, 4),
    window=st.sampled_from([0.0187, 0.025, 0.03]),
    seed=st.integers(0, 99),
)
def test_the_answer_is_the_cards_own(of, phase, counter_phase, gain, offset, noise, window, seed):
    card = Card(
        sensor=Sensor(window_s=window, phase_s=phase, noise_w=noise),
        counter=Counter(of=of, phase_s=counter_phase),
        gain=gain,
        offset_w=offset,
        seed=seed,
    )
    found = findings(card, seed)
    assert found.answer == (SHARES if of == "sensor" else ALL)
    assert found.share == pytest.approx(1.0 if of == "sensor" else 0.0, abs=0.1)
    assert abs(found.share - round(found.share)) < 2 * found.share_uncertainty + 0.02


@pytest.mark.parametrize("of", ["sensor", "power"])
@pytest.mark.parametrize("counter_s", [0.02, 0.05])
def test_a_counter_that_steps_more_often_than_the_sensor(of, counter_s):
    found = findings(Card(counter=Counter(of=of, period_s=counter_s)))
    assert found.answer == (SHARES if of == "sensor" else ALL)


@pytest.mark.parametrize("of", ["sensor", "power"])
def test_no_answer_where_the_sensor_has_no_blind_time(of):
    found = findings(Card(sensor=Sensor(window_s=0.1), counter=Counter(of=of)))
    assert found.answer == OPEN
    assert "read every period right" in found.why
    assert all(row.share is None for row in found.rows)


@pytest.mark.parametrize("of", ["sensor", "power"])
def test_a_sensor_of_another_period_gets_its_own_resonances(of):
    card = Card(sensor=Sensor(period_s=0.06, window_s=0.015), counter=Counter(of=of, period_s=0.06))
    found = findings(card)
    assert found.answer == (SHARES if of == "sensor" else ALL)
    assert {0.03, 0.06} <= {row.period_s for row in found.rows}


def test_the_known_mean_is_the_truth():
    """Rows out of step must read what the schedule put in: 0.5 x 525 W + 0.5 x 90 W."""
    found = findings(Card(counter=Counter(of="power")))
    for row in found.rows:
        assert row.known_w == pytest.approx(307.5, abs=1.5)
        assert abs(row.counter_off_w) < 3.0
    resonant = {row.period_s: row for row in found.rows if row.period_s in {0.05, 0.1}}
    assert all(abs(row.sensor_off_w) > 150 for row in resonant.values())  # half of 435 W at the worst phase


def test_half_a_counter_is_no_answer():
    """A counter that shows half of what the sensor is off is neither of the two."""
    plan = schedule((0.05, 0.1, 0.101), 0.1, SHORT_S)
    info, shares, done = simulate(Scenario(cards=(Card(),)), plan, sample_hz=SAMPLE_HZ)
    _, true, _ = simulate(Scenario(cards=(Card(counter=Counter(of="power")),)), plan, sample_hz=SAMPLE_HZ)
    energy = next(i for i, c in enumerate(info.channels) if c.name.endswith("/energy"))
    mixed = [
        a._replace(value=(a.value + b.value) / 2) if a.channel == energy else a
        for a, b in zip(shares, true, strict=True)
    ]
    found = analyse(info, mixed, done, 0.1)
    assert found.answer == OPEN
    assert found.share == pytest.approx(0.5, abs=0.1)


FAULTS = {
    "reset": (Fault(kind=FaultKind.RESET, from_s=30.0), "reset"),
    "lost": (Fault(kind=FaultKind.LOST, from_s=30.0), "counter stood still"),
    "no counter": (Fault(kind=FaultKind.UNSUPPORTED, readings=("energy",)), "no energy counter"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_an_error_and_no_answer(name):
    fault, says = FAULTS[name]
    with pytest.raises(UserError, match=says):
        findings(Card(faults=(fault,)))


def test_a_load_that_makes_no_difference_is_an_error(monkeypatch):
    monkeypatch.setattr("harness.doctor.square_wave.load_simulated.OFF_W", 525.0)
    with pytest.raises(UserError, match="makes too little difference"):
        findings(Card(sensor=Sensor(noise_w=2.0)))


def test_schedule_puts_waves_in_step_at_four_phases_and_others_over_whole_beats():
    found = schedule((0.05, 0.1, 0.101, 0.3, 0.333), 0.1)
    by_period = {p: [s for s in found if s.period_s == p] for p in (0.05, 0.1, 0.101, 0.3, 0.333)}
    assert {p: len(waves) for p, waves in by_period.items()} == {0.05: 4, 0.1: 4, 0.101: 1, 0.3: 4, 0.333: 1}
    assert by_period[0.101][0].seconds > 2 * 10.1
    for waves in by_period.values():
        assert all(math.isclose(s.seconds / s.period_s, round(s.seconds / s.period_s)) for s in waves)
        assert 10 <= sum(s.seconds for s in waves) <= 22
    assert [s.kind for s in found[:3]] == ["warm-up", "off", "on"]
    assert [s.kind for s in found[-2:]] == ["on", "off"]
    assert periods(0.1) == periods(None) == (0.05, 0.1, 0.101, 0.3, 0.333)
    assert 0.02 in periods(0.02)


class FakeDevice:
    """Works exactly until the deadline of a clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.busy: list[tuple[int, int]] = []

    def clock(self) -> int:
        self.now_ns += 1000  # a look at the clock takes a microsecond
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)

    def work_until(self, deadline_ns: int) -> float:
        start = self.now_ns
        self.now_ns = max(self.now_ns, deadline_ns)
        self.busy.append((start, self.now_ns))
        return (self.now_ns - start) / 1e9


def test_the_load_keeps_its_grid_and_tells_what_was_done():
    device, told = FakeDevice(), []
    wave = Stretch(kind="wave", seconds=2.0, period_s=0.05, duty=0.5, offset_s=0.0125)
    run([Stretch(kind="on", seconds=1.0), wave], device, told.append, device.clock, device.sleep)
    assert [done.stretch.kind for done in told] == ["on", "wave"]
    assert told[1].duty == pytest.approx(0.5, abs=0.002)
    starts = [start for start, _ in device.busy[1:]]
    assert len(starts) == 40
    assert all(abs((start - starts[0]) - i * 50_000_000) < 20_000 for i, start in enumerate(starts))
    assert (told[1].start_ns - told[0].end_ns) / 1e9 == pytest.approx(0.0125, abs=1e-4)


def test_the_whole_experiment_on_a_shipped_card(tmp_path):
    kept = tmp_path / "raw.samples"
    found = experiment("simulated:h100-true-counter", kept, lambda _: None, wave_s=SHORT_S)
    assert found.basis is Basis.SIMULATED
    assert found.findings.answer == ALL
    shown = text(found)
    assert shown.startswith("SIMULATED")
    assert "The energy counter integrates all the time" in shown
    assert "can't tell at 101 ms" in shown
    assert max(map(len, shown.replace(str(kept), "").splitlines())) <= 80
    recording = read(kept)
    assert analyse(recording.info, recording.samples, found.stretches, 0.1) == found.findings


def test_without_a_card_the_simulated_one_is_named(monkeypatch):
    monkeypatch.setattr("harness.meter.nvml.NvmlMeter.available", classmethod(lambda *_: "no driver"))
    with pytest.raises(UserError, match=r"no driver; without a card: --meter simulated:h100"):
        experiment("nvml", None, lambda _: None)
    with pytest.raises(UserError, match="has no card"):
        experiment("modelled", None, lambda _: None)
