"""Readings that stand still: believed where nothing speaks against them, and nowhere else."""

from __future__ import annotations

import pytest
from meter_samples import MS, NS, channel, counter, info, ok, power

from harness.meter.base import Quantity, Sample
from harness.meter.energy import energy_of
from harness.meter.frozen import frozen_reads
from harness.meter.simulated.load import Load, square_wave
from harness.meter.simulated.play import play
from harness.meter.simulated.scenario import Card, Fault, FaultKind, Scenario, Sensor
from harness.meter.track import tracks_of

BOTH = info(
    channel(Quantity.ENERGY_J, "energy", quantum=1e-3),
    channel(Quantity.POWER_W, "power", quantum=1e-3),
    update_period_s=0.1,
)
NOISY = Sensor(noise_w=1.0)
WAVE = square_wave(1.7, 600, 200)


def stuck(samples: list[Sample], index: int, from_s: float, until_s: float) -> list[Sample]:
    """The same with one channel held from a time to another."""
    held = next(s.value for s in samples if s.channel == index and s.at_ns >= from_s * NS)
    return [
        s._replace(value=held) if s.channel == index and from_s * NS <= s.at_ns < until_s * NS else s for s in samples
    ]


def found(samples: list[Sample]) -> dict:
    return frozen_reads(BOTH, {i: [s for s in samples if s.channel == i] for i in (0, 1)})


def wobbly(seconds: float) -> list[Sample]:
    """A load between 300 and 500 W: no reading repeats."""
    watts = [300 + (i * 37) % 200 + i * 1e-3 for i in range(round(seconds * 20) + 1)]
    joules = [0.0]
    for each in watts:
        joules.append(joules[-1] + each / 20)
    return [s for i, w in enumerate(watts) for s in (ok(0, i * 50 * MS, joules[i]), ok(1, i * 50 * MS, w))]


@pytest.mark.parametrize("watts", [0.0, 60.0, 700.0])
def test_a_constant_load_without_noise_is_not_frozen(watts):
    assert found(counter(watts, 30) + power(watts, 30)) == {}


def test_phases_without_noise_are_not_frozen():
    scenario = Scenario(load=square_wave(14.0, 600, 60))
    played = play(scenario, 60)
    assert all(track.frozen == () for track in tracks_of(played.info, played.samples).values())


def test_a_counter_that_stands_still_while_power_reads_watts_is_not_believed():
    assert found(stuck(wobbly(30), 0, 10, 20)) == {0: [(10 * NS, 20 * NS - 50 * MS)]}
    assert found(stuck(wobbly(30), 0, 10, 10.9)) == {}


def test_a_power_that_repeats_while_the_counter_tells_otherwise_is_not_believed():
    ramp = [s for s in wobbly(30) if s.channel == 0] + [s for s in stuck(wobbly(30), 1, 10, 20) if s.channel == 1]
    watts = next(s.value for s in ramp if s.channel == 1 and s.at_ns == 10 * NS)
    if abs(watts - 400) < 80:  # near the mean of every second nobody could tell
        pytest.fail("the test needs a value that is at odds with the mean")
    assert set(found(ramp)) == {1}


def test_when_both_stand_still_neither_is_believed():
    both = stuck(stuck(wobbly(30), 0, 10, 20), 1, 10, 20)
    assert set(found(both)) == {0, 1}


def fault(*readings: str, until_s: float | None = None) -> Fault:
    return Fault(kind=FaultKind.FROZEN, from_s=10.0, until_s=until_s, readings=readings)


def metered(*faults: Fault, load: Load = WAVE):
    played = play(Scenario(load=load, cards=(Card(sensor=NOISY, faults=faults),)), 31)
    start, end = played.start_ns + NS, played.start_ns + 30 * NS
    return energy_of(played.info, played.samples, start, end), played.true_energy_j(start, end)


def test_the_integral_stands_in_for_a_frozen_counter_and_says_so():
    energy, truth = metered(fault("energy"))
    assert energy.joules == pytest.approx(truth, rel=0.05)
    assert "gpu0/energy stood still for 20" in energy.reason
    assert "gpu0/power stands in" in energy.reason
    assert energy.coverage > 0.99


def test_a_frozen_power_is_no_second_opinion():
    energy, truth = metered(fault("power"))
    assert energy.joules == pytest.approx(truth, rel=0.05)
    assert energy.second_joules is None
    assert "gpu0/power stood still" in energy.reason


def test_all_frozen_is_not_known():
    energy, _ = metered(fault("energy", "power", "power_mean"))
    assert energy.joules is None
    assert energy.coverage < 0.5


def test_a_counter_that_comes_back_bridges_what_was_not_observed():
    energy, truth = metered(fault("energy", "power", "power_mean", until_s=13.0))
    assert energy.joules == pytest.approx(truth, rel=0.05)
    assert energy.coverage == pytest.approx(26 / 29, abs=0.01)
    assert "stood still for 3" in energy.reason or "stood still for 2.9" in energy.reason


def test_a_card_at_rest_is_not_frozen():
    energy, _ = metered(load=Load(power_w=0.0))
    assert energy.coverage == 1.0
