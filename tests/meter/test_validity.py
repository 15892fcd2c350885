from __future__ import annotations

import re

import pytest
from meter_samples import NS, bad, channel, counter, info, ok, power

from harness.meter.base import Quantity, ReadStatus
from harness.meter.validity import cautions_about, conditions_of, reasons_against

METER = info(
    channel(Quantity.ENERGY_J, "gpu0/energy"),
    channel(Quantity.POWER_W, "gpu0/power"),
    channel(Quantity.TEMPERATURE_C, "gpu0/temperature"),
    channel(Quantity.THROTTLE_NS, "gpu0/throttle_power_cap"),
    channel(Quantity.POWER_LIMIT_W, "gpu0/power_limit"),
    channel(Quantity.FOREIGN_PROCESSES, "gpu0/foreign"),
    channel(Quantity.THROTTLE_NS, "gpu0/throttle_thermal"),
)
WINDOWS = [(NS, 4 * NS), (5 * NS, 9 * NS), (9 * NS, 9 * NS)]


def slow(index, *values):
    return [ok(index, i * NS, value) for i, value in enumerate(values)]


def sound():
    return [
        *counter(300, 10),
        *power(300, 10),
        *slow(2, *range(40, 51)),
        *slow(3, *[7] * 11),
        *slow(4, *[350] * 11),
        *slow(5, *[0] * 11),
        *slow(6, *[9] * 11),
    ]


def test_nothing_speaks_against_a_sound_run():
    assert reasons_against(METER, sound(), WINDOWS) == []
    assert cautions_about(METER, sound(), WINDOWS) == []
    assert conditions_of(METER, sound()) == {
        "samples": len(sound()),
        "temperature_start_c": 40,
        "temperature_end_c": 50,
        "temperature_min_c": 40,
        "temperature_max_c": 50,
        "power_capped_ns": 0,
        "throttle": {"thermal_ns": 0},
        "power_limit_before_w": 350,
        "power_limit_w": 350,
        "power_limit_after_w": 350,
        "foreign_before": 0,
        "foreign_processes": 0,
        "foreign_after": 0,
        "longest_gap_s": pytest.approx(0.05),
    }


def changed(index, at_s, value):
    """A sound run in which one reading of a channel is another."""
    return [ok(index, x.at_ns, value) if (x.channel, x.at_ns) == (index, at_s * NS) else x for x in sound()]


def test_conditions_are_told_before_during_and_after_the_windows():
    temperatures = {0: 20, 1: 41, 5: 70, 8: 44, 9: 60, 10: 90}  # charged from 1 to 9 s
    samples = sound()
    for at_s, value in temperatures.items():
        samples = [ok(2, x.at_ns, value) if (x.channel, x.at_ns) == (2, at_s * NS) else x for x in samples]
    found = conditions_of(METER, samples, WINDOWS)
    keys = ("temperature_start_c", "temperature_min_c", "temperature_max_c", "temperature_end_c")
    assert [found[key] for key in keys] == [41, 41, 70, 60]
    for at_s, seen in ((0, (0, 0, 0)), (1, (3, 3, 0)), (5, (0, 3, 0)), (10, (0, 0, 0))):
        found = conditions_of(METER, changed(5, at_s, 3), WINDOWS)
        assert (found["foreign_before"], found["foreign_processes"], found["foreign_after"]) == seen


def test_a_run_between_two_slow_readings_is_judged_by_those_around_it():
    window = [(round(3.2 * NS), round(3.7 * NS))]
    assert conditions_of(METER, sound(), window)["temperature_max_c"] == 44  # read at 3 and at 4 s
    assert reasons_against(METER, changed(5, 3, 2), window) == ["GPU-a was shared with 2 foreign processes"]
    assert reasons_against(METER, changed(4, 4, 300), window) == ["the power limit of GPU-a changed (300 to 350 W)"]


def test_neighbours_just_outside_the_windows_are_a_caution():
    (caution,) = cautions_about(METER, changed(5, 4, 2), [(round(4.5 * NS), 8 * NS)])
    assert caution == "GPU-a: 2 foreign processes were on the card just before or after"


@pytest.mark.parametrize(
    "fault",
    [
        lambda s: [x for x in s if x.channel != 6],
        lambda s: [bad(6, x.at_ns, ReadStatus.UNSUPPORTED) if x.channel == 6 else x for x in s],
        lambda s: [ok(6, x.at_ns, 1) if (x.channel, x.at_ns) == (6, 5 * NS) else x for x in s],  # started again
    ],
)
def test_throttling_that_could_not_be_read_is_unknown_not_none(fault):
    found = conditions_of(METER, fault(sound()), WINDOWS)
    assert "throttle" not in found
    assert found["throttle_unread"] == ["thermal"]
    assert found["power_capped_ns"] == 0
    assert cautions_about(METER, fault(sound()), WINDOWS) == [
        "throttling by thermal could not be read: whether clocks were held back is not known"
    ]


def test_one_card_that_cannot_tell_leaves_the_sum_unknown():
    two = info(
        *(channel(Quantity.THROTTLE_NS, f"gpu{i}/throttle_thermal", device=f"GPU-{i}") for i in range(2)),
        channel(Quantity.ENERGY_J, "gpu0/energy"),
    )
    samples = [*slow(0, *range(11)), *counter(300, 10, index=2)]
    assert conditions_of(two, samples, WINDOWS)["throttle_unread"] == ["thermal"]
    assert "throttle" not in conditions_of(two, samples, WINDOWS)
    both = [*samples, *slow(1, *range(0, 22, 2))]
    assert conditions_of(two, both, WINDOWS)["throttle"] == {"thermal_ns": 8 + 16}  # between 1 and 9 s


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda s: [x for x in s if x.channel > 1 or not 6 * NS < x.at_ns < 7 * NS], "only 85.7% of the measured time"),
        (lambda s: [ok(5, 6 * NS, 2) if x == ok(5, 6 * NS, 0) else x for x in s], "shared with 2 foreign processes"),
        (lambda s: [ok(4, 6 * NS, 300) if x == ok(4, 6 * NS, 350) else x for x in s], r"changed \(300 to 350 W\)"),
        (
            lambda s: [ok(0, x.at_ns, x.value - 1000) if x.channel == 0 and x.at_ns > 6 * NS else x for x in s],
            "gpu0/energy fell or jumped once: the counter was reset",
        ),
        (
            lambda s: [bad(x.channel, x.at_ns, ReadStatus.LOST) if x.at_ns == 6 * NS else x for x in s],
            "GPU-a was lost while it was measured",
        ),
    ],
)
def test_each_fault_is_named(fault, reason):
    found = reasons_against(METER, fault(sound()), WINDOWS)
    assert len(found) == 1
    assert re.search(reason, found[0])


def test_faults_outside_the_windows_do_not_count():
    after = [*sound(), bad(0, 12 * NS, ReadStatus.LOST), ok(5, 12 * NS, 3), ok(4, 12 * NS, 100)]
    assert reasons_against(METER, after, WINDOWS) == []
    assert reasons_against(METER, [], []) == []


def test_no_samples_is_no_coverage():
    assert reasons_against(METER, [], WINDOWS) == ["only 0.0% of the measured time was observed (95% are needed)"]


def test_throttling_and_unchecked_neighbours_are_cautions_and_conditions():
    samples = [ok(x.channel, x.at_ns, x.at_ns / 2) if x.channel in (3, 6) else x for x in sound() if x.channel != 5]
    assert reasons_against(METER, samples, WINDOWS) == []
    capped, hot, unchecked = cautions_about(METER, samples, WINDOWS)
    assert capped == "gpu0/throttle_power_cap: clocks were held back for 57.1% of the windows' time"
    assert hot.startswith("gpu0/throttle_thermal: clocks were held back")
    assert "whether others used the card is not known" in unchecked
    conditions = conditions_of(METER, samples)
    assert conditions["power_capped_ns"] == 5 * NS
    assert conditions["throttle"] == {"thermal_ns": 5 * NS}
    assert "foreign_processes" not in conditions


def test_a_meter_of_cpu_seconds_has_few_conditions():
    meter = info(channel(Quantity.CPU_S, device="cpu"))
    assert conditions_of(meter, counter(1, 2)) == {"samples": 41, "longest_gap_s": pytest.approx(0.05)}
    assert conditions_of(meter, []) == {"samples": 0}


@pytest.mark.parametrize(("others_s", "invalid"), [(0.5, False), (1.0, False), (1.1, True), (9.0, True)])
def test_a_busy_neighbour_on_the_metered_packages_makes_the_run_invalid(others_s, invalid):
    """10 s of CPU time in the windows, so many of them of others; what happens around them plays no part."""
    meter = info(
        channel(Quantity.ENERGY_J, "package-0/energy"),
        channel(Quantity.BUSY_CPU_S, "cpu/busy"),
        channel(Quantity.FOREIGN_CPU_S, "cpu/others"),
    )
    samples = [*counter(300, 10)]
    for at_s, busy_s, others in ((0, 100, 60), (1, 200, 160), (9, 210, 160 + others_s), (10, 300, 250)):
        samples += [ok(1, at_s * NS, busy_s), ok(2, at_s * NS, others)]
    reasons = reasons_against(meter, samples, WINDOWS)
    assert conditions_of(meter, samples, WINDOWS)["foreign_cpu_share"] == pytest.approx(others_s / 10)
    assert bool(reasons) is invalid
    if invalid:
        assert f"{others_s / 10:.0%} of the CPU time used was that of other processes (10% are allowed)" in reasons[0]


def test_neighbours_that_can_not_be_counted_are_not_taken_for_none():
    meter = info(channel(Quantity.ENERGY_J, "package-0/energy"), channel(Quantity.FOREIGN_CPU_S, "cpu/others"))
    samples = [*counter(300, 10), bad(1, 0), bad(1, 5 * NS)]
    assert any("the CPU time of others could not be read" in text for text in cautions_about(meter, samples, WINDOWS))
    assert "foreign_cpu_share" not in conditions_of(meter, samples, WINDOWS)
