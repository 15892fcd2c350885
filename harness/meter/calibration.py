"""What a meter shows of itself when it is polled faster than it is refreshed. Pure: samples in, facts out.

How often its counter and its power change, in what steps, and over how much of the past a mean power looks.
What could not be seen (a constant power never changes) is ``None``, and the assumed period stays, by name.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from harness.meter.base import (
    Calibration,
    Channel,
    ChannelCalibration,
    MeterInfo,
    Quantity,
    ReadStatus,
    Sample,
)
from harness.meter.refresh import NS

REFRESHED = frozenset({Quantity.ENERGY_J, Quantity.POWER_W, Quantity.POWER_MEAN_W})
MIN_UPDATES = 5
"""Fewer changes than this tell no period."""
POLLS_PER_UPDATE = 3.0
"""A value that changes more often than once in so many polls is refreshed faster than can be seen."""
MIN_STEPS = 8
"""Fewer steps than this may share a divisor by accident."""
MIN_MULTIPLE = 3
"""A counter's quantum is told only if its smallest step is so many of it: steps of 40 and 20 J are not a
quantum of 20 J but a load that halved."""
STEADY_S = 0.3
"""A load must have stood still for so long before its step and after it."""
SETTLED = 0.05
"""The mean power stood still too if it was within this share of the step."""


def calibrate(info: MeterInfo, samples: Sequence[Sample], *, read_s: float, read_cpu_s: float) -> Calibration:
    """What polling has shown of every energy and power channel.

    Args:
        info: of the meter that was polled.
        samples: all that was read, in order of time.
        read_s: median wall time of one read of all channels, in seconds.
        read_cpu_s: mean CPU time of one read, in seconds.
    """
    times = sorted({sample.at_ns for sample in samples})
    seconds = (times[-1] - times[0]) / NS if times else 0.0
    by_channel: dict[int, list[Sample]] = {}
    for sample in samples:
        by_channel.setdefault(sample.channel, []).append(sample)
    lines = {
        index: _Line.of(channel, by_channel.get(index, ()))
        for index, channel in enumerate(info.channels)
        if channel.quantity in REFRESHED
    }
    return Calibration(
        seconds=seconds,
        poll_hz=(len(times) - 1) / seconds if seconds else 0.0,
        read_s=read_s,
        read_cpu_s=read_cpu_s,
        channels=tuple(_channel(line, _companion(line, lines.values())) for line in lines.values()),
    )


def calibrated(info: MeterInfo, calibration: Calibration | None) -> MeterInfo:
    """The meter with what was observed in the place of what was assumed.

    ``update_period_s`` becomes the slowest of counter and sensor. While one of them could not be seen the
    assumption still holds for that one, and ``assumptions`` says so.
    """
    if calibration is None:
        return info
    found = {one.channel: one for one in calibration.channels}
    wanted = _relevant(info)
    known = {name: found[name].period_s for name in wanted if name in found}
    seen = {name: period for name, period in known.items() if period is not None}
    unseen = [name for name in wanted if name not in seen]
    notes = list(info.assumptions)
    period = info.update_period_s
    if seen:
        told = ", ".join(f"{name} every {_ms(period)}" for name, period in seen.items())
        notes.append(f"observed by polling for {calibration.seconds:.1f} s: {told}")
        period = max([*seen.values(), *([info.update_period_s] if unseen and info.update_period_s else [])])
    if unseen and info.update_period_s is not None:
        why = [f"{name} ({_why_unseen(found.get(name))})" for name in unseen]
        notes.append(f"the refresh of {', '.join(why)} was not seen: {_ms(info.update_period_s)} stays assumed for it")
    return info.model_copy(update={"calibration": calibration, "update_period_s": period, "assumptions": tuple(notes)})


def summary(info: MeterInfo, calibration: Calibration) -> str:
    """One line for people: what refreshes how often, and what a read costs."""
    found = {one.channel: one for one in calibration.channels}
    told = []
    for name in _relevant(info):
        period = found[name].period_s if name in found else None
        told.append(f"{name} every {_ms(period)}" if period is not None else f"{name} {_why_unseen(found.get(name))}")
    return f"{', '.join(told)}; a read takes {calibration.read_s * 1e6:.0f} us"


def observed_period_s(info: MeterInfo) -> float | None:
    """The slowest refresh that polling has seen; ``None`` while one of counter and sensor is only assumed."""
    if info.calibration is None:
        return None
    found = {one.channel: one.period_s for one in info.calibration.channels}
    periods = [found.get(name) for name in _relevant(info)]
    known = [period for period in periods if period is not None]
    return max(known) if known and len(known) == len(periods) else None


def _relevant(info: MeterInfo) -> list[str]:
    """Counters and sensors of the headline's scope; a mean power only where no instant one is."""
    scope = next((c.scope for c in info.channels if c.quantity in REFRESHED), None)
    mine = [c for c in info.channels if c.quantity in REFRESHED and c.scope == scope]
    instant = {c.device for c in mine if c.quantity is Quantity.POWER_W}
    return [c.name for c in mine if c.quantity is not Quantity.POWER_MEAN_W or c.device not in instant]


def _why_unseen(one: ChannelCalibration | None) -> str:
    if one is None:
        return "not polled"
    if one.updates == 0:
        return "it did not change"
    return "changed too seldom" if one.updates < MIN_UPDATES else "changed faster than it was polled, or too seldom"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


@dataclass(frozen=True, slots=True)
class _Line:
    """One channel's good reads, and where its value changed."""

    channel: Channel
    times: tuple[int, ...]  # of good reads
    values: tuple[float, ...]
    changes: tuple[int, ...]  # index of the first read of each new value; a change across a dropout is none
    whole: tuple[bool, ...]  # whether the stretch from each change to the next was read without a hole

    @classmethod
    def of(cls, channel: Channel, samples: Sequence[Sample]) -> _Line:
        good = [(s.at_ns, s.value) for s in samples if s.status is ReadStatus.OK and s.value is not None]
        times, values = tuple(at for at, _ in good), tuple(value for _, value in good)
        usual_ns = median([b - a for a, b in pairwise(times)]) if len(times) > 1 else 0
        holes = [b - a > 3 * usual_ns for a, b in pairwise(times)]  # before read i + 1
        all_changes = [i for i in range(1, len(values)) if values[i] != values[i - 1]]
        whole = [not any(holes[a - 1 : b]) for a, b in pairwise(all_changes)]
        return cls(channel, times, values, tuple(all_changes), tuple(whole))

    @property
    def poll_s(self) -> float:
        """Median time between two good reads."""
        return median([b - a for a, b in pairwise(self.times)]) / NS if len(self.times) > 1 else math.inf

    @property
    def gaps_s(self) -> list[float]:
        """Times between two changes, each placed half-way between the read before it and the read that shows it."""
        at = [(self.times[i - 1] + self.times[i]) / 2 for i in self.changes]
        return [(b - a) / NS for (a, b), whole in zip(pairwise(at), self.whole, strict=True) if whole]


def _channel(line: _Line, instant: _Line | None) -> ChannelCalibration:
    period, spread = _period(line)
    window = _averaging_window_s(instant, line, period) if instant is not None else None
    return ChannelCalibration(
        channel=line.channel.name,
        updates=len(line.changes),
        period_s=period,
        period_spread_s=spread,
        quantum=_quantum(line),
        averaging_window_s=window,
    )


def _companion(line: _Line, lines: Iterable[_Line]) -> _Line | None:
    """The instant power of a mean power's device."""
    if line.channel.quantity is not Quantity.POWER_MEAN_W:
        return None
    wanted = (Quantity.POWER_W, line.channel.device, line.channel.scope)
    return next((one for one in lines if (one.channel.quantity, one.channel.device, one.channel.scope) == wanted), None)


def _period(line: _Line) -> tuple[float | None, float | None]:
    """Median time between two updates and half the width of the middle 68 %.

    A value that happens to stay the same hides an update, and the gap is then a multiple of the period: where
    nearly all gaps are multiples of the short ones, they are taken apart.
    """
    gaps = sorted(line.gaps_s)
    if len(gaps) < MIN_UPDATES - 1 or median(gaps) < POLLS_PER_UPDATE * line.poll_s:
        return None, None
    short = median(gaps[: max(1, len(gaps) // 4)])
    parts = [max(1, round(gap / short)) for gap in gaps]
    off = [abs(gap / short - part) <= max(0.15, 2 * line.poll_s / short) for gap, part in zip(gaps, parts, strict=True)]
    if sum(off) >= 0.9 * len(gaps) and short >= POLLS_PER_UPDATE * line.poll_s:
        gaps = sorted(gap / part for gap, part in zip(gaps, parts, strict=True))
    return median(gaps), (_quantile(gaps, 0.84) - _quantile(gaps, 0.16)) / 2


def _quantile(ordered: Sequence[float], share: float) -> float:
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def _quantum(line: _Line) -> float | None:
    """The largest step that all steps are multiples of, where enough different ones were seen to say so."""
    unit = line.channel.quantum
    if unit <= 0 or not line.values:
        return None
    counts = [round(value / unit) for value in line.values]
    if any(
        not math.isclose(count * unit, value, rel_tol=1e-9) for count, value in zip(counts, line.values, strict=True)
    ):
        return None
    if line.channel.quantity is Quantity.ENERGY_J:
        steps = [b - a for a, b in pairwise(counts) if b > a]
        if len(steps) < MIN_STEPS or len(set(steps)) < 2:
            return None
        divisor = math.gcd(*steps)
        return divisor * unit if min(steps) >= MIN_MULTIPLE * divisor else None
    distinct = set(counts)
    if len(distinct) < MIN_UPDATES or len(line.changes) < MIN_STEPS:
        return None
    return math.gcd(*distinct) * unit


def _averaging_window_s(instant: _Line, mean: _Line, period_s: float | None) -> float | None:
    """Length of a mean's window from its rise after the largest step of the instant power.

    A mean over the last ``T`` seconds lags a step by an area of ``step x T / 2``. ``None`` where the instant power
    made no clear step between two steady levels, or the mean did not follow it to the end.
    """
    found = _step(instant)
    if found is None or period_s is None:
        return None
    at_ns, before_w, after_w, until_ns = found
    step_w = after_w - before_w
    start = bisect_left(mean.times, at_ns)
    if start == 0 or abs(mean.values[start - 1] - before_w) > SETTLED * abs(step_w):
        return None
    area = 0.0
    for i in range(start, len(mean.times) - 1):
        if mean.times[i] > until_ns:
            return None
        left = (after_w - mean.values[i]) / step_w
        if left <= SETTLED / 2:
            # The first look after the step is already in the mean when both change: half a period each side.
            return 2 * area + period_s
        area += left * (mean.times[i + 1] - mean.times[i]) / NS
    return None


def _step(line: _Line) -> tuple[int, float, float, int] | None:
    """Time, level before, level after and end of the level after, of the largest step between steady levels."""
    if len(line.times) < 3:
        return None
    jumps = sorted(line.changes, key=lambda i: -abs(line.values[i] - line.values[i - 1]))
    for i in jumps[:1]:
        at_ns = line.times[i]
        first = bisect_left(line.times, at_ns - round(STEADY_S * NS))
        before = line.values[first:i]
        if not before or line.times[first] > at_ns - 0.8 * STEADY_S * NS:
            return None
        ahead = bisect_left(line.times, at_ns + round(STEADY_S * NS))
        # The look during which the load changed may be anything between the two levels.
        second = next((j for j in line.changes if j > i), ahead)
        after = line.values[min(second, ahead - 1) : ahead]
        if not after:
            return None
        low, high = median(before), median(after)
        scatter = max(max(before) - min(before), max(after) - min(after))
        if abs(high - low) < max(10.0, 10 * scatter):
            return None
        end = next((t for t, v in zip(line.times[ahead:], line.values[ahead:], strict=True)
                    if abs(v - high) > 0.1 * abs(high - low)), line.times[-1])  # fmt: skip
        return at_ns, low, high, end
    return None
