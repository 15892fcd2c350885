"""The simulated card against plain loops: what a sensor looks at, what a counter adds up, what faults do to both."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.meter.simulated.card import SimulatedCard
from harness.meter.simulated.load import Load, square_wave
from harness.meter.simulated.scenario import Card, Counter, Fault, FaultKind, Part, Sensor

STEADY = Load(power_w=400)
WAVE = square_wave(0.137, 600, 200, duty=0.3)

loads = st.builds(
    lambda steps, repeat: Load(
        curve=tuple((0.25 * i, watts) for i, watts in enumerate(steps)),
        repeat_s=0.25 * len(steps) if repeat else None,
    ),
    st.lists(st.integers(0, 700), min_size=1, max_size=6),
    st.booleans(),
)
eighths = st.integers(0, 80).map(lambda n: n / 8)


def fine_integral(load: Load, start_s: float, end_s: float, parts: int = 2000) -> float:
    """The oracle: the watts in the middle of many small pieces."""
    if not parts:
        return 0.0
    piece = (end_s - start_s) / parts
    return math.fsum(load.power_at(start_s + (i + 0.5) * piece) for i in range(parts)) * piece


def card(load: Load = STEADY, **fields) -> SimulatedCard:
    return SimulatedCard(Card(**fields), load)


def fault(kind: FaultKind, from_s: float = 0.0, **fields) -> Fault:
    return Fault(kind=kind, from_s=from_s, **fields)


# The load


@given(loads, eighths, eighths)
def test_energy_of_a_load_is_the_integral_of_its_power(load, a, b):
    start, end = sorted((a, b))
    pieces = round((end - start) * 64)  # steps and edges fall on the edges of the pieces
    assert load.energy_until(end) - load.energy_until(start) == pytest.approx(fine_integral(load, start, end, pieces))


def test_before_its_start_a_load_is_what_it_is_at_its_start():
    load = Load(curve=((0, 300), (1, 500)))
    assert load.power_at(-5) == 300
    assert load.energy_until(0) - load.energy_until(-2) == 600


def test_a_square_wave_has_its_duty_and_period():
    assert WAVE.mean_power(0, 0.137) == pytest.approx(0.3 * 600 + 0.7 * 200)
    assert [WAVE.power_at(t) for t in (0.0, 0.04, 0.042, 0.1369, 0.1371)] == [600, 600, 200, 200, 600]
    with pytest.raises(ValueError, match="duty must lie between 0 and 1"):
        square_wave(0.1, 1, 0, duty=1)


# The sensor


@given(
    period=st.sampled_from([0.02, 0.1, 0.13]),
    window=st.sampled_from([0.005, 0.025, 0.1]),
    phase=st.sampled_from([0.0, 0.03, 0.25]),
    at=st.floats(0, 20),
)
@settings(deadline=None)
def test_power_is_the_mean_over_the_window_of_the_last_look(period, window, phase, at):
    reading = card(WAVE, sensor=Sensor(period_s=period, window_s=window, phase_s=phase, quantum_w=1e-9)).power(at)
    ends = [phase + n * period for n in range(-20, 2000)]
    last = max(end for end in ends if end <= at + 1e-9)
    assert reading.at_s == pytest.approx(last)
    seen = (
        fine_integral(WAVE, last - window, last) / window
        if last - window >= 0
        else WAVE.mean_power(last - window, last)
    )
    assert reading.value == pytest.approx(seen, abs=2)


def test_what_a_sensor_does_not_look_at_it_does_not_see():
    load = Load(curve=((0, 100), (0.02, 700), (0.09, 100)), repeat_s=0.1)  # high just where nobody looks
    blind = card(load, sensor=Sensor(period_s=0.1, window_s=0.01))
    assert {blind.power(n / 20).value for n in range(40)} == {100.0}
    assert blind.true_energy_j(0, 1) == pytest.approx(0.07 * 700 * 10 + 0.03 * 100 * 10)
    seeing = card(load, sensor=Sensor(period_s=0.1, window_s=0.1))
    assert seeing.power(1.0).value == pytest.approx(520)


def test_reading_often_or_seldom_finds_the_same_looks():
    def readings(step: float) -> list[tuple[float, float]]:
        one = card(WAVE, sensor=Sensor(noise_w=5), seed=3)
        every = [(one.power(n * step), one.energy(n * step)) for n in range(round(12 / step) + 1)]
        return [(p.value, e.value) for p, e in every][:: round(1 / step)]

    assert readings(0.01) == readings(0.25) == readings(1.0)


def test_mean_power_is_the_mean_of_the_looks_of_its_window():
    load = Load(curve=((0, 100), (5, 500)))
    one = card(load, sensor=Sensor(period_s=0.1, window_s=0.025, mean_window_s=1.0, quantum_w=1e-9))
    means = {t: one.power_mean(t).value for t in (4.95, 5.25, 5.55, 5.95, 6.95)}
    assert means[4.95] == pytest.approx(100)
    # At 5.55 the looks that ended at 5.1 to 5.5 saw 500 W, the five before them 100 W.
    assert means[5.55] == pytest.approx(300)
    assert means[6.95] == pytest.approx(500)
    assert sorted(means.values()) == list(means.values())


def test_noise_is_that_of_single_looks_and_the_same_every_time():
    def watts(seed: int) -> list[float]:
        one = card(STEADY, sensor=Sensor(noise_w=8), seed=seed)
        return [one.power(n / 10).value for n in range(4000)]

    first = watts(1)
    assert first == watts(1)
    assert first != watts(2)
    assert statistics.mean(first) == pytest.approx(400, abs=0.6)
    assert statistics.stdev(first) == pytest.approx(8, rel=0.06)


def test_gain_and_offset_bend_readings_and_not_the_truth():
    one = card(STEADY, gain=1.1, offset_w=-7, sensor=Sensor(quantum_w=1e-6), counter=Counter(of="power"))
    assert one.power(3).value == pytest.approx(433)
    assert one.power_mean(3).value == pytest.approx(433)
    start_j = one.energy(3).value
    assert one.energy(5).value - start_j == pytest.approx(866)
    assert one.true_energy_j(0, 10) == 4000


def test_power_steps_by_its_quantum_and_is_never_negative():
    assert card(Load(power_w=123.456), sensor=Sensor(quantum_w=0.5)).power(1).value == 123.0
    assert card(Load(power_w=2), offset_w=-9).power(1).value == 0.0


def test_cards_share_a_load_by_their_scale():
    assert card(STEADY, load_scale=0.25).true_energy_j(0, 1) == 100
    assert card(STEADY, load_scale=0.25).power(1).value == 100


# The counter


@given(st.floats(0, 30))
@settings(deadline=None)
def test_a_counter_of_looks_is_the_sum_of_what_the_sensor_saw(at):
    one = card(
        WAVE, sensor=Sensor(period_s=0.1, window_s=0.025), counter=Counter(of="sensor", quantum_j=1e-9, start_j=0)
    )
    looks = [WAVE.mean_power(n * 0.1 - 0.025, n * 0.1) for n in range(math.floor(at / 0.1 + 1e-9) + 1)]
    assert one.energy(at).value == pytest.approx(math.fsum(looks) * 0.1)


@given(at=st.floats(0.5, 30), period=st.sampled_from([0.02, 0.1]), phase=st.sampled_from([0.0, 0.013]))
@settings(deadline=None)
def test_a_counter_of_power_is_the_truth_at_its_last_step(at, period, phase):
    counter = Counter(of="power", period_s=period, phase_s=phase, quantum_j=1e-9, start_j=50)
    reading = card(WAVE, counter=counter, gain=1.05, offset_w=3).energy(at)
    stepped = phase + math.floor((at - phase) / period + 1e-9) * period
    assert reading.at_s == pytest.approx(stepped)
    assert reading.value == pytest.approx(50 + 1.05 * WAVE.energy_until(stepped) + 3 * stepped)


def test_the_counter_has_a_quantum_and_a_past():
    one = card(STEADY, counter=Counter(of="power", quantum_j=25, start_j=1e6))
    values = [one.energy(n / 10).value - 1e6 for n in range(20)]
    assert {value % 25 for value in values} == {0}
    assert values[-1] == 750  # 1.9 s at 400 W are 760 J


def test_two_counters_disagree_where_the_sensor_is_blind():
    aliased = square_wave(0.1, 600, 200, duty=0.5)
    sensor = Sensor(period_s=0.1, window_s=0.025, phase_s=0.03)
    seen, true = (card(aliased, sensor=sensor, counter=Counter(of=of)) for of in ("sensor", "power"))
    differences = []
    for one in (seen, true):
        start = one.energy(1).value
        differences.append(one.energy(61).value - start)
    assert differences == [pytest.approx(600 * 60, rel=0.01), pytest.approx(400 * 60, rel=0.01)]


# Other scopes


def test_module_and_memory_have_watts_of_their_own():
    one = card(STEADY, module=Part(rest_w=140), memory=Part(share=0.2, rest_w=10), counter=Counter(scope="module"))
    assert [one.power(2, scope).value for scope in ("gpu", "module", "memory")] == [400, 540, 90]
    assert one.power_mean(2, "module").value == 540
    start = one.energy(2).value
    assert one.energy(12).value - start == pytest.approx(5400)
    assert one.true_energy_j(2, 12, "module") == 5400


# Faults that bend a card


@pytest.mark.parametrize("of", ["sensor", "power"])
def test_a_reset_starts_the_counter_again_and_forgets_earlier_jumps(of):
    faults = (fault(FaultKind.JUMP, 1.0, value=5000), fault(FaultKind.RESET, 3.0), fault(FaultKind.JUMP, 4.0, value=70))
    one = card(STEADY, counter=Counter(of=of), faults=faults)
    values = {at: one.energy(at).value for at in (0.95, 1.05, 2.95, 3.55, 4.05)}
    assert values[1.05] - values[0.95] == pytest.approx(5000 + 40, abs=1)
    assert values[2.95] > 1e6
    assert values[3.55] == pytest.approx(0.5 * 400, abs=41)
    assert values[4.05] == pytest.approx(1.0 * 400 + 70, abs=41)


def test_a_jump_below_nothing_ends_at_nothing():
    one = card(STEADY, counter=Counter(start_j=0), faults=(fault(FaultKind.JUMP, 1.0, value=-1e9),))
    assert one.energy(2).value == 0.0


def test_a_frozen_reading_stays_what_it_last_was_and_the_others_go_on():
    one = card(Load(curve=((0, 100), (2, 500))), faults=(fault(FaultKind.FROZEN, 1.5, until_s=4, readings=("power",)),))
    seen = [(at, one.power(at), one.energy(at).value) for at in (1.0, 1.4, 2.5, 3.9, 4.0)]
    assert [power.value for _, power, _ in seen] == [100, 100, 100, 100, 500]
    assert seen[3][1].at_s == seen[1][1].at_s  # its timestamp stands still too
    energies = [joules for *_, joules in seen]
    assert energies == sorted(set(energies))


def test_temperature_follows_the_power_of_half_a_minute_from_rest():
    one = SimulatedCard(Card(temperature_c=30, heating_c_per_w=0.1), Load(power_w=500), idle=Load(power_w=100))
    assert [one.temperature_c(at) for at in (0, 15, 30, 300)] == [40, 60, 80, 80]
    assert SimulatedCard(Card(temperature_c=30, heating_c_per_w=0.1), STEADY).temperature_c(0) == 70


def test_limits_foreign_processes_and_throttling_hold_while_they_last():
    one = card(
        STEADY,
        power_limit_w=700,
        faults=(
            fault(FaultKind.POWER_LIMIT, 2, until_s=5, value=450),
            fault(FaultKind.FOREIGN, 1, until_s=2, value=2),
            fault(FaultKind.FOREIGN, 1.5, value=1),
            fault(FaultKind.THROTTLE, 1, until_s=3),
            fault(FaultKind.POWER_CAP, 2),
            fault(FaultKind.POWER_BRAKE, 0, until_s=0.5),
        ),
    )
    assert [one.power_limit_w(at) for at in (0, 2, 4.9, 5)] == [700, 450, 450, 700]
    assert [one.foreign(at) for at in (0, 1, 1.6, 2.5)] == [0, 2, 3, 1]
    held = {
        cause: one.throttled_ns(6, cause) / 1e9 for cause in ("thermal", "hardware_thermal", "power_cap", "power_brake")
    }
    assert held == {"thermal": 2, "hardware_thermal": 2, "power_cap": 4, "power_brake": 0.5}
    assert one.throttled_ns(2.25, "thermal") == 1_250_000_000
    assert one.throttled_ns(6, "software_thermal") == 0


def test_busy_is_more_than_at_rest():
    resting = Load(power_w=70)
    assert SimulatedCard(Card(), STEADY, resting).busy(1)
    assert not SimulatedCard(Card(), resting, resting).busy(1)
    assert not card(Load(power_w=0)).busy(1)
