"""The aliasing check against simulated sensors: nothing aliased goes unflagged, most else does, the bound holds."""

from __future__ import annotations

import cmath
import math
import random

import numpy as np
import pytest
from faulty_runs import card, metered
from hypothesis import example, given, settings
from hypothesis import strategies as st
from meter_samples import channel, info
from step_aliasing import HIGH, LOOK, LOW, T, energy_until, errors, jittered, main, periods, swing

from harness.meter.aliasing import CURED, MATTERS, _mean_square, check, cure_s, limit, sensor_of, sensors_of, together
from harness.meter.base import Calibration, ChannelCalibration, Quantity
from harness.meter.simulated.load import Load, square_wave
from harness.meter.simulated.scenario import Counter, Fault, FaultKind, Sensor


def test_the_square_wave_of_these_tests_is_that_of_the_simulated_card():
    load = square_wave(0.137, HIGH, LOW, 0.3)
    for at_s in np.random.default_rng(1).random(50) * 10:
        assert energy_until(at_s, 0.137, 0.3) == pytest.approx(load.energy_until(at_s))


@pytest.mark.parametrize("duty", [0.5, 0.3, 0.85])
def test_no_resonance_above_one_percent_goes_unflagged_and_most_else_is_left_alone(duty):
    grid, exact = periods(1500)
    aliased = 0
    for step_s in [*grid, *exact]:
        found = check(step_s, 60.0, T, LOOK, swing=swing(duty))
        worst = np.abs(errors(step_s, 60.0, duty)).max()
        aliased += worst > MATTERS
        assert found.flagged or worst <= MATTERS, step_s
    flagged = sum(check(step_s, 60.0, T, LOOK, swing=swing(duty)).flagged for step_s in grid)
    assert aliased > 100
    assert flagged / len(grid) < 0.2


@pytest.mark.parametrize("window_s", [5.0, 20.0, 60.0, 600.0])
def test_the_bound_holds_in_the_mean_square_and_at_its_ninety_five_percent(window_s):
    rng = random.Random(3)
    outside = []
    for _ in range(120):
        step_s = 0.005 * 1000 ** rng.random()
        if rng.random() < 0.4:  # at or beside a resonance
            step_s = rng.randint(1, 20) * T / rng.randint(1, 12) * (1 + rng.choice([0, 1e-4, 1e-3, 1e-2]))
        duty = rng.uniform(0.2, 0.8)
        bound = check(step_s, window_s, T, LOOK, swing=swing(duty)).relative_sd
        found = errors(step_s, window_s, duty, starts=200 if window_s < 100 else 40, seed=7)
        assert math.sqrt(np.mean(found**2)) <= 1.05 * bound + 1e-4
        outside.append(np.mean(np.abs(found) > 1.96 * bound + 1e-4))
    assert np.mean(outside) < 0.05


@pytest.mark.parametrize(
    ("step_ms", "flagged"),
    [
        (50, True),
        (100, True),
        (101, True),
        (200, True),
        (300, True),
        (98.5, True),
        (103, False),
        (137, False),
        (333, False),
    ],
)
def test_rule_ten_on_the_step_times_of_the_published_table(step_ms, flagged):
    found = check(step_ms / 1e3, 120.0, T, LOOK)
    assert found.flagged is flagged
    if flagged:
        assert found.at_stake > 0.1
        assert "alias with a power sensor that is read every 100 ms" in found.text


def test_under_ten_beats_in_a_window_are_flagged_and_more_are_not():
    beats_a_second = 0.4  # 4 % beside the sensor's rate, too far for its own rule
    step_s = 1 / (1 / T + beats_a_second)
    few, many = (check(step_s, beats / beats_a_second, T, LOOK) for beats in (8, 40))
    assert few.flagged
    assert few.beats == pytest.approx(8)
    assert (few.harmonic, few.multiple) == (1, 1)
    assert not many.flagged
    assert many.relative_sd < few.relative_sd


def test_a_sensor_that_never_looks_away_does_not_alias():
    assert check(0.1, 60.0, 0.1, 0.1).relative_sd == 0.0
    assert not check(0.1, 60.0, 0.1, 0.1).flagged


def test_steps_of_unlike_length_blur_a_resonance():
    sds = [check(0.1, 60.0, T, LOOK, spread_s=spread_s).relative_sd for spread_s in (0, 1e-3, 5e-3, 2e-2)]
    assert sds == sorted(sds, reverse=True)
    assert sds[-1] < sds[0] / 5


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.floats(-math.pi, math.pi), st.integers(1, 60))
@example(rho=0.99999, theta=0.0, n=2)
@example(rho=0.9999, theta=1e-4, n=7)
def test_coherence_is_the_mean_square_of_correlated_phasors(rho, theta, n):
    r = rho * cmath.exp(1j * theta)
    pairs = (r ** (b - a) if b >= a else (r ** (a - b)).conjugate() for a in range(n) for b in range(n))
    assert _mean_square(r, n) == pytest.approx(sum(pairs).real / n**2, abs=1e-6)


@settings(max_examples=80, deadline=None)
@given(st.floats(0.003, 8), st.floats(0.5, 2000), st.floats(0, 0.2), st.floats(0.1, 1.5))
def test_it_scales_with_the_swing_and_never_exceeds_what_the_load_can_do(step_s, window_s, jitter_s, high):
    one, more = (check(step_s, window_s, T, LOOK, swing=s, jitter_s=jitter_s) for s in (high, 2 * high))
    assert more.relative_sd == pytest.approx(2 * one.relative_sd)
    assert one.relative_sd <= high * 1.1 / math.sqrt(3)
    assert more.flagged or not one.flagged
    assert (one.at_stake >= limit(jitter_s)) is one.flagged


def test_lengths_that_are_nothing_are_refused():
    with pytest.raises(ValueError, match="longer than nothing"):
        check(0.0, 60.0, T, LOOK)


# Jitter, the cure.


@pytest.mark.parametrize(
    ("step_s", "jitter_s"), [(0.1, 0.005), (0.1, 0.02), (0.1, 0.1), (0.09, 0.02), (0.05, 0.01), (0.3, 0.05)]
)
def test_jitter_cures_a_resonance_by_as_much_as_the_check_says(step_s, jitter_s):
    rng = np.random.default_rng(11)
    found, mean_w = np.array([jittered(rng, step_s, jitter_s, 600) for _ in range(150)]).T
    mean_step_s = step_s + jitter_s / 2
    bound = check(mean_step_s, 600 * mean_step_s, T, LOOK, swing=(HIGH - LOW) / mean_w.mean(), jitter_s=jitter_s)
    rms = math.sqrt(np.mean(found**2))
    assert rms < 1.25 * bound.relative_sd  # 150 windows tell a spread to 6 %, a delay is no square wave
    assert rms > bound.relative_sd / 2


def test_the_cure_that_is_advised_works():
    rng = np.random.default_rng(12)
    for step_s in (0.05, 0.1, 0.3, 0.5):
        jitter_s = cure_s(step_s, 600 * step_s, T, LOOK)
        assert jitter_s is not None
        before = np.abs(errors(step_s, 600 * step_s)).max()
        found, _ = np.array([jittered(rng, step_s, jitter_s, 600) for _ in range(100)]).T
        assert before > 0.1
        assert np.quantile(np.abs(found), 0.95) < CURED


def test_a_window_too_short_for_any_jitter_has_no_cure():
    assert cure_s(0.1, 0.5, T, LOOK) is None


def test_the_study_runs(capsys):
    main(["--quick"])
    assert "| 100 ms | 50.00% |" in capsys.readouterr().out


# The sensor of a meter, and a whole run.


def test_the_observed_period_of_the_power_sensor_goes_before_the_assumed_one():
    power, counter = channel(Quantity.POWER_W, "gpu0/power"), channel(Quantity.ENERGY_J, "gpu0/energy")
    assumed = info(power, counter, update_period_s=0.1, look_s=0.025)
    assert sensor_of(assumed) == (0.1, 0.025)
    seen = tuple(ChannelCalibration(channel=c.name, updates=9, period_s=p) for c, p in ((power, 0.03), (counter, 0.02)))
    observed = Calibration(seconds=2, poll_hz=500, read_s=1e-4, read_cpu_s=1e-4, channels=seen)
    assert sensor_of(assumed.model_copy(update={"calibration": observed})) == (0.03, 0.025)


def test_reads_slower_than_the_sensor_have_a_rhythm_of_their_own_where_no_counter_adds_its_looks_up():
    power, counter = channel(Quantity.POWER_W, "gpu0/power"), channel(Quantity.ENERGY_J, "gpu0/energy")
    fast = {"update_period_s": 0.02, "look_s": 0.0106, "sample_hz": 20.0}
    assert sensors_of(info(power, **fast)) == [(0.02, 0.0106), (0.05, 0.0106)]
    assert sensors_of(info(power, counter, **fast)) == [(0.02, 0.0106)]
    other = channel(Quantity.ENERGY_J, "gpu1/energy", device="GPU-b")
    assert len(sensors_of(info(power, other, **fast))) == 2  # the counter of another card
    assert sensors_of(info(power, **(fast | {"look_s": 0.02}))) == [(0.05, 0.02)]  # it never rests, but the reads do
    assert sensors_of(info(power, **(fast | {"sample_hz": 100.0}))) == [(0.02, 0.0106)]


@pytest.mark.parametrize("step_s", [0.05, 0.02007])
def test_an_integral_of_slow_reads_is_flagged_where_it_errs(step_s):
    """20 reads a second of a sensor of 20 ms: steps in the rhythm of the reads, and in that of the sensor."""
    no_counter = Fault(kind=FaultKind.UNSUPPORTED, readings=("energy",))
    sensor = Sensor(period_s=0.02, window_s=0.0106)
    fast = card(no_counter).model_copy(update={"sensor": sensor})
    one = metered(fast, load=square_wave(step_s, 300, 60), step_s=step_s)
    assert one.record.conditions["aliasing"]["error"] > MATTERS


@pytest.mark.parametrize("fields", [{}, {"update_period_s": 1e-3}, {"update_period_s": 1.0, "look_s": 1.0}])
def test_meters_that_look_all_the_time_have_no_such_sensor(fields):
    assert sensor_of(info(channel(Quantity.ENERGY_J), **fields)) is None


def test_windows_add_in_quadrature_by_their_weight():
    part = check(0.1, 10.0, T, LOOK)
    assert together([(part, 10.0)] * 4, 40.0) == pytest.approx(part.at_stake / 2)


def aliased(step_s, *, counter="sensor", jitter_s=0.0, spans_s=((2.0, 26.0),)):
    return metered(
        card(counter=Counter(of=counter)),
        load=square_wave(step_s, HIGH, LOW),
        step_s=step_s,
        jitter_s=jitter_s,
        spans_s=spans_s,
    )


@pytest.mark.parametrize("step_s", [0.1, 0.05, 0.2])
@pytest.mark.parametrize("counter", ["sensor", "power"])
def test_an_aliased_run_says_so_in_its_record_and_its_interval_still_covers_the_truth(step_s, counter):
    run = aliased(step_s, counter=counter)
    told, energy = run.record.conditions["aliasing"], run.record.energy
    assert told["step_s"] == pytest.approx(step_s, rel=1e-3)
    assert told["sensor_period_s"] == 0.1
    assert told["error"] > told["limit"] == MATTERS
    (warning,) = [text for text in run.record.warnings if "alias" in text]
    assert f"steps of {step_s * 1e3:g} ms alias" in warning
    assert "set recipe.jitter_s to" in warning
    assert energy.parts["aliasing"] > 0.05 * energy.joules
    assert energy.joules == pytest.approx(run.truth_j, abs=energy.expanded_j)


def test_a_run_off_resonance_says_nothing():
    run = aliased(0.137)
    assert "aliasing" not in run.record.conditions
    assert not any("alias" in text for text in run.record.warnings)
    assert run.record.energy.parts["aliasing"] < 0.01 * run.record.energy.joules


def test_every_window_is_judged_by_its_own_step():
    """Dense and sparse phases differ in length: one alone may alias."""
    load = Load(curve=tuple(wave for i in range(300) for wave in ((i * 0.1, HIGH), (i * 0.1 + 0.05, LOW))))
    spans_s = ((0.5, 12.5), (12.5, 24.5))
    run = metered(card(), load=load, step_s=0.1, spans_s=spans_s)
    first, second = (window.energy for window in run.record.windows)
    assert first.parts["aliasing"] / first.joules == pytest.approx(second.parts["aliasing"] / second.joules)
    mixed = metered(card(), load=load, step_s=0.137, spans_s=((0.5, 1.9), (1.9, 24.5)))
    shares = [window.energy.parts["aliasing"] / window.energy.joules for window in mixed.record.windows]
    assert shares[0] > 3 * shares[1]


def test_many_short_windows_off_resonance_do_not_spoil_a_run():
    """Probes cut a training in windows of seconds: each has few beats, together they average out."""
    spans_s = tuple((4.0 * i + 0.5, 4.0 * i + 3.9) for i in range(20))
    run = metered(card(), load=square_wave(0.137, HIGH, LOW), step_s=0.137, spans_s=spans_s, stop_s=82)
    assert check(0.137, 3.4, T, LOOK).flagged
    assert "aliasing" not in run.record.conditions
    at_resonance = metered(card(), load=square_wave(0.1, HIGH, LOW), step_s=0.1, spans_s=spans_s, stop_s=82)
    assert at_resonance.record.conditions["aliasing"]["error"] > 0.05


def test_with_jitter_an_error_within_its_limit_is_no_condition():
    run = aliased(0.125, jitter_s=0.05)  # the mean step of 100 ms and delays of up to 50
    assert "aliasing" not in run.record.conditions
    assert aliased(0.1, jitter_s=0.001).record.conditions["aliasing"]["jitter_s"] == 0.001
