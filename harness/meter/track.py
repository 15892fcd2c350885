"""One channel's samples as cumulative energy over time: a piecewise linear function, built once.

Its knots are the *updates* of the instrument, not our reads of it (``refresh.py`` places them), so that a
window's edge is a linear interpolation between two values that were true at those times, and windows that
touch add up exactly:

* a counter's knots are the updates that brought a new value; what it rose by is spread evenly between them;
* a power is held around its look: a look of length ``w`` at the end of every period ``S`` speaks best for the
  times that are nearer to its middle than to that of another, so a new value counts from ``(S + w) / 2``
  before its update on (zero-order hold, backward).

Before the first update and after the last the nearest rate goes on, for the length of one interval at most.
What was not seen is marked, never filled in here: *known* and *observed* time goes by the reads.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from operator import attrgetter
from statistics import median

from harness.meter.base import Channel, MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.frozen import frozen_reads
from harness.meter.plausible import MAX_PLAUSIBLE_W, most_w, rise_of
from harness.meter.refresh import Refresh, observed_period_ns, refresh_of, stamps_are_updates, updates_of

NS = 1_000_000_000
GAP_PERIODS = 5.0
"""An interval between good samples longer than so many sample periods counts as not observed ..."""
GAP_FLOOR_S = 0.25
"""... unless it is shorter than this: a scheduler's hiccup, not a hole."""
MEAN_POWER_WINDOW_S = 1.0
"""Averaging window of ``nvmlDeviceGetPowerUsage`` on Ampere (but GA100) and newer."""

COUNTERS = frozenset({Quantity.ENERGY_J, Quantity.CPU_S})
POWERS = frozenset({Quantity.POWER_W, Quantity.POWER_MEAN_W})


@dataclass(frozen=True, slots=True)
class Span:
    """What a track says of a window. Joules are of the known part alone."""

    joules: float
    known_ns: int  # time whose energy is known
    observed_ns: int  # time that was really watched; at most ``known_ns``


@dataclass(slots=True)
class Track:
    """Cumulative joules at knots, and the good reads that they come from.

    The interval between two reads is *known* if its energy is, and *observed* if it is also short enough that
    nothing can have hidden in it. A counter bridges a long gap (known, not observed), a power does not.
    """

    times: list[int] = field(default_factory=list)  # of good reads
    known_before: list[int] = field(default_factory=list)  # known nanoseconds before each read
    observed_before: list[int] = field(default_factory=list)
    knots: list[int] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)  # before each knot
    slack: list[int] = field(default_factory=list)  # how far a knot may be misplaced in all, nanoseconds
    guessed: set[int] = field(default_factory=set)  # knots that end an interval in which a rate just went on
    turns: list[int] = field(default_factory=list)  # of a power: when it changed
    rough: list[float] = field(default_factory=list)  # sum of squares of (change x refresh) / 2 up to each turn, J^2
    period_ns: int = 0  # of the updates: what the meter says, or less where the data show it
    stamped: bool = False  # the driver's timestamps placed the updates
    resets_ns: tuple[int, ...] = ()  # a counter fell or jumped in the interval that ends here
    frozen: tuple[tuple[int, int], ...] = ()  # start and end of stretches in which the reading stood still

    def span(self, start_ns: int, end_ns: int) -> Span:
        """The part of ``[start_ns, end_ns]`` that lies between the first and the last good sample."""
        first, last = self._watched(start_ns), self._watched(end_ns)
        return Span(
            joules=max(0.0, self._energy(end_ns) - self._energy(start_ns)),  # never negative by a rounding
            known_ns=last[0] - first[0],
            observed_ns=last[1] - first[1],
        )

    def edge_sd_j(self, start_ns: int, end_ns: int) -> float:
        """Standard deviation in joules of a counter's difference, from where its window's edges fall.

        Two parts for each edge. *Interpolation*: the share of an interval's energy that fell before the edge
        has mean ``f``, the even share, and at most variance ``f (1 - f)``, reached if all of it fell in one
        instant; where a rate just went on, what it gave is uniform between nothing and twice as much,
        variance ``energy^2 / 3``. *Place of the update*: uniform in its bracket, so misplaced by a quarter of it
        in the mean; if all energy of the interval fell in one instant, variance
        ``energy^2 x bracket / (4 x interval)`` at most.
        """
        left, right = self._interval(start_ns), self._interval(end_ns)
        variance = 0.0
        if left is not None and left == right:
            share = (end_ns - start_ns) / (self.knots[left + 1] - self.knots[left])
            return math.hypot(self._joules_of(left) * math.sqrt(share * (1 - share)), 2**0.5 * self._misplaced_j(left))
        for at_ns, i, inner in ((start_ns, left, 1), (end_ns, right, 0)):
            if i is None:
                continue
            share, joules = (at_ns - self.knots[i]) / (self.knots[i + 1] - self.knots[i]), self._joules_of(i)
            if i + 1 in self.guessed:
                variance += (joules * abs(inner - share)) ** 2 / 3
            else:
                variance += joules**2 * share * (1 - share)
            variance += self._misplaced_j(i) ** 2
        return math.sqrt(variance)

    def look_sd_j(self, start_ns: int, end_ns: int) -> float:
        """Standard deviation in joules of an integral of looks, from how unlike neighbouring looks are.

        Mean square of successive differences (von Neumann, Kent, Bellinson and Hart 1941): half the square of
        each change times the time for which it is not known when it came, one refresh. Slow phases of a load
        count only where they change; changes one refresh outside the window count too.
        """
        if not self.turns:
            return 0.0
        first = bisect_left(self.turns, start_ns - self.period_ns)
        last = bisect_right(self.turns, end_ns + self.period_ns)
        before = self.rough[first - 1] if first else 0.0
        return math.sqrt(max(0.0, (self.rough[last - 1] if last else 0.0) - before))

    def range_w(self, start_ns: int, end_ns: int) -> float:
        """Highest minus lowest power held in a stretch of time, in watts."""
        first = max(0, bisect_right(self.knots, start_ns) - 1)
        last = min(len(self.knots) - 1, bisect_left(self.knots, end_ns))
        rates = [self._joules_of(i) / (self.knots[i + 1] - self.knots[i]) * NS for i in range(first, last)]
        return max(rates) - min(rates) if rates else 0.0

    def frozen_ns(self, start_ns: int, end_ns: int) -> int:
        """How much of a window the reading stood still and was not believed."""
        return sum(max(0, min(end, end_ns) - max(start, start_ns)) for start, end in self.frozen)

    def longest_gap_ns(self, start_ns: int, end_ns: int) -> int:
        """Longest stretch of the window without a good sample."""
        first, last = bisect_right(self.times, start_ns), bisect_right(self.times, end_ns)
        marks = [start_ns, *self.times[first:last], end_ns]
        return max(b - a for a, b in pairwise(marks))

    def _watched(self, at_ns: int) -> tuple[int, int]:
        """Known and observed nanoseconds before a time."""
        times = self.times
        if not times or at_ns <= times[0]:
            return 0, 0
        i = bisect_right(times, at_ns) - 1
        known, observed = self.known_before[i], self.observed_before[i]
        if i < len(times) - 1:
            since = at_ns - times[i]
            known += since if self.known_before[i + 1] > known else 0
            observed += since if self.observed_before[i + 1] > observed else 0
        return known, observed

    def _energy(self, at_ns: int) -> float:
        """Joules before a time."""
        knots = self.knots
        if not knots or at_ns <= knots[0]:
            return 0.0
        i = bisect_right(knots, at_ns) - 1
        if i == len(knots) - 1:
            return self.joules[i]
        return self.joules[i] + self._joules_of(i) * ((at_ns - knots[i]) / (knots[i + 1] - knots[i]))

    def _interval(self, at_ns: int) -> int | None:
        if len(self.knots) < 2 or not self.knots[0] <= at_ns <= self.knots[-1]:
            return None
        return min(bisect_right(self.knots, at_ns) - 1, len(self.knots) - 2)

    def _joules_of(self, interval: int) -> float:
        return self.joules[interval + 1] - self.joules[interval]

    def _misplaced_j(self, interval: int) -> float:
        """What a misplaced update makes of an edge in this interval."""
        slack_ns = max(self.slack[interval], self.slack[interval + 1])
        length_ns = self.knots[interval + 1] - self.knots[interval]
        return self._joules_of(interval) * math.sqrt(slack_ns / (4 * length_ns))


def tracks_of(info: MeterInfo, samples: Iterable[Sample]) -> dict[int, Track]:
    """Every energy-bearing channel's track, by channel index, in one pass over the samples.

    Readings that stood still while another channel of the device shows that they can't have (``frozen.py``)
    are left out as if they were missing; :attr:`Track.frozen` keeps when.

    Raises:
        ValueError: a sample of a channel that ``info`` does not have.
    """
    streams: dict[int, list[Sample]] = {
        i: [] for i, channel in enumerate(info.channels) if channel.quantity in COUNTERS | POWERS
    }
    samples = list(samples)
    for sample in samples:
        if not 0 <= sample.channel < len(info.channels):
            raise ValueError(f"sample of channel {sample.channel}, but the meter has {len(info.channels)}")
        if sample.channel in streams:
            streams[sample.channel].append(sample)
    for stream in streams.values():
        stream.sort(key=attrgetter("at_ns"))
    frozen, limits_w = frozen_reads(info, streams), most_w(info, samples)
    tracks = {}
    for i, stream in streams.items():
        limit_ns = gap_ns(info, stream)
        stuck = frozen.get(i, ())
        believed = [s for s in stream if not any(start < s.at_ns <= end for start, end in stuck)] if stuck else stream
        tracks[i] = track_of(info.channels[i], believed, limit_ns, refresh_of(info, info.channels[i]), limits_w[i])
        tracks[i].frozen = tuple(stuck)
    return tracks


def gap_ns(info: MeterInfo, stream: Sequence[Sample]) -> int:
    """Length from which an interval between good samples counts as not observed."""
    period_s = 1.0 / info.sample_hz if info.sample_hz else _median_period_s(stream)
    return round(max(GAP_PERIODS * period_s, GAP_FLOOR_S) * NS)


def track_of(
    channel: Channel, stream: Sequence[Sample], limit_ns: int, refresh: Refresh, most_w: float = MAX_PLAUSIBLE_W
) -> Track:
    """The track of one channel; ``stream`` is in order of time. A counter that rises by more than ``most_w`` jumped, a
    power above it was not read.

    A sample that is lost breaks the line: nothing before it is joined with anything after it. A sample
    that is merely missing is bridged up to ``limit_ns``.
    """
    track = Track(period_ns=refresh.period_ns)
    reads = _Reads.of(channel, stream, limit_ns, most_w)
    track.times, track.resets_ns = reads.at_ns, tuple(reads.resets_ns)
    if channel.quantity in COUNTERS:
        _lay_counter(track, reads, refresh)
    else:
        _lay_power(track, reads, refresh, mean=channel.quantity is Quantity.POWER_MEAN_W)
    lengths = [b - a for a, b in pairwise(reads.at_ns)]
    known = [0 if gain is None else length for gain, length in zip(reads.gains[1:], lengths, strict=True)]
    track.known_before = [*accumulate(known, initial=0)]
    track.observed_before = [*accumulate((n if n <= limit_ns else 0 for n in known), initial=0)]
    return track


@dataclass(slots=True)
class _Reads:
    """The good reads of a channel. ``gains[i]`` is the energy from read ``i - 1`` to ``i`` as a counter has it,
    for a power 0; ``None`` where the two can't be joined."""

    at_ns: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    stamps: list[int | None] = field(default_factory=list)
    gains: list[float | None] = field(default_factory=list)
    resets_ns: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, channel: Channel, stream: Sequence[Sample], limit_ns: int, most_w: float) -> _Reads:
        reads = cls()
        at, values, stamps, gains = reads.at_ns, reads.values, reads.stamps, reads.gains
        is_power = channel.quantity in POWERS
        broken = False
        last_ns, last, moved_ns = -1, 0.0, 0  # moved: when the value was last another one
        for sample in stream:
            value = sample.value
            if sample.status is not ReadStatus.OK or value is None or not 0 <= value < math.inf:
                broken = broken or sample.status is ReadStatus.LOST
                continue
            if is_power and value > most_w:
                continue  # no reading: the device can't draw that
            at_ns = sample.at_ns
            gain: float | None = None
            if at:
                if at_ns <= last_ns:
                    continue
                if is_power:
                    gain = 0.0 if at_ns - last_ns <= limit_ns else None
                else:
                    most_j = most_w * max((at_ns - moved_ns) / NS, 1.0)
                    gain = rise_of(channel, last, value, at_ns - last_ns, limit_ns, most_j)
                    if gain is None:
                        reads.resets_ns.append(at_ns)
                if broken:
                    gain = None
            at.append(at_ns)
            values.append(value)
            stamps.append(sample.sensor_ns)
            gains.append(gain)
            moved_ns = at_ns if value != last or not moved_ns else moved_ns
            last_ns, last, broken = at_ns, value, False
        return reads

    def pieces(self) -> list[tuple[int, int]]:
        """First and last read of every unbroken piece."""
        breaks = [i for i, gain in enumerate(self.gains) if gain is None]
        return [(a, b - 1) for a, b in pairwise([*breaks, len(self.gains)])]

    def update_stamps(self) -> list[int | None] | None:
        """The driver's timestamps, if they are times of updates."""
        return self.stamps if stamps_are_updates(self.values, self.stamps) else None


def _lay_counter(track: Track, reads: _Reads, refresh: Refresh) -> None:
    """Knots at the updates that brought a new value; at every read if it is refreshed faster than it is read."""
    at_ns, gains = reads.at_ns, reads.gains
    usual_ns = median([b - a for a, b in pairwise(at_ns)]) if len(at_ns) > 1 else 0
    always = 2 * refresh.period_ns <= usual_ns
    stamps = None if always else reads.update_stamps()
    moved = [i for i, gain in enumerate(gains) if gain is not None and (always or gain > 0)]
    track.stamped = stamps is not None
    track.period_ns = observed_period_ns(at_ns, moved, refresh.period_ns)
    times, slack = updates_of(at_ns, moved, stamps, track.period_ns)
    done = 0
    for first, last in reads.pieces():
        mine, done = done, bisect_right(moved, last)
        if mine < done:
            updates = [(times[k], gains[moved[k]] or 0.0, slack[k]) for k in range(mine, done)]
            _lay_piece(track, updates, at_ns[first], at_ns[last], always=always)
            continue
        _knot(track, at_ns[first], 0.0)
        _knot(track, at_ns[last], 0.0)
        if at_ns[last] - at_ns[first] < 2 * refresh.period_ns:  # too short to have seen an update
            gains[first + 1 : last + 1] = [None] * (last - first)


def _lay_piece(
    track: Track, updates: Sequence[tuple[int, float, int]], start_ns: int, end_ns: int, *, always: bool
) -> None:
    """Knots of one unbroken piece of a counter, read from start to end. Updates: time, rise in joules, slack."""
    first_ns, rise_j, slack_ns = updates[0]
    # When the value of the first read came: one period before the next one, if that is possible.
    back_ns = track.period_ns // 2 if always else min(track.period_ns, max(0, track.period_ns - (first_ns - start_ns)))
    _knot(track, start_ns, 0.0)
    _knot(track, first_ns, rise_j * (first_ns - start_ns) / (first_ns - start_ns + back_ns), slack_ns)
    if back_ns:
        track.guessed.add(len(track.knots) - 1)
    length_ns = first_ns - start_ns + back_ns
    if len(updates) > 1:
        later = updates[1:]
        track.knots += [at_ns for at_ns, _, _ in later]
        track.slack += [slack_ns for _, _, slack_ns in later]
        track.joules += [*accumulate((rise for _, rise, _ in later), initial=track.joules[-1])][1:]
        length_ns, rise_j = updates[-1][0] - updates[-2][0], updates[-1][1]
    last_ns = updates[-1][0]
    goes_on_ns = min(end_ns - last_ns, length_ns)
    if goes_on_ns > 0:
        _knot(track, last_ns + goes_on_ns, rise_j * goes_on_ns / length_ns)
        track.guessed.add(len(track.knots) - 1)
    _knot(track, end_ns, 0.0)


def _lay_power(track: Track, reads: _Reads, refresh: Refresh, *, mean: bool) -> None:
    """Knots where another value counts, and how rough the looks are."""
    at_ns, values, gains = reads.at_ns, reads.values, reads.gains
    stamps = reads.update_stamps()
    moved = [i for i in range(1, len(at_ns)) if values[i] != values[i - 1] and gains[i] is not None]
    track.stamped = stamps is not None
    track.period_ns = period_ns = observed_period_ns(at_ns, moved, refresh.period_ns)
    # A mean speaks for the middle of its own window, if that is known; a look for its own middle.
    back_ns = (refresh.averaging_ns if mean else period_ns + min(refresh.look_ns, period_ns)) // 2
    # Of ten looks in a mean one leaves and one comes: its change is a tenth of theirs.
    counts_s = (refresh.averaging_ns / NS or MEAN_POWER_WINDOW_S) if mean else 0.0
    track.turns, _ = updates_of(at_ns, moved, stamps, None)
    track.rough = list(
        accumulate(
            ((values[i] - values[i - 1]) * (counts_s or max(period_ns, at_ns[i] - at_ns[i - 1]) / NS)) ** 2 / 2
            for i in moved
        )
    )
    done = 0
    for first, last in reads.pieces():
        _knot(track, at_ns[first], 0.0)
        knots, joules, watts = track.knots, track.joules, values[first]
        since_ns, so_far_j = knots[-1], joules[-1]
        mine, done = done, bisect_right(moved, last)
        for k in range(mine, done):
            until_ns = track.turns[k] - back_ns
            if until_ns > since_ns:
                so_far_j += watts * (until_ns - since_ns) / NS
                knots.append(until_ns)
                joules.append(so_far_j)
                since_ns = until_ns
            watts = values[moved[k]]
        track.slack += [0] * (len(knots) - len(track.slack))
        _knot(track, at_ns[last], watts * (at_ns[last] - since_ns) / NS)


def _knot(track: Track, at_ns: int, rise_j: float, slack_ns: int = 0) -> None:
    """A knot, if time has passed since the last one."""
    if not track.knots:
        track.knots, track.joules, track.slack = [at_ns], [0.0], [0]
    elif at_ns > track.knots[-1]:
        track.knots.append(at_ns)
        track.joules.append(track.joules[-1] + rise_j)
        track.slack.append(slack_ns)


def _median_period_s(stream: Sequence[Sample]) -> float:
    times = sorted({sample.at_ns for sample in stream})
    return median(b - a for a, b in pairwise(times)) / NS if len(times) > 1 else GAP_FLOOR_S
