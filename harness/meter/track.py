"""One channel's samples as cumulative energy over time: a piecewise linear function, built once.

Between two good samples a counter's difference, or a power held from the first to the second
(zero-order hold), is spread evenly, so a window's edge is an exact linear interpolation and windows that
touch add up. What was not seen is marked, never filled in here.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from harness.meter.base import Channel, MeterInfo, Quantity, ReadStatus, Sample

NS = 1_000_000_000
GAP_PERIODS = 5.0
"""An interval between good samples longer than so many sample periods counts as not observed ..."""
GAP_FLOOR_S = 0.25
"""... unless it is shorter than this: a scheduler's hiccup, not a hole."""
MAX_PLAUSIBLE_W = 10_000.0
"""No device the harness knows draws this; a counter that says so (over at least a second) jumped."""

COUNTERS = frozenset({Quantity.ENERGY_J, Quantity.CPU_S})
POWERS = frozenset({Quantity.POWER_W, Quantity.POWER_MEAN_W})


@dataclass(frozen=True, slots=True)
class Span:
    """What a track says of a window. Joules are of the known part alone."""

    joules: float
    known_ns: int  # time whose energy is known
    observed_ns: int  # time that was really watched; at most ``known_ns``
    square: float  # integral of power squared over the known part, W^2 s


@dataclass(frozen=True, slots=True)
class Track:
    """Cumulative joules at the times of the good samples; interval ``i`` reaches from knot ``i`` to ``i + 1``.

    An interval is *known* if its energy is, and *observed* if it is also short enough that nothing can
    have hidden in it. A counter bridges a long gap (known, not observed), a power does not.
    """

    times: list[int]
    joules: list[float]
    squares: list[float]
    known: list[bool]
    observed: list[bool]
    known_before: list[int]  # known nanoseconds before each knot
    observed_before: list[int]
    resets_ns: tuple[int, ...] = ()  # a counter fell or jumped in the interval that ends here

    def span(self, start_ns: int, end_ns: int) -> Span:
        """The part of ``[start_ns, end_ns]`` that lies between the first and the last good sample."""
        first, last = self._at(start_ns), self._at(end_ns)
        return Span(
            joules=max(0.0, last.joules - first.joules),  # never negative by a rounding
            known_ns=last.known_ns - first.known_ns,
            observed_ns=last.observed_ns - first.observed_ns,
            square=last.square - first.square,
        )

    def edge_sd_j(self, start_ns: int, end_ns: int, update_s: float, quantum_j: float) -> float:
        """Standard deviation in joules of a counter's difference, from where its window's edges fall.

        Three parts for each edge. *Interpolation*: the share of an interval's energy that fell before the
        edge has mean ``f``, the even share, and at most variance ``f (1 - f)``, reached if all of it fell in
        one instant. *Update period*: the counter was last refreshed up to ``update_s`` ago, uniformly,
        variance ``(power x update)^2 / 12``; its mean cancels between the edges. *Quantum*: variance
        ``quantum^2 / 12``.
        """
        left, right = self._interval(start_ns), self._interval(end_ns)
        variance = 0.0
        if left is not None and left == right:
            share = (end_ns - start_ns) / (self.times[left + 1] - self.times[left])
            variance += self._joules_of(left) ** 2 * share * (1 - share)
        for at_ns, interval in ((start_ns, left), (end_ns, right)):
            if interval is None or not self.known[interval]:
                continue
            length_ns = self.times[interval + 1] - self.times[interval]
            share, joules = (at_ns - self.times[interval]) / length_ns, self._joules_of(interval)
            if left != right:
                variance += joules**2 * share * (1 - share)
            variance += ((joules / (length_ns / NS) * update_s) ** 2 + quantum_j**2) / 12
        return math.sqrt(variance)

    def longest_gap_ns(self, start_ns: int, end_ns: int) -> int:
        """Longest stretch of the window without a good sample."""
        first, last = bisect_right(self.times, start_ns), bisect_right(self.times, end_ns)
        marks = [start_ns, *self.times[first:last], end_ns]
        return max(b - a for a, b in pairwise(marks))

    def _at(self, at_ns: int) -> Span:
        if not self.times or at_ns <= self.times[0]:
            return Span(0.0, 0, 0, 0.0)
        i = min(bisect_right(self.times, at_ns) - 1, len(self.times) - 1)
        joules, square, known, observed = (
            self.joules[i],
            self.squares[i],
            self.known_before[i],
            self.observed_before[i],
        )
        if i < len(self.times) - 1:
            since = at_ns - self.times[i]
            share = since / (self.times[i + 1] - self.times[i])
            joules += self._joules_of(i) * share
            square += (self.squares[i + 1] - self.squares[i]) * share
            known += since if self.known[i] else 0
            observed += since if self.observed[i] else 0
        return Span(joules, known, observed, square)

    def _interval(self, at_ns: int) -> int | None:
        if len(self.times) < 2 or not self.times[0] <= at_ns <= self.times[-1]:
            return None
        return min(bisect_right(self.times, at_ns) - 1, len(self.times) - 2)

    def _joules_of(self, interval: int) -> float:
        return self.joules[interval + 1] - self.joules[interval]


def tracks_of(info: MeterInfo, samples: Iterable[Sample]) -> dict[int, Track]:
    """Every energy-bearing channel's track, by channel index, in one pass over the samples.

    Raises:
        ValueError: a sample of a channel that ``info`` does not have.
    """
    streams: dict[int, list[Sample]] = {
        i: [] for i, channel in enumerate(info.channels) if channel.quantity in COUNTERS | POWERS
    }
    for sample in samples:
        if not 0 <= sample.channel < len(info.channels):
            raise ValueError(f"sample of channel {sample.channel}, but the meter has {len(info.channels)}")
        if sample.channel in streams:
            streams[sample.channel].append(sample)
    return {i: track_of(info.channels[i], stream, gap_ns(info, stream)) for i, stream in streams.items()}


def gap_ns(info: MeterInfo, stream: Sequence[Sample]) -> int:
    """Length from which an interval between good samples counts as not observed."""
    period_s = 1.0 / info.sample_hz if info.sample_hz else _median_period_s(stream)
    return round(max(GAP_PERIODS * period_s, GAP_FLOOR_S) * NS)


def track_of(channel: Channel, stream: Sequence[Sample], limit_ns: int) -> Track:
    """The track of one channel.

    A sample that is lost breaks the line: nothing before it is joined with anything after it. A sample
    that is merely missing is bridged up to ``limit_ns``.
    """
    times: list[int] = []
    joules: list[float] = []
    squares: list[float] = []
    known: list[bool] = []
    observed: list[bool] = []
    known_before: list[int] = []
    observed_before: list[int] = []
    resets: list[int] = []
    last: float | None = None
    broken = False
    for sample in sorted(stream, key=lambda s: s.at_ns):
        if sample.status is ReadStatus.LOST:
            broken = True
        if sample.status is not ReadStatus.OK or sample.value is None or not 0 <= sample.value < math.inf:
            continue
        if last is None:
            times, joules, squares = [sample.at_ns], [0.0], [0.0]
            known_before, observed_before = [0], [0]
        elif sample.at_ns > times[-1]:
            length_ns = sample.at_ns - times[-1]
            delta_j = _interval_joules(channel, last, sample.value, length_ns, limit_ns)
            if delta_j is None and channel.quantity in COUNTERS:
                resets.append(sample.at_ns)
            if broken:
                delta_j = None
            is_known = delta_j is not None
            is_observed = is_known and length_ns <= limit_ns
            energy_j = delta_j or 0.0
            known_before.append(known_before[-1] + (length_ns if is_known else 0))
            observed_before.append(observed_before[-1] + (length_ns if is_observed else 0))
            known.append(is_known)
            observed.append(is_observed)
            times.append(sample.at_ns)
            joules.append(joules[-1] + energy_j)
            squares.append(squares[-1] + energy_j**2 / (length_ns / NS))
        else:
            continue
        last, broken = sample.value, False
    return Track(times, joules, squares, known, observed, known_before, observed_before, tuple(resets))


def _interval_joules(channel: Channel, last: float, value: float, length_ns: int, limit_ns: int) -> float | None:
    """Energy between two good samples, or ``None`` where nobody can say."""
    seconds = length_ns / NS
    if channel.quantity in POWERS:
        return last * seconds if length_ns <= limit_ns else None
    delta = value - last
    if channel.quantity is Quantity.CPU_S:
        return delta * channel.scale if delta >= 0 else None
    if channel.wrap_at is not None:
        # In a long silence the counter may have gone round unseen, and nobody could tell.
        if length_ns > limit_ns and seconds * MAX_PLAUSIBLE_W >= channel.wrap_at:
            return None
        if delta < 0:
            delta += channel.wrap_at
    # A counter refreshed in bursts may carry much energy in a short interval: judge it over a second.
    return delta if 0 <= delta <= MAX_PLAUSIBLE_W * max(seconds, 1.0) else None


def _median_period_s(stream: Sequence[Sample]) -> float:
    times = sorted({sample.at_ns for sample in stream})
    return median(b - a for a, b in pairwise(times)) / NS if len(times) > 1 else GAP_FLOOR_S
