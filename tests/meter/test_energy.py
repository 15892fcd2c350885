from __future__ import annotations

import math
import random
from itertools import accumulate, pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meter_samples import MS, NS, bad, channel, counter, info, ok, overlap_loop, power

from harness.meter.base import Calibration, ChannelCalibration, Energy, MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.budget import (
    ALIASING,
    CLOCK,
    CLOCK_RATE,
    DISAGREEMENT,
    EDGES,
    GAIN,
    MODEL,
    QUANTUM,
    SAMPLING,
    UNOBSERVED,
)
from harness.meter.energy import (
    combine,
    energy_of,
    idle_power,
    scale,
    scopes_of,
    windows_energy,
)
from harness.meter.track import tracks_of
from harness.types import Basis

COUNTER = info(channel(Quantity.ENERGY_J))
POWER = info(channel(Quantity.POWER_W))
SECONDS = info(channel(Quantity.CPU_S))
BOTH = info(channel(Quantity.ENERGY_J, gain_error=0.05), channel(Quantity.POWER_W), update_period_s=0.1)

steps = st.lists(st.tuples(st.integers(1, 200 * MS), st.floats(0, 500)), min_size=1, max_size=30)
share = st.floats(0, 1)


def knots_of(pieces: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Times and cumulative joules from (interval length, joules)."""
    times = accumulate((length for length, _ in pieces), initial=1000)
    joules = accumulate((joule for _, joule in pieces), initial=7.0)
    return list(zip(times, joules, strict=True))


def at_share(knots: list[tuple[int, float]], part: float) -> int:
    return round(knots[0][0] + part * (knots[-1][0] - knots[0][0]))


@given(steps, share, share)
def test_a_window_of_cpu_seconds_equals_the_plain_loop(pieces, a, b):
    """They are refreshed at every read: what was used between two reads is spread between them."""
    knots = knots_of(pieces)
    start, end = sorted((at_share(knots, a), at_share(knots, b)))
    energy = energy_of(SECONDS, [ok(0, *knot) for knot in knots], start, end)
    assert energy.joules == pytest.approx(overlap_loop(knots, start, end), rel=1e-9, abs=1e-6)
    assert energy.coverage == 1.0
    assert energy.seconds == (end - start) / NS


@given(
    st.lists(st.tuples(st.sampled_from([70 * MS, 100 * MS]), st.floats(1, 90)), min_size=4, max_size=40),
    st.integers(0, 49),
    share,
    share,
)
def test_a_counters_window_equals_the_plain_loop_over_its_updates(pieces, phase_ms, a, b):
    """Read every 20 ms it stands still between updates; each is placed in the middle of its bracket."""
    updates = [(at + phase_ms * MS, joules) for at, joules in knots_of(pieces)]
    reads = range(updates[0][0], updates[-1][0] + 20 * MS, 20 * MS)
    samples = [ok(0, t, max(j for at, j in updates if at <= t)) for t in reads]
    placed = [(y.at_ns - (y.at_ns - x.at_ns) // 2, y.value) for x, y in pairwise(samples) if y.value != x.value]
    start, end = sorted((at_share(placed, a), at_share(placed, b)))
    energy = energy_of(info(channel(Quantity.ENERGY_J), sample_hz=50.0, update_period_s=0.1), samples, start, end)
    assert energy.joules == pytest.approx(overlap_loop(placed, start, end), rel=1e-9, abs=1e-6)


@given(st.lists(st.tuples(st.integers(1, 200 * MS), st.floats(0, 500)), min_size=1, max_size=19), share, share)
def test_power_is_held_around_its_look(pieces, a, b):
    """From half a period and half a look before the update on, and that is half-way between two reads."""
    times = list(accumulate((length for length, _ in pieces), initial=1000))
    watts = [w for _, w in pieces] + [777.0]
    meter = info(channel(Quantity.POWER_W), update_period_s=0.04, look_s=0.01)
    back_ns = 25 * MS
    turns = [
        (max(times[0], t - (t - before) // 2 - back_ns), w)
        for (before, t), w in zip(pairwise(times), watts[1:], strict=True)
    ]
    knots, last, held = [(times[0], 0.0)], 0.0, watts[0]
    for at, value in [*turns, (times[-1], 0.0)]:
        last += held * (at - knots[-1][0]) / NS
        if at > knots[-1][0]:
            knots.append((at, last))
        held = value
    start, end = sorted((at_share(knots, a), at_share(knots, b)))
    samples = [ok(0, t, w) for t, w in zip(times, watts, strict=True)]
    energy = energy_of(meter, samples, start, end)
    assert energy.joules == pytest.approx(overlap_loop(knots, start, end), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("meter", [COUNTER, POWER, SECONDS], ids=["counter", "power", "cpu"])
@given(
    st.lists(st.tuples(st.integers(1, 200 * MS), st.floats(0.001, 500)), min_size=1, max_size=30),
    st.lists(share, min_size=1, max_size=6),
)
def test_windows_that_touch_add_up_to_the_whole(meter, pieces, cuts):
    knots = knots_of(pieces)
    edges = [knots[0][0], *sorted(at_share(knots, cut) for cut in cuts), knots[-1][0]]
    samples = [ok(0, *knot) for knot in knots]
    parts = windows_energy(meter, samples, list(pairwise(edges)))
    whole = energy_of(meter, samples, edges[0], edges[-1])
    assert sum(part.joules for part in parts) == pytest.approx(whole.joules, rel=1e-9, abs=1e-6)
    assert combine(parts).joules == pytest.approx(whole.joules, rel=1e-9, abs=1e-6)
    assert combine(parts).seconds == pytest.approx(whole.seconds)


@given(
    st.lists(
        st.tuples(st.integers(1, 900 * MS), st.floats(0, 1e6), st.sampled_from([*ReadStatus, ReadStatus.OK])),
        max_size=40,
    ),
    st.sampled_from([COUNTER, POWER, info(channel(Quantity.ENERGY_J, wrap_at=1e6))]),
    share,
    share,
)
def test_whatever_the_samples_joules_are_absent_or_not_negative(rows, meter, a, b):
    times = list(accumulate((length for length, *_ in rows), initial=0))[1:]
    samples = [Sample(0, t, s, v if s is ReadStatus.OK else None) for t, (_, v, s) in zip(times, rows, strict=True)]
    span = (times[-1] if times else NS) + NS
    start, end = sorted((round(a * span), round(b * span)))
    energy = energy_of(meter, samples, start, end)
    assert 0.0 <= energy.coverage <= 1.0
    if energy.joules is None:
        assert energy.reason
        assert energy.uncertainty_j is None
    else:
        assert energy.joules >= 0
        assert energy.uncertainty_j >= 0


@given(st.floats(1, 1000), st.floats(0.3, 8.0), st.integers(0, 9 * NS), st.integers(0, 9 * NS))
def test_constant_power_is_exact_at_any_edge(watts, hole_at, a, b):
    start, end = sorted((a, b))
    both = energy_of(BOTH, counter(watts, 9) + power(watts, 9), start, end)
    assert both.joules == pytest.approx(watts * (end - start) / NS, rel=1e-9, abs=1e-6)
    if end > start:
        assert both.second_joules == pytest.approx(both.joules, rel=1e-6)
        assert both.disagreement == pytest.approx(0.0, abs=1e-6)
    # A hole in the power is filled at the mean of the rest: constant power stays what it was, never less.
    holed = [s for s in power(watts, 9, index=0) if not hole_at <= s.at_ns / NS < hole_at + 0.9]
    energy = energy_of(POWER, holed, 0, 9 * NS)
    assert energy.joules == pytest.approx(watts * 9, rel=1e-9)
    assert energy.coverage < 0.95
    assert energy.parts[UNOBSERVED] == pytest.approx(watts * 9 * (1 - energy.coverage), rel=1e-6)


def test_a_missing_stretch_lowers_coverage_and_says_so():
    samples = [s if not 2 * NS <= s.at_ns <= 3 * NS else bad(0, s.at_ns) for s in power(100, 10, index=0)]
    energy = energy_of(POWER, samples, 0, 10 * NS)
    assert energy.coverage == pytest.approx(0.89, abs=0.006)
    assert "gave nothing for 1.1 s" in energy.reason
    assert energy.joules == pytest.approx(1000)
    assert energy.dominating == UNOBSERVED


def test_nothing_seen_is_no_joules_not_zero():
    for samples in ([], [bad(0, i * NS // 20, ReadStatus.DENIED) for i in range(100)], [ok(0, 0, 5.0)]):
        energy = energy_of(COUNTER, samples, 0, NS)
        assert energy.joules is None
        assert energy.coverage == 0.0
        assert "known for only 0.0%" in energy.reason


def test_less_than_half_known_is_not_stretched_into_a_number():
    energy = energy_of(POWER, power(100, 4, index=0), 0, 10 * NS)
    assert energy.joules is None
    assert energy.coverage == pytest.approx(0.4)


def test_a_counter_bridges_a_silence_but_the_time_is_not_observed():
    samples = [s for s in counter(100, 10) if not 2 * NS < s.at_ns < 4 * NS]
    energy = energy_of(COUNTER, samples, 0, 10 * NS)
    assert energy.joules == pytest.approx(1000)
    assert energy.coverage == pytest.approx(0.8)
    assert "not read for 2 s" in energy.reason


def test_a_short_hiccup_is_observed():
    samples = [s for s in counter(100, 10) if not 2 * NS < s.at_ns < 2.25 * NS]
    assert energy_of(COUNTER, samples, 0, 10 * NS).coverage == 1.0


def test_a_wrap_adds_the_range_once():
    top = 262_143.328850
    wrapped = [ok(0, s.at_ns, (s.value + top - 300) % top) for s in counter(100, 10)]
    meter = info(channel(Quantity.ENERGY_J, wrap_at=top))
    energy = energy_of(meter, wrapped, 0, 10 * NS)
    assert energy.joules == pytest.approx(1000, rel=1e-6)
    assert energy.coverage == 1.0
    # Without the range nobody knows what the interval of the wrap took.
    unknown = energy_of(COUNTER, wrapped, 0, 10 * NS)
    assert unknown.coverage == pytest.approx(1 - 0.05 / 10)
    assert unknown.joules == pytest.approx(1000, rel=1e-3)
    assert unknown.parts[UNOBSERVED] == pytest.approx(5, rel=0.01)


def test_a_reset_is_not_a_wrap_even_where_the_range_is_known():
    fallen = [ok(0, s.at_ns, s.value if s.at_ns < 5 * NS else s.value - 500) for s in counter(100, 10, start_j=400)]
    energy = energy_of(info(channel(Quantity.ENERGY_J, wrap_at=262_143.0)), fallen, 0, 10 * NS)
    assert energy.joules == pytest.approx(1000, rel=1e-3)
    assert energy.coverage < 1


def test_a_silence_in_which_the_counter_may_have_gone_round_is_unknown():
    samples = [s for s in counter(100, 60) if not 10 * NS < s.at_ns < 30 * NS]
    short_range = info(channel(Quantity.ENERGY_J, wrap_at=65_000.0))
    energy = energy_of(short_range, samples, 9 * NS, 31 * NS)
    assert energy.joules is None
    assert energy_of(COUNTER, samples, 9 * NS, 31 * NS).joules == pytest.approx(2200)


def test_nothing_is_joined_across_a_lost_device():
    samples = counter(100, 10)
    at = next(i for i, s in enumerate(samples) if s.at_ns >= 5 * NS)
    samples[at] = bad(0, samples[at].at_ns, ReadStatus.LOST)
    energy = energy_of(COUNTER, samples, 0, 10 * NS)
    assert energy.coverage == pytest.approx(0.99)


def test_counter_leads_and_the_integral_is_the_second_opinion():
    energy = energy_of(BOTH, counter(100, 10) + power(90, 10), NS, 9 * NS)
    assert energy.joules == pytest.approx(800)
    assert energy.second_joules == pytest.approx(720)
    assert energy.disagreement == pytest.approx(-0.1)
    assert energy.parts[DISAGREEMENT] == pytest.approx(80 / math.sqrt(3))
    assert energy.parts[GAIN] == pytest.approx(40)
    assert energy.dominating == DISAGREEMENT
    assert energy.uncertainty_j == pytest.approx(math.sqrt(sum(part**2 for part in energy.parts.values())))
    assert "energy counter" in energy.source


def test_a_counter_that_gave_nothing_is_replaced_openly():
    dead = [bad(0, s.at_ns) for s in counter(100, 10)]
    energy = energy_of(BOTH, dead + power(90, 10), NS, 9 * NS)
    assert energy.joules == pytest.approx(720)
    assert energy.second_joules is None
    assert "integral of instant power" in energy.source
    assert "gpu0/energy_j was not readable, gpu0/power_w stands in" in energy.reason


def test_devices_add_up_within_a_scope_and_scopes_never_mix():
    meter = info(
        channel(Quantity.ENERGY_J, "a", device="GPU-a", gain_error=0.05),
        channel(Quantity.ENERGY_J, "b", device="GPU-b", gain_error=0.05),
        channel(Quantity.POWER_W, "m", device="GPU-a", scope="module"),
    )
    samples = counter(100, 10) + counter(50, 10, index=1) + power(700, 10, index=2)
    assert scopes_of(meter) == ["gpu", "module"]
    energy = energy_of(meter, samples, 0, 10 * NS)
    assert energy.joules == pytest.approx(1500)
    assert energy.scope == "gpu"
    assert energy.second_joules is None
    assert energy.parts[GAIN] == pytest.approx(75)
    module = energy_of(meter, samples, 0, 10 * NS, scope="module")
    assert (module.joules, module.scope) == (pytest.approx(7000), "module")
    one_dead = energy_of(meter, counter(100, 10), 0, 10 * NS)
    assert one_dead.joules is None
    assert one_dead.coverage == 0.0
    assert "GPU-b: b is known for only" in one_dead.reason
    with pytest.raises(ValueError, match="no energy channel has scope 'board'"):
        energy_of(meter, samples, 0, NS, scope="board")


def test_cpu_seconds_times_watts_are_modelled():
    meter = info(
        channel(Quantity.CPU_S, device="cpu", scope="process tree", basis=Basis.MODELLED, scale=4.0, gain_error=0.5),
        basis=Basis.MODELLED,
    )
    energy = energy_of(meter, counter(2, 10), 0, 10 * NS)  # two cores busy
    assert energy.joules == pytest.approx(80)
    assert energy.basis is Basis.MODELLED
    assert energy.parts[MODEL] == pytest.approx(40)
    assert energy.dominating == MODEL
    assert "4 W per core" in energy.source


def staircase(watts: float, seconds: float, *, phase_ms: int = 0, stamped: bool = False) -> list[Sample]:
    """A counter that steps every 100 ms, read every 47, so that reads meet every phase."""
    samples = []
    for i in range(round(seconds / 0.047)):
        at = 5 * NS + i * round(0.047 * NS)
        stepped = (at - phase_ms * MS) // (100 * MS) * 100 * MS + phase_ms * MS
        stamp = stepped + 77 * NS if stamped else None  # by another clock
        samples.append(Sample(0, at, ReadStatus.OK, watts * stepped / NS, stamp))
    return samples


def test_edge_error_of_a_staircase_is_that_of_the_place_of_its_updates():
    """Edges on the updates: no interpolation is left, only how well reads every 50 ms place an update."""
    meter = info(channel(Quantity.ENERGY_J), update_period_s=0.1)
    samples = staircase(700, 10)
    track = tracks_of(meter, samples)[0]
    start, end = track.knots[10], track.knots[60]
    energy = energy_of(meter, samples, start, end)
    # Worst case: all 70 J of an interval in one instant, updates misplaced by 11.75 ms of 100 in the mean.
    assert energy.parts[EDGES] == pytest.approx(70 * math.sqrt(0.047 / 4 / 0.1) * math.sqrt(2), rel=0.05)
    placed = tracks_of(meter, staircase(700, 10, stamped=True))[0]
    stamped = energy_of(meter, staircase(700, 10, stamped=True), placed.knots[10], placed.knots[60])
    assert stamped.parts[EDGES] < energy.parts[EDGES] / 2
    assert "the driver's times of update" in stamped.source
    assert "the driver's times of update" not in energy.source


def test_a_staircase_is_read_right_at_any_edge():
    """Before updates were the knots, an edge was off by up to power x period: 70 J each."""
    meter = info(channel(Quantity.ENERGY_J), update_period_s=0.1)
    for phase_ms in range(0, 100, 7):
        for stamped in (False, True):
            samples = staircase(700, 8, phase_ms=phase_ms, stamped=stamped)
            for at_ms in range(0, 100, 9):
                start = 6 * NS + at_ms * MS
                energy = energy_of(meter, samples, start, start + 5 * NS + 33 * MS)
                within_j = 700 * (0.003 if stamped else 0.047)
                assert energy.joules == pytest.approx(700 * 5.033, abs=within_j)


@pytest.mark.parametrize("offset_ms", [0, 5, 25, 40])
def test_stated_edge_error_covers_a_load_hidden_between_samples(offset_ms):
    """All energy of each interval falls in one instant, anywhere: the worst there is."""
    rng, outside, rounds = random.Random(1), 0, 300
    for _ in range(rounds):
        bursts = [(i * 50 * MS + rng.randrange(50 * MS), 5.0) for i in range(100)]
        start, end = NS + offset_ms * MS, 4 * NS - offset_ms * MS
        truth = sum(joules for at, joules in bursts if start <= at < end)
        samples = [ok(0, i * 50 * MS, 5.0 * i) for i in range(101)]
        energy = energy_of(COUNTER, samples, start, end)
        outside += abs(energy.joules - truth) > 2 * energy.parts[EDGES] + 1e-9
    assert outside / rounds <= 0.05


def test_sampling_error_is_that_of_random_looks_and_shrinks_with_the_root_of_time():
    def spread(seconds: int) -> float:
        rng = random.Random(3)
        samples = [ok(0, i * 50 * MS, 200.0 + rng.gauss(0, 100)) for i in range(seconds * 20 + 1)]
        return energy_of(POWER, samples, 0, seconds * NS).parts[SAMPLING]

    assert spread(40) == pytest.approx(40 * 100 / math.sqrt(40 * 20), rel=0.1)
    assert spread(160) / spread(40) == pytest.approx(2.0, rel=0.1)


def test_a_slow_phase_adds_sampling_error_only_where_it_changes():
    samples = [ok(0, i * 50 * MS, 600.0 if 200 <= i < 400 else 60.0) for i in range(601)]
    energy = energy_of(POWER, samples, 0, 30 * NS)
    # Two changes, each unknown within one refresh.
    assert energy.parts[SAMPLING] == pytest.approx(540 * 0.1 / math.sqrt(2) * math.sqrt(2))
    assert energy_of(POWER, samples, 11 * NS, 19 * NS).parts[SAMPLING] == 0.0


def test_an_integral_of_power_is_no_better_than_the_clock():
    energy = energy_of(POWER, power(100, 10, index=0), 0, 10 * NS)
    assert energy.parts[CLOCK] == pytest.approx(1000 * CLOCK_RATE / math.sqrt(3))


def test_a_quantum_counts_at_both_edges():
    energy = energy_of(info(channel(Quantity.ENERGY_J, quantum=6.0)), counter(100, 10), NS, 9 * NS)
    assert energy.parts[QUANTUM] == pytest.approx(6 / math.sqrt(12) * math.sqrt(2))


def test_a_coarser_quantum_that_calibration_saw_counts_and_a_finer_one_does_not():
    of = channel(Quantity.ENERGY_J, quantum=1.0)
    for seen, counts in ((6.0, 6.0), (0.5, 1.0), (None, 1.0)):
        line = ChannelCalibration(channel=of.name, updates=30, quantum=seen)
        observed = Calibration(seconds=2, poll_hz=500, read_s=1e-4, read_cpu_s=1e-4, channels=(line,))
        energy = energy_of(info(of, calibration=observed), counter(100, 10), NS, 9 * NS)
        assert energy.parts[QUANTUM] == pytest.approx(counts / math.sqrt(12) * math.sqrt(2))


def test_aliasing_is_a_part_of_every_window_that_has_steps():
    samples = counter(100, 10) + power(100, 10)
    windows = [(NS, 2 * NS), (2 * NS, 4 * NS)]
    one, two = windows_energy(BOTH, samples, windows, aliasing=[0.3, None])
    assert one.parts[ALIASING] == pytest.approx(30)
    assert one.dominating == ALIASING
    assert ALIASING not in two.parts
    both = windows_energy(BOTH, samples, windows, aliasing=0.3)
    assert combine(both).parts[ALIASING] == pytest.approx(90)  # the same steps, the same sensor: linear
    assert energy_of(SECONDS, counter(1, 9), 0, NS, aliasing=0.3).parts.get(ALIASING) is None
    with pytest.raises(ValueError, match="aliasing"):
        windows_energy(BOTH, samples, windows, aliasing=[0.3])
    with pytest.raises(ValueError, match="aliasing"):
        energy_of(BOTH, samples, NS, 2 * NS, aliasing=-0.1)


def test_the_expanded_interval_is_two_standard_uncertainties():
    energy = energy_of(BOTH, counter(100, 10) + power(90, 10), NS, 9 * NS)
    assert energy.expanded_j == pytest.approx(2 * energy.uncertainty_j)
    assert energy.interval_j == pytest.approx((800 - energy.expanded_j, 800 + energy.expanded_j))
    assert energy.model_copy(update={"uncertainty_j": 500.0}).interval_j[0] == 0.0
    unknown = energy_of(BOTH, [], NS, 2 * NS)
    assert (unknown.expanded_j, unknown.interval_j) == (None, None)


@given(st.floats(0.1, 10), st.lists(st.floats(20, 500), min_size=60, max_size=60))
def test_twice_the_watts_are_twice_the_joules_and_every_part_but_the_quantum(factor, watts):
    def both(by: float) -> list[Sample]:
        total = list(accumulate((by * w / 20 for w in watts), initial=0.0))
        return [ok(0, i * 50 * MS, j) for i, j in enumerate(total)] + [
            ok(1, i * 50 * MS, by * w) for i, w in enumerate(watts)
        ]

    one, other = (energy_of(BOTH, both(by), NS // 3, 2 * NS + 7) for by in (1.0, factor))
    assert other.joules == pytest.approx(factor * one.joules, rel=1e-6)
    for name, value in one.parts.items():
        assert other.parts[name] == pytest.approx(factor * value, rel=1e-6, abs=1e-6)


def test_the_order_of_cards_changes_nothing():
    cards = [channel(Quantity.ENERGY_J, name, device=name, gain_error=0.05) for name in ("a", "b", "c")]
    watts = {"a": 100.0, "b": 50.0, "c": 333.0}
    results = []
    for order in permutations(cards):
        samples = [s for i, c in enumerate(order) for s in counter(watts[c.name], 10, index=i)]
        results.append(energy_of(info(*order), samples, NS, 9 * NS))
    for other in results[1:]:
        assert other.joules == pytest.approx(results[0].joules)
        assert other.uncertainty_j == pytest.approx(results[0].uncertainty_j)


@given(st.lists(st.floats(20, 500), min_size=200, max_size=200), st.integers(2, 8))
def test_a_longer_window_is_less_certain_in_joules_but_for_its_edges(watts, seconds):
    total = list(accumulate((w / 20 for w in watts), initial=0.0))
    samples = [ok(0, i * 50 * MS, j) for i, j in enumerate(total)] + [
        ok(1, i * 50 * MS, w) for i, w in enumerate(watts)
    ]
    short, long = (energy_of(BOTH, samples, NS, end * NS) for end in (seconds, seconds + 1))
    for part in (GAIN, SAMPLING):
        assert long.parts[part] >= short.parts[part]


def test_a_counter_that_was_never_seen_to_move_in_less_than_two_periods_is_not_zero():
    meter = info(channel(Quantity.ENERGY_J), update_period_s=0.1)
    energy = energy_of(meter, [ok(0, i * 30 * MS, 5.0) for i in range(4)], 0, 90 * MS)
    assert energy.joules is None


def test_a_counter_at_rest_beside_a_power_of_nothing_is_at_rest():
    samples = [ok(0, i * 50 * MS, 5.0) for i in range(201)] + power(0.0, 10)
    energy = energy_of(BOTH, samples, NS, 9 * NS)
    assert (energy.joules, energy.coverage) == (0.0, 1.0)


def test_mean_power_is_the_last_resort_and_smears_its_edges():
    meter = info(channel(Quantity.POWER_MEAN_W))
    samples = [ok(0, i * 50 * MS, 300.0 if i >= 200 else 100.0) for i in range(401)]
    energy = energy_of(meter, samples, 0, 10 * NS)
    assert "integral of mean power" in energy.source
    # Only at its end does power change within a second: 200 W, for a time uniform up to a second.
    assert energy.parts[EDGES] == pytest.approx(200 / math.sqrt(3))
    assert energy_of(meter, samples, 0, 5 * NS).parts[EDGES] == pytest.approx(0.0, abs=1e-9)


def test_combine_adds_gain_linearly_and_edges_in_quadrature():
    samples = counter(100, 20) + power(90, 20)
    parts = windows_energy(BOTH, samples, [(0, 5 * NS), (5 * NS, 10 * NS), (12 * NS, 20 * NS)])
    whole = combine(parts)
    assert whole.joules == pytest.approx(1800)
    assert whole.parts[GAIN] == pytest.approx(sum(p.parts[GAIN] for p in parts))
    assert whole.parts[EDGES] == pytest.approx(math.hypot(*(p.parts[EDGES] for p in parts)))
    assert whole.parts[DISAGREEMENT] == pytest.approx(180 / math.sqrt(3))
    assert whole.disagreement == pytest.approx(-0.1)
    assert whole.uncertainty_j == pytest.approx(math.hypot(*whole.parts.values()))


def test_combine_of_one_changes_nothing():
    energy = energy_of(BOTH, counter(100, 20) + power(90, 20), NS, 9 * NS)
    assert combine([energy]) == energy


def test_combine_weights_coverage_by_time_and_keeps_the_unknown_unknown():
    known = Energy(joules=10, basis=Basis.MEASURED, source="a", scope="gpu", coverage=1.0, seconds=9.0)
    unknown = known.model_copy(update={"joules": None, "coverage": 0.0, "seconds": 1.0, "reason": "lost"})
    both = combine([known, unknown])
    assert both.joules is None
    assert both.uncertainty_j is None
    assert both.coverage == pytest.approx(0.9)
    assert both.reason == "lost"
    with pytest.raises(ValueError, match="different scopes"):
        combine([known, known.model_copy(update={"scope": "module"})])
    with pytest.raises(ValueError, match="no energies"):
        combine([])


def test_combine_says_the_weakest_basis():
    a = Energy(joules=1, basis=Basis.MEASURED, source="a", scope="s", seconds=1.0)
    assert combine([a, a.model_copy(update={"basis": Basis.SIMULATED})]).basis is Basis.SIMULATED


def test_scale_keeps_relative_error_and_power():
    energy = energy_of(BOTH, counter(100, 10) + power(90, 10), NS, 9 * NS)
    tenth = scale(energy, 0.1)
    assert tenth.joules == pytest.approx(80)
    assert tenth.uncertainty_j / tenth.joules == pytest.approx(energy.uncertainty_j / energy.joules)
    assert tenth.joules / tenth.seconds == pytest.approx(100)
    with pytest.raises(ValueError, match="positive"):
        scale(energy, 0.0)


def test_an_empty_window_took_nothing_and_a_backward_one_is_refused():
    energy = energy_of(BOTH, counter(100, 10) + power(100, 10), NS, NS)
    assert (energy.joules, energy.coverage) == (0.0, 1.0)
    with pytest.raises(ValueError, match="ends before it starts"):
        energy_of(BOTH, [], NS, 0)


def test_samples_out_of_order_and_repeated_change_nothing():
    samples = counter(100, 10)
    assert energy_of(COUNTER, samples[::-1] + samples, NS, 9 * NS) == energy_of(COUNTER, samples, NS, 9 * NS)


def test_a_sample_of_an_unknown_channel_is_an_error():
    with pytest.raises(ValueError, match="channel 3"):
        energy_of(COUNTER, [ok(3, 0, 1.0)], 0, NS)


def test_a_meter_without_energy_channels_knows_no_energy():
    meter = info(channel(Quantity.TEMPERATURE_C))
    assert energy_of(meter, [ok(0, 0, 40.0)], 0, NS).joules is None


def test_idle_power():
    assert idle_power(BOTH, counter(60, 3) + power(60, 3)) == pytest.approx(60)
    assert idle_power(BOTH, counter(60, 3) + power(60, 3), NS, 2 * NS) == pytest.approx(60)
    assert idle_power(BOTH, counter(60, 3), NS, 9 * NS) is None
    assert idle_power(BOTH, []) is None
    process: MeterInfo = info(channel(Quantity.CPU_S))
    assert idle_power(process, counter(1, 3)) is None
