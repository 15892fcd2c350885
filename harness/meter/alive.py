"""Readings that a device at work can't give: nothing, or the same for ever with nobody to confirm it. Pure.

The estimator can't tell a failed sensor from a device that rests or is off. Whoever knows that it is at work passes
the samples through :func:`believable` first. What then counts as missing:

* a power of 0 W;
* a counter that stands still for a second (at least ten updates, and longer than its quantum can hide 5 W);
* a power that else changes at most of its updates and repeats to the last digit for two seconds (at least twenty
  updates) while no counter moved that could confirm it.

The first read of a stretch is still good: a counter that moves on bridges it, known but not observed. A power that
repeats beside a counter that moves is convicted or cleared by it in ``frozen.py``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby, pairwise

from harness.meter.base import MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.track import POWERS

NS = 1_000_000_000
STILL_S, STILL_UPDATES = 1.0, 10
"""A counter must stand still for so long, and for so many updates ..."""
QUANTA, LEAST_W = 3.0, 5.0
"""... and so long that so many of its quanta would be less than so many watts."""
REPEAT_S, REPEAT_UPDATES = 2.0, 20
"""A power must repeat for so long, and for so many updates ..."""
LIVELY = 0.5
"""... and change at this share of all others."""
Read = tuple[int, float]  # at_ns, value


def believable(
    info: MeterInfo, samples: Sequence[Sample], windows: Sequence[tuple[int, int]] = ()
) -> tuple[Sequence[Sample], list[str]]:
    """The samples with what can't be from a device at work marked as missing, and a sentence for each channel.

    It was at work from the first of ``windows`` (``start_ns``, ``end_ns``) to the last; without any, all the time.
    """
    if not samples:
        return samples, []
    start_ns = min((start for start, _ in windows), default=samples[0].at_ns)
    end_ns = max((end for _, end in windows), default=samples[-1].at_ns)
    good: dict[int, list[Read]] = {}
    for sample in samples:
        if sample.status is ReadStatus.OK and sample.value is not None:
            good.setdefault(sample.channel, []).append((sample.at_ns, sample.value))
    work = (start_ns, end_ns)
    update_ns = round((info.update_period_s or 0.0) * NS)
    dead: dict[int, set[int]] = {}
    said: list[str] = []
    for index in _of(info, POWERS):
        reads, name = good.get(index, []), info.channels[index].name
        nothing = {at_ns for at_ns, watts in reads if watts == 0 and start_ns <= at_ns <= end_ns}
        counters = _beside(info, index, {Quantity.ENERGY_J})
        moved = sorted(at_ns for i in counters for at_ns in _moves(good.get(i, [])))
        stuck = _repeats(reads, moved, work, update_ns)
        if nothing:
            said.append(f"{name} reads nothing while the device is at work: its sensor has failed")
        if stuck - nothing:
            said.append(f"{name} stood still while the device is at work and no counter confirms it: not believed")
        dead[index] = nothing | stuck
    for index in _of(info, {Quantity.ENERGY_J}):
        quantum_ns = round(QUANTA * info.channels[index].quantum / LEAST_W * NS)
        dead[index] = _still(good.get(index, []), work, max(round(STILL_S * NS), STILL_UPDATES * update_ns, quantum_ns))
        if dead[index]:
            said.append(f"{info.channels[index].name} stood still while the device is at work: not believed there")
    if not said:
        return samples, []
    kept = [
        Sample(sample.channel, sample.at_ns, ReadStatus.MISSING, None, sample.sensor_ns)
        if sample.at_ns in dead.get(sample.channel, ())
        else sample
        for sample in samples
    ]
    return kept, said


def _of(info: MeterInfo, quantities: Collection[Quantity]) -> list[int]:
    return [index for index, channel in enumerate(info.channels) if channel.quantity in quantities]


def _beside(info: MeterInfo, one: int, quantities: Collection[Quantity]) -> list[int]:
    """Channels of the same device and scope."""
    of = info.channels[one]
    mine = [(of.device, of.scope) == (channel.device, channel.scope) for channel in info.channels]
    return [index for index in _of(info, quantities) if mine[index]]


def _moves(reads: Sequence[Read]) -> list[int]:
    """Times at which a counter was read and had moved."""
    return [after[0] for before, after in pairwise(reads) if after[1] != before[1]]


def _stretches(reads: Sequence[Read], work: tuple[int, int], least_ns: int) -> Iterator[list[int]]:
    """Times of reads of one value that lasted at least so long while the training was at work."""
    for _, group in groupby(reads, key=lambda read: read[1]):
        times = [at_ns for at_ns, _ in group]
        if min(times[-1], work[1]) - max(times[0], work[0]) >= least_ns:
            yield times


def _still(reads: Sequence[Read], work: tuple[int, int], least_ns: int) -> set[int]:
    """Reads of a counter, but the first of each stretch, that stand still."""
    return {at_ns for times in _stretches(reads, work, least_ns) for at_ns in times[1:]}


def _repeats(reads: Sequence[Read], counted_ns: Sequence[int], work: tuple[int, int], update_ns: int) -> set[int]:
    """Reads of a power, but the first of each stretch, that repeat unlike the others with no counter beside them."""
    least_ns = max(round(REPEAT_S * NS), REPEAT_UPDATES * update_ns)
    stretches = list(_stretches(reads, work, least_ns))
    if not stretches:
        return set()
    changes = sum(a[1] != b[1] for a, b in pairwise(reads))
    else_ns = reads[-1][0] - reads[0][0] - sum(times[-1] - times[0] for times in stretches)
    updates = else_ns / update_ns if update_ns else len(reads) - sum(map(len, stretches))
    if changes < REPEAT_UPDATES or changes < LIVELY * updates:
        return set()
    return {at_ns for times in stretches if _silent_ns(counted_ns, times) >= least_ns for at_ns in times[1:]}


def _silent_ns(counted_ns: Sequence[int], times: Sequence[int]) -> int:
    """Longest time of a stretch in which the counter was not seen to move."""
    inside = counted_ns[bisect_left(counted_ns, times[0]) : bisect_right(counted_ns, times[-1])]
    return max(b - a for a, b in pairwise([times[0], *inside, times[-1]]))
