"""Readings of nothing while a training is at work: a sensor that failed, not a device that rests. Pure.

The estimator itself can't tell the two apart, for a device may be off. Whoever knows that it is at work passes the
samples through :func:`believable` first: 0 W, and a counter that does not move for a second, then count as missing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import groupby

from harness.meter.base import Channel, MeterInfo, Quantity, ReadStatus, Sample

NS = 1_000_000_000
STILL_S = 1.0
STILL_UPDATES = 10
"""A counter must stand still for so long, and for so many updates."""
_POWERS = frozenset({Quantity.POWER_W, Quantity.POWER_MEAN_W})


def believable(
    info: MeterInfo, samples: Sequence[Sample], start_ns: int, end_ns: int
) -> tuple[Sequence[Sample], list[str]]:
    """The samples with what can't be from a device at work marked as missing, and a sentence for each channel.

    ``start_ns`` and ``end_ns`` are when the training was at work. Other samples, and other channels than counters
    of energy and powers, stay as they are. A counter that stands still beside a power that does not is left to
    ``frozen.py``.
    """
    good: dict[int, list[tuple[int, float]]] = {}
    for sample in samples:
        if sample.status is ReadStatus.OK and sample.value is not None:
            good.setdefault(sample.channel, []).append((sample.at_ns, sample.value))
    dead: dict[int, set[int]] = {}
    for index, reads in good.items():
        channel = info.channels[index]
        if channel.quantity in _POWERS:
            times = {at_ns for at_ns, watts in reads if watts == 0 and start_ns <= at_ns <= end_ns}
        elif channel.quantity is Quantity.ENERGY_J:
            watched = [at_ns for i in _powers_of(info, channel) for at_ns, watts in good.get(i, ()) if watts > 0]
            least_ns = round(max(STILL_S, STILL_UPDATES * (info.update_period_s or 0.0)) * NS)
            times = _still(reads, sorted(watched), start_ns, end_ns, least_ns)
        else:
            continue
        if times:
            dead[index] = times
    if not dead:
        return samples, []
    kept = [
        Sample(sample.channel, sample.at_ns, ReadStatus.MISSING, None, sample.sensor_ns)
        if sample.at_ns in dead.get(sample.channel, ())
        else sample
        for sample in samples
    ]
    return kept, [f"{info.channels[i].name} reads nothing while the training runs: its sensor has failed" for i in dead]


def _powers_of(info: MeterInfo, counter: Channel) -> list[int]:
    return [
        index
        for index, channel in enumerate(info.channels)
        if channel.quantity in _POWERS and (channel.device, channel.scope) == (counter.device, counter.scope)
    ]


def _still(
    reads: Sequence[tuple[int, float]], watched_ns: Sequence[int], start_ns: int, end_ns: int, least_ns: int
) -> set[int]:
    """Times of a counter's reads, but the first of each stretch, that stand still with no power to say otherwise."""
    found: set[int] = set()
    for _, group in groupby(reads, key=lambda read: read[1]):
        times = [at_ns for at_ns, _ in group]
        first_ns, last_ns = max(times[0], start_ns), min(times[-1], end_ns)
        seen = bisect_right(watched_ns, last_ns) > bisect_left(watched_ns, first_ns)
        if last_ns - first_ns >= least_ns and not seen:
            found.update(times[1:])
    return found
