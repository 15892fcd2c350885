"""A counter that rises by more than its card can draw has jumped; one that catches up has not."""

from __future__ import annotations

import pytest
from meter_samples import NS, channel, counter, info, ok

from harness.meter.base import Quantity, Sample
from harness.meter.energy import energy_of
from harness.meter.track import tracks_of
from harness.meter.validity import reasons_against

LIMITED = info(channel(Quantity.ENERGY_J, "gpu0/energy"), channel(Quantity.POWER_LIMIT_W))
WINDOW = (1 * NS, 9 * NS)


def stepped(joules: float, at_s: float = 5.0) -> list[Sample]:
    """300 W for 10 s, and a step."""
    return [ok(0, s.at_ns, s.value + joules * (s.at_ns > at_s * NS)) for s in counter(300, 10)]


def limits(*watts: float) -> list[Sample]:
    return [ok(1, i * NS, value) for i, value in enumerate(watts)]


@pytest.mark.parametrize(
    ("joules", "watts", "jumped"),
    [
        (5000, (700,), True),
        (1300, (700,), False),  # with what the card really used: under 1400 J in a second
        (1300, (300,), True),
        (1300, (300, 700, 300), False),  # the highest limit seen counts
        (5000, (), False),  # no limit is known: 10 kW
        (12_000, (), True),
    ],
)
def test_more_than_twice_the_power_limit_over_a_second_is_a_jump(joules, watts, jumped):
    samples = [*stepped(joules), *limits(*watts)]
    against = reasons_against(LIMITED, samples, [WINDOW])
    assert bool(tracks_of(LIMITED, samples)[0].resets_ns) == jumped
    assert ("gpu0/energy fell or jumped once" in "".join(against)) == jumped
    if jumped:  # its interval is not known, so the rest tells
        assert energy_of(LIMITED, samples, *WINDOW).joules == pytest.approx(300 * 8, rel=0.02)


def test_a_counter_that_stood_still_may_catch_up():
    stuck = [ok(0, s.at_ns, 2500.0) if 5 * NS < s.at_ns <= 8.5 * NS else s for s in counter(500, 10)]
    samples = [*stuck, *limits(500)]  # 1775 J within one read, after 3.5 s without any
    assert tracks_of(LIMITED, samples)[0].resets_ns == ()


def test_a_limit_of_the_gpu_says_nothing_about_the_module():
    module = info(
        channel(Quantity.ENERGY_J, "gpu0/module_energy", scope="module"), channel(Quantity.POWER_LIMIT_W, scope="gpu")
    )
    samples = [*stepped(5000), *limits(300)]
    assert tracks_of(module, samples)[0].resets_ns == ()


def test_a_power_that_no_card_can_draw_is_no_reading():
    card = info(channel(Quantity.POWER_W), channel(Quantity.POWER_LIMIT_W))
    samples = [ok(0, i * NS // 20, 4e6 if i == 100 else 300.0) for i in range(201)]
    energy = energy_of(card, [*samples, *limits(700)], *WINDOW)
    assert energy.joules == pytest.approx(300 * 8, rel=1e-3)


@pytest.mark.parametrize(("factor", "contradict"), [(1.0, False), (1.2, False), (1.75, True), (1e-3, True)])
def test_two_channels_that_contradict_each_other_make_a_run_invalid(factor, contradict):
    card = info(channel(Quantity.ENERGY_J), channel(Quantity.POWER_W))
    watts = [300.0 * factor * (1 + 0.01 * (i % 3)) for i in range(1000)]  # never the same twice: it is not frozen
    samples = [each for i, s in enumerate(counter(300, 10)) for each in (s, ok(1, s.at_ns, watts[i]))]
    against = "".join(reasons_against(card, samples, [WINDOW]))
    assert ("one of them is wrong" in against) == contradict
