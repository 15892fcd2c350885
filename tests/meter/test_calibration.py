"""Polling finds what the simulated card truly does, and says nothing where nothing can be seen."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.meter.base import Calibration, Channel, ChannelCalibration, MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.calibration import calibrate, calibrated, observed_period_s
from harness.meter.nvml import NvmlMeter
from harness.meter.polling import poll
from harness.meter.sampler import Sampler
from harness.meter.samples import read
from harness.meter.simulated.load import Load, square_wave
from harness.meter.simulated.nvml import SimulatedNvml
from harness.meter.simulated.play import VirtualClock
from harness.meter.simulated.scenario import Card, Counter, Fault, FaultKind, Scenario, Sensor
from harness.types import Basis

NOISY = {"noise_w": 1.5, "quantum_w": 0.001}


def polled(path, card: Card, load: Load, *, jitter_s: float = 2e-4, seed: int = 0) -> tuple[MeterInfo, Calibration]:
    """A simulated card polled by the harness's own loop, in virtual time; reads come late by chance."""
    clock, late = VirtualClock(), random.Random(seed)
    meter = NvmlMeter(nvml=SimulatedNvml(Scenario(load=load, cards=(card,)), None, clock), clock=clock)
    info = meter.open(None, None)
    path.unlink(missing_ok=True)

    def sleep(seconds: float) -> None:
        clock.advance(seconds + (late.expovariate(1 / jitter_s) if jitter_s else 0.0))

    done = poll(meter, info, path, clock=clock, sleep=sleep)
    recording = read(path)
    assert not recording.torn
    assert done.count == len(recording.samples)
    return info, calibrate(info, recording.samples, read_s=done.read_s, read_cpu_s=done.read_cpu_s)


def of(calibration: Calibration, name: str) -> ChannelCalibration:
    return next(one for one in calibration.channels if one.channel == f"gpu0/{name}")


@pytest.mark.parametrize("counter_s", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("sensor_s", [0.02, 0.1])
def test_periods_of_counter_and_sensor(tmp_path, counter_s, sensor_s):
    card = Card(
        sensor=Sensor(period_s=sensor_s, window_s=sensor_s / 4, phase_s=0.007, **NOISY),
        counter=Counter(of="power", period_s=counter_s, phase_s=0.003),
    )
    info, found = polled(tmp_path / "p", card, Load(power_w=400))
    assert of(found, "energy").period_s == pytest.approx(counter_s, rel=0.03)
    assert of(found, "power").period_s == pytest.approx(sensor_s, rel=0.03)
    assert of(found, "power").period_spread_s < 0.003
    assert calibrated(info, found).update_period_s == pytest.approx(max(counter_s, sensor_s), rel=0.03)
    assert observed_period_s(calibrated(info, found)) == pytest.approx(max(counter_s, sensor_s), rel=0.03)
    assert observed_period_s(info) is None


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    period=st.floats(0.02, 0.15),
    phase=st.floats(0, 0.1),
    jitter=st.sampled_from([0.0, 2e-4, 2e-3]),
    seed=st.integers(0, 1000),
    watts=st.floats(50, 700),
)
def test_any_period_however_late_the_reads(tmp_path, period, phase, jitter, seed, watts):
    card = Card(
        sensor=Sensor(period_s=period, window_s=period / 4, phase_s=phase, **NOISY),
        counter=Counter(of="sensor"),
        seed=seed,
    )
    _, found = polled(tmp_path / "p", card, Load(power_w=watts), jitter_s=jitter, seed=seed)
    for name in ("energy", "power"):
        assert of(found, name).period_s == pytest.approx(period, rel=0.05)


@pytest.mark.parametrize("quantum_j", [0.001, 0.1, 1.0])
def test_the_counters_quantum(tmp_path, quantum_j):
    card = Card(sensor=Sensor(noise_w=3.0), counter=Counter(of="sensor", quantum_j=quantum_j, start_j=12345.0), seed=3)
    _, found = polled(tmp_path / "p", card, Load(power_w=433))
    assert of(found, "energy").quantum == pytest.approx(quantum_j, rel=1e-9)


@pytest.mark.parametrize("quantum_w", [0.001, 0.5, 1.0])
def test_the_sensors_quantum(tmp_path, quantum_w):
    card = Card(sensor=Sensor(period_s=0.02, window_s=0.005, noise_w=5.0, quantum_w=quantum_w))
    _, found = polled(tmp_path / "p", card, Load(power_w=300))
    assert of(found, "power").quantum == pytest.approx(quantum_w, rel=1e-9)


def test_a_constant_power_tells_no_period_and_the_assumption_stays_by_name(tmp_path):
    card = Card(sensor=Sensor(quantum_w=0.5), counter=Counter(of="power", period_s=0.02))
    info, found = polled(tmp_path / "p", card, Load(power_w=70.25))
    power, energy = of(found, "power"), of(found, "energy")
    assert (power.updates, power.period_s, power.period_spread_s, power.quantum) == (0, None, None, None)
    assert power.averaging_window_s is None
    assert of(found, "power_mean").averaging_window_s is None
    assert energy.period_s == pytest.approx(0.02, rel=0.03)
    after = calibrated(info, found)
    assert after.update_period_s == info.update_period_s == 0.1
    assert any(
        "gpu0/power (it did not change)" in text and "100 ms stays assumed" in text for text in after.assumptions
    )
    assert observed_period_s(after) is None


def test_a_card_at_zero_watts_tells_nothing(tmp_path):
    info, found = polled(tmp_path / "p", Card(), Load(power_w=0))
    assert all((one.updates, one.period_s, one.quantum) == (0, None, None) for one in found.channels)
    assert calibrated(info, found).update_period_s == info.update_period_s


def test_dropouts_are_no_long_periods(tmp_path):
    missing = tuple(Fault(kind=FaultKind.MISSING, from_s=at, until_s=at + 0.25) for at in (0.3, 0.9, 1.6))
    card = Card(sensor=Sensor(period_s=0.05, window_s=0.0125, **NOISY), faults=missing)
    _, found = polled(tmp_path / "p", card, Load(power_w=400))
    for name in ("energy", "power"):
        assert of(found, name).period_s == pytest.approx(0.05, rel=0.03)
        assert of(found, name).period_spread_s < 0.005


def test_a_card_that_is_lost_at_once_tells_nothing(tmp_path):
    card = Card(faults=(Fault(kind=FaultKind.LOST, from_s=0.001),))
    _, found = polled(tmp_path / "p", card, Load(power_w=400))
    assert all(one.period_s is None for one in found.channels)


def test_equal_values_in_a_row_hide_no_period(tmp_path):
    """A sensor in whole watts at little noise often gives the same value twice."""
    card = Card(sensor=Sensor(period_s=0.02, window_s=0.005, noise_w=0.8, quantum_w=1.0), seed=5)
    _, found = polled(tmp_path / "p", card, Load(power_w=70.5))
    power = of(found, "power")
    assert power.updates < 2.0 / 0.02 * 0.9  # updates were hidden
    assert power.period_s == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("window_s", [0.5, 1.0])
@pytest.mark.parametrize("period_s", [0.02, 0.1])
def test_the_averaging_window_shows_after_a_step_of_the_load(tmp_path, window_s, period_s):
    card = Card(sensor=Sensor(period_s=period_s, window_s=period_s / 4, mean_window_s=window_s, noise_w=0.5))
    load = Load(curve=((0.0, 100.0), (0.6, 500.0)))
    _, found = polled(tmp_path / "p", card, load)
    assert of(found, "power_mean").averaging_window_s == pytest.approx(window_s, rel=0.12)
    assert of(found, "power").averaging_window_s is None


def test_an_oscillating_load_has_no_step_to_see_a_window_by(tmp_path):
    card = Card(sensor=Sensor(noise_w=0.5))
    _, found = polled(tmp_path / "p", card, square_wave(0.4, 600, 100))
    assert of(found, "power_mean").averaging_window_s is None


def counter(values, every_s):
    """A counter that is read every so often."""
    channel = Channel(
        name="package-0/energy", quantity=Quantity.ENERGY_J, device="package-0", scope="packages",
        basis=Basis.MEASURED, quantum=1e-6,
    )  # fmt: skip
    info = MeterInfo(name="rapl", basis=Basis.MEASURED, source="t", channels=(channel,), update_period_s=0.001)
    return info, [Sample(0, round(i * every_s * 1e9), ReadStatus.OK, value * 1e-6) for i, value in enumerate(values)]


def test_a_counter_faster_than_the_polls_has_no_period():
    late = random.Random(1)
    total, values = 0, []
    for _ in range(1000):
        total += late.randint(15_000, 25_000)
        values.append(total)
    info, samples = counter(values, 0.002)
    found = calibrate(info, samples, read_s=1e-5, read_cpu_s=1e-5)
    assert found.channels[0].updates == 999
    assert found.channels[0].period_s is None
    assert calibrated(info, found).update_period_s == 0.001
    assert found.poll_hz == pytest.approx(500)


@pytest.mark.parametrize("steps", [[1_400_000], [40_000, 20_000]])
def test_steps_of_a_load_without_noise_are_no_quantum(steps):
    total, values = 0, []
    for i in range(600):
        total += steps[i // 10 % len(steps)] if i % 10 == 0 else 0
        values.append(total)
    info, samples = counter(values, 0.002)
    found = calibrate(info, samples, read_s=1e-5, read_cpu_s=1e-5).channels[0]
    assert found.period_s == pytest.approx(0.02)
    assert found.quantum is None


def test_several_cards_the_slowest_counts(tmp_path):
    cards = tuple(
        Card(sensor=Sensor(period_s=p, window_s=p / 4, **NOISY), counter=Counter(of="power", period_s=p))
        for p in (0.02, 0.08)
    )
    clock = VirtualClock()
    meter = NvmlMeter(nvml=SimulatedNvml(Scenario(load=Load(power_w=300), cards=cards), None, clock), clock=clock)
    info = meter.open(None, None)
    done = poll(meter, info, tmp_path / "p", clock=clock, sleep=clock.advance)
    found = calibrate(info, read(tmp_path / "p").samples, read_s=done.read_s, read_cpu_s=done.read_cpu_s)
    assert calibrated(info, found).update_period_s == pytest.approx(0.08, rel=0.03)


def test_polling_stops_early_only_when_enough_was_seen(tmp_path):
    quick = Card(sensor=Sensor(period_s=0.02, window_s=0.005, **NOISY))
    _, found = polled(tmp_path / "p", quick, Load(power_w=300))
    assert 2.0 <= found.seconds < 2.1
    _, found = polled(tmp_path / "p", Card(), Load(power_w=300))
    assert 2.9 < found.seconds < 3.1


def test_the_samplers_process_calibrates_and_every_later_run_carries_it(tmp_path):
    scenario = tmp_path / "card.yaml"
    scenario.write_text(
        "load: {power_w: 300}\ncards: [{sensor: {period_s: 0.05, window_s: 0.0125, noise_w: 2}}]\n", encoding="utf-8"
    )
    with Sampler("simulated", {"scenario": str(scenario)}) as sampler:
        found = sampler.calibrate(None, tmp_path / "calibration")
        assert of(found, "power").period_s == pytest.approx(0.05, rel=0.05)
        assert 0 < found.read_cpu_s < 0.01
        assert 0 < found.read_s < 0.01
        with pytest.raises(FileExistsError, match="never overwritten"):
            sampler.calibrate(None, tmp_path / "calibration")
        info = sampler.start(None, None, tmp_path / "run")
        sampler.stop()
    assert info.calibration == found
    assert info.update_period_s == pytest.approx(0.05, rel=0.05)
    recording = read(tmp_path / "calibration")
    again = calibrate(recording.info, recording.samples, read_s=found.read_s, read_cpu_s=found.read_cpu_s)
    assert again == found  # the raw polls are enough to say the same again
    assert read(tmp_path / "run").info == info


def test_a_model_is_not_polled(tmp_path):
    with Sampler("modelled", {"watts_per_core": 4.0}) as sampler:
        assert sampler.calibrate(None, tmp_path / "calibration") is None
    assert not (tmp_path / "calibration").exists()
