"""When a value was refreshed: brackets, the driver's timestamps, and drivers whose timestamps tell nothing."""

from __future__ import annotations

import random
from itertools import pairwise
from statistics import median

import pytest
from meter_samples import MS, NS, channel, info

from harness.meter.base import Calibration, ChannelCalibration, Quantity
from harness.meter.refresh import (
    FEWEST_STAMPS,
    MOST_STAMPS,
    observed_period_ns,
    refresh_of,
    stamps_are_updates,
    updates_of,
)

PERIOD = 100 * MS
OTHER_CLOCK = 1_700_000_000 * NS


def staircase(reads: int, *, seed: int = 0, drift: float = 0.0, period: int = PERIOD):
    """Reads about every 50 ms of a counter refreshed every 100: times, values, stamps of updates, and the truth."""
    rng = random.Random(seed)
    at = [NS + i * 50 * MS + round(rng.expovariate(1 / MS)) + i * 30_000 for i in range(reads)]
    values = [t // period for t in at]
    stamps = [OTHER_CLOCK + round(v * period * (1 + drift)) for v in values]
    moved = [i for i in range(1, reads) if values[i] != values[i - 1]]
    return at, [float(v) for v in values], stamps, moved, [values[i] * period for i in moved]


def test_a_bracket_holds_the_update_and_its_middle_is_taken():
    at, _, _, moved, truth = staircase(400)
    times, slack = updates_of(at, moved, None, PERIOD)
    for i, time, width, true in zip(moved, times, slack, truth, strict=True):
        assert at[i - 1] < time <= at[i]
        assert abs(time - true) <= width / 2 + 1
        assert width == min(PERIOD, at[i] - at[i - 1])


def test_a_long_bracket_is_cut_to_one_period():
    times, slack = updates_of([0, 1000 * MS], [1], None, PERIOD)
    assert (times, slack) == ([950 * MS], [PERIOD])
    assert updates_of([0, 1000 * MS], [1], None, None) == ([500 * MS], [1000 * MS])


@pytest.mark.parametrize("drift", [0.0, 10e-6, -50e-6])
def test_stamps_of_updates_place_them_better_than_brackets(drift):
    """Clocks that are slewed together, as Linux does it, keep their difference; others drift apart."""
    at, values, stamps, moved, truth = staircase(14000, drift=drift)
    assert stamps_are_updates(values, stamps)
    times, slack = updates_of(at, moved, stamps, PERIOD)
    brackets, _ = updates_of(at, moved, None, PERIOD)
    errors = [abs(a - b) for a, b in zip(times, truth, strict=True)]
    plain = [abs(a - b) for a, b in zip(brackets, truth, strict=True)]
    assert median(errors) < median(plain) / 2
    assert drift or max(errors) < 8 * MS < max(plain)
    # The stated slack holds the truth, but for what clocks drift apart within one stretch.
    assert sum(error > width for error, width in zip(errors, slack, strict=True)) < 0.05 * len(errors)
    assert all(a < b for a, b in pairwise(times))
    assert all(at[i - 1] < t <= at[i] for i, t in zip(moved, times, strict=True))


def test_a_clock_that_is_set_costs_the_stamps_around_it_alone():
    at, values, stamps, moved, truth = staircase(14000)
    jump = moved[1000]
    shifted = [s + (3 * NS if i >= jump else 0) for i, s in enumerate(stamps)]
    assert stamps_are_updates(values, shifted)
    times, slack = updates_of(at, moved, shifted, PERIOD)
    assert all(at[i - 1] < t <= at[i] for i, t in zip(moved, times, strict=True))
    brackets = updates_of(at, moved, None, PERIOD)[1]
    assert sum(a == b for a, b in zip(slack, brackets, strict=True)) <= FEWEST_STAMPS * 2
    later = slice(MOST_STAMPS, 2 * MOST_STAMPS)
    assert max(abs(a - b) for a, b in zip(times[later], truth[later], strict=True)) < 8 * MS


def test_times_of_reads_are_no_times_of_updates():
    at, values, stamps, _, _ = staircase(400)
    assert not stamps_are_updates(values, [OTHER_CLOCK + t for t in at])
    assert not stamps_are_updates(values, [None] * len(at))
    lying = list(stamps)
    moved = next(i for i in range(1, 400) if values[i] != values[i - 1])
    lying[moved] = lying[moved - 1]  # the value moved, the stamp did not
    assert not stamps_are_updates(values, lying)


def test_a_driver_that_repeats_a_stamp_now_and_then_proves_nothing():
    at, values, _, _, _ = staircase(400)
    stamps = [OTHER_CLOCK + t for t in at]
    for i in range(1, 30, 2):
        stamps[i] = stamps[i - 1]
        values[i] = values[i - 1]
    assert not stamps_are_updates(values, stamps)


def test_the_period_is_what_was_observed_else_said_else_the_worst_published():
    counter = channel(Quantity.ENERGY_J, "gpu0/energy")
    seen = ChannelCalibration(channel="gpu0/energy", updates=50, period_s=0.02, averaging_window_s=0.5)
    calibration = Calibration(seconds=2.0, poll_hz=500.0, read_s=1e-4, read_cpu_s=1e-4, channels=(seen,))
    assert refresh_of(info(counter), counter).period_ns == 100 * MS
    assert refresh_of(info(counter), counter).look_ns == 25 * MS
    assert refresh_of(info(counter, update_period_s=0.05, look_s=0.01), counter).period_ns == 50 * MS
    observed = refresh_of(info(counter, update_period_s=0.1, calibration=calibration), counter)
    assert (observed.period_ns, observed.look_ns, observed.averaging_ns) == (20 * MS, 20 * MS, 500 * MS)
    seconds = channel(Quantity.CPU_S)
    assert refresh_of(info(seconds), seconds).period_ns == 0


def test_values_that_change_more_often_are_refreshed_more_often():
    at = [i * 40 * MS for i in range(60)]
    assert observed_period_ns(at, range(1, 60), PERIOD) == 40 * MS
    assert observed_period_ns(at, range(1, 60, 20), PERIOD) == PERIOD  # too few to tell
    assert observed_period_ns([i * NS for i in range(60)], range(1, 60), PERIOD) == PERIOD
