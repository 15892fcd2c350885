"""Readings that stand still although the device does not. Pure.

A driver may go on answering with its last value. Alone that can't be told from a device at rest, but a card
is read through two channels, and one convicts the other:

* a *counter* stands still for :data:`COUNTER_S` (at least ten updates) while the power channel reads more
  than its quantum could hide: frozen. A counter at rest beside a power that reads nothing is just at rest.
* a *power* repeats to the last digit for :data:`POWER_S` (at least twenty looks) while the counter moves at
  another rate, in any second of it: frozen. At the same rate it may be a load without noise, and is harmless.
* both stand still together and the power reads watts: nobody knows, neither is believed, and a mean power that
  stands still with them is not either.

Such reads count as missing: a counter that moves on afterwards bridges them (known, not observed), a power
does not.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.meter.base import MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.refresh import NS, quantum_of, refresh_of

COUNTER_S = 1.0
COUNTER_UPDATES = 10
POWER_S = 2.0
POWER_UPDATES = 20
BLOCK_S = 1.0
ODDS = 0.20
"""Counter and power may differ by this share in a block: a staircase's steps, 2 x 100 ms in a second ..."""
ODDS_W = 2.0
"""... and by so many watts."""
QUANTA = 3.0
"""A counter may hide so many of its own steps."""

Stretch = tuple[int, int]  # start_ns, end_ns: first and last read of the value that stood still


@dataclass(frozen=True, slots=True)
class _Line:
    """The good reads of one channel."""

    times: list[int]
    values: list[float]

    @classmethod
    def of(cls, stream: Sequence[Sample]) -> _Line:
        good = [(s.at_ns, s.value) for s in stream if s.status is ReadStatus.OK and s.value is not None]
        return cls([at_ns for at_ns, _ in good], [value for _, value in good])

    def between(self, start_ns: int, end_ns: int) -> slice:
        """Reads from one time to another, both included."""
        return slice(bisect_left(self.times, start_ns), bisect_right(self.times, end_ns))

    def still(self, least_ns: int) -> Iterator[Stretch]:
        """Stretches of one value that last at least so long."""
        first = 0
        for i, value in enumerate(self.values):
            if value != self.values[first]:
                if self.times[i - 1] - self.times[first] >= least_ns:
                    yield self.times[first], self.times[i - 1]
                first = i
        if self.times and self.times[-1] - self.times[first] >= least_ns:
            yield self.times[first], self.times[-1]


def frozen_reads(info: MeterInfo, streams: Mapping[int, Sequence[Sample]]) -> dict[int, list[Stretch]]:
    """Stretches of each channel that are not believed, by channel index; only channels that have some.

    ``streams`` are the samples of each channel in order of time. The first read of a stretch is still good.
    """
    found: dict[int, list[Stretch]] = {}
    for counter, power in _pairs(info):
        joules, watts = _Line.of(streams[counter]), _Line.of(streams[power])
        periods = [refresh_of(info, info.channels[i]).period_ns for i in (counter, power)]
        counter_ns = max(round(COUNTER_S * NS), COUNTER_UPDATES * periods[0])
        still = list(joules.still(counter_ns))
        repeats = list(watts.still(max(round(POWER_S * NS), POWER_UPDATES * periods[1])))
        least_j = max(QUANTA * quantum_of(info, info.channels[counter]), 1e-9)
        stuck = [stretch for stretch in still if _hidden_j(watts, stretch) > least_j]
        lying = [stretch for stretch in repeats if _at_odds(joules, watts, stretch, max(periods))]
        both = [(max(s[0], r[0]), min(s[1], r[1])) for s in stuck for r in repeats]
        lying += [stretch for stretch in both if stretch[1] - stretch[0] >= counter_ns]
        stands_in = [(i, _dead(streams[i], both)) for i in _mean_powers(info, counter) if i != power]
        for channel, stretches in ((counter, stuck), (power, lying), *stands_in):
            if stretches:
                found[channel] = sorted({*found.get(channel, ()), *stretches})
    return found


def _pairs(info: MeterInfo) -> Iterator[tuple[int, int]]:
    """Counter and power of one device and scope; the mean power where no instant one is."""
    for i, counter in enumerate(info.channels):
        if counter.quantity is not Quantity.ENERGY_J:
            continue
        mine = [
            j for j, other in enumerate(info.channels) if (other.device, other.scope) == (counter.device, counter.scope)
        ]
        for quantity in (Quantity.POWER_W, Quantity.POWER_MEAN_W):
            powers = [j for j in mine if info.channels[j].quantity is quantity]
            if powers:
                yield i, powers[0]
                break


def _mean_powers(info: MeterInfo, counter: int) -> list[int]:
    """Mean powers of a counter's device and scope: they would stand in where neither of the pair is believed."""
    of = info.channels[counter]
    return [
        i
        for i, other in enumerate(info.channels)
        if other.quantity is Quantity.POWER_MEAN_W and (other.device, other.scope) == (of.device, of.scope)
    ]


def _dead(stream: Sequence[Sample], both: Sequence[Stretch]) -> list[Stretch]:
    """The stretches in which a mean power stands still too, its own window after the rest did."""
    line = _Line.of(stream)
    still = list(line.still(round(COUNTER_S * NS)))
    overlaps = [(max(a[0], b[0]), min(a[1], b[1])) for a in still for b in both]
    return [stretch for stretch in overlaps if stretch[1] - stretch[0] >= COUNTER_S * NS]


def _hidden_j(power: _Line, stretch: Stretch) -> float:
    """What the power channel says was used meanwhile, less one tenth of the stretch at its start."""
    start_ns, end_ns = stretch[0] + (stretch[1] - stretch[0]) // 10, stretch[1]
    watts = power.values[power.between(start_ns, end_ns)]
    return sum(watts) / len(watts) * (end_ns - start_ns) / NS if watts else 0.0


def _at_odds(counter: _Line, power: _Line, stretch: Stretch, period_ns: int) -> bool:
    """Whether the counter moves at another rate than a repeated power in any second of its stretch."""
    watts = power.values[power.between(*stretch)][0]
    inside = counter.between(stretch[0] + period_ns, stretch[1] - period_ns)
    start: tuple[int, float] | None = None
    for at_ns, joules in zip(counter.times[inside], counter.values[inside], strict=True):
        if start is None or joules < start[1]:
            start = (at_ns, joules)
        elif at_ns - start[0] >= BLOCK_S * NS:
            rate_w = (joules - start[1]) / ((at_ns - start[0]) / NS)
            if rate_w > 0 and abs(rate_w - watts) > ODDS_W + ODDS * max(rate_w, watts):
                return True
            start = (at_ns, joules)
    return False
