"""When a value that is only read now and then was refreshed by its instrument. Pure.

An NVML counter steps every 20 to 100 ms and stands still between: a read tells the energy of the last
*update*, not of the read. The update that brought a new value lies after the last read of the old one, and
no longer before the first read of the new one than the update period. Its place is taken in the middle of
that bracket; where the driver's own timestamps prove to be times of updates (they move only with the value),
they place it within the bracket. Many drivers give the time of the read instead: such stamps add nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from harness.meter.base import Channel, MeterInfo, Quantity

NS = 1_000_000_000
WORST_PERIOD_S = 0.1
"""The slowest refresh published of a card's counter and sensor (Yang, Adamek and Armour, SC24)."""
WORST_LOOK_S = 0.025
"""How long a sensor looks of each period on A100 and H100 (18.7 to 25 ms, same source)."""
MIN_CHANGES = 20
"""Fewer changes than this tell no period."""
MIN_REPEATS = 20
"""So many reads must repeat the stamp of the read before ..."""
REPEAT_SHARE = 0.1
"""... and this share of all: the time of a read never repeats."""
MOST_STAMPS, FEWEST_STAMPS = 2048, 32
"""Updates whose stamps share one offset between the clocks. Many, minutes of them, because reads then meet updates
at many phases; where they contradict each other, for clocks drift and are set, halves are tried down to a few."""
DRIFT = 50e-6
"""How fast two clocks drift apart that are not slewed together: a computer's crystal is good to 50 ppm."""


@dataclass(frozen=True, slots=True)
class Refresh:
    """What is known of a channel's updates. ``period_ns`` 0: refreshed at every read, as CPU seconds are."""

    period_ns: int
    look_ns: int  # how long a power looks into the past; not used for counters
    averaging_ns: int = 0  # a mean power is a mean over so much; 0: not known


def refresh_of(info: MeterInfo, channel: Channel) -> Refresh:
    """Observed figures of a channel where it was calibrated, else the meter's, else the worst published."""
    if channel.quantity is Quantity.CPU_S:
        return Refresh(0, 0)
    seen = next((c for c in info.calibration.channels if c.channel == channel.name), None) if info.calibration else None
    period_s = (seen.period_s if seen else None) or info.update_period_s or WORST_PERIOD_S
    look_s = info.look_s or WORST_LOOK_S
    averaging_s = (seen.averaging_window_s if seen else None) or 0.0
    return Refresh(round(period_s * NS), round(min(look_s, period_s) * NS), round(averaging_s * NS))


def quantum_of(info: MeterInfo, channel: Channel) -> float:
    """Smallest step of a channel's value: what the meter says, or more where calibration saw coarser steps."""
    calibrated = info.calibration.channels if info.calibration else ()
    return max([channel.quantum, *(c.quantum or 0.0 for c in calibrated if c.channel == channel.name)])


def observed_period_ns(at_ns: Sequence[int], moved: Sequence[int], period_ns: int) -> int:
    """The update period, at most ``period_ns``: values that change more often are refreshed more often.

    ``moved`` are the reads that brought a new value.
    """
    if len(moved) < MIN_CHANGES:
        return period_ns
    return min(period_ns, round(median([at_ns[j] - at_ns[i] for i, j in pairwise(moved)])))


def stamps_are_updates(values: Sequence[float], stamps: Sequence[int | None]) -> bool:
    """Whether the driver's timestamps are times of updates: they repeat, and never while the value moves."""
    if not any(stamps):
        return False
    pairs = repeats = 0
    for i in range(1, len(stamps)):
        stamp = stamps[i]
        if stamp is None or stamps[i - 1] is None:
            continue
        pairs += 1
        if stamp == stamps[i - 1]:
            if values[i] != values[i - 1]:
                return False
            repeats += 1
    return repeats >= MIN_REPEATS and repeats >= REPEAT_SHARE * pairs


def updates_of(
    at_ns: Sequence[int], moved: Sequence[int], stamps: Sequence[int | None] | None, period_ns: int | None
) -> tuple[list[int], list[int]]:
    """When the new value of each read in ``moved`` came, and how far that may be off in all, in nanoseconds.

    The middle of the bracket ``(previous read or a period before the read, read]``; with stamps, the stamp
    mapped to the clock of the reads. The difference of the clocks is the middle of all that the brackets of up to
    :data:`MOST_STAMPS` updates allow together; where no few of them agree, brackets alone count.

    ``stamps`` only if they are update times; ``period_ns`` None: no limit.
    """
    slack = [at_ns[i] - at_ns[i - 1] for i in moved]
    if period_ns is not None:
        slack = [width if width < period_ns else period_ns for width in slack]
    times = [at_ns[i] - width // 2 for i, width in zip(moved, slack, strict=True)]
    if stamps is not None:
        for first in range(0, len(moved), MOST_STAMPS):
            _place(times, slack, at_ns, moved, stamps, first, min(first + MOST_STAMPS, len(moved)))
    return times, slack


def _place(
    times: list[int],
    slack: list[int],
    at_ns: Sequence[int],
    moved: Sequence[int],
    stamps: Sequence[int | None],
    first: int,
    end: int,
) -> None:
    """Put the updates from ``first`` to before ``end`` where their stamps say, if those agree."""
    offset = _offset(at_ns, moved[first:end], stamps)
    if offset is None:
        if end - first >= 2 * FEWEST_STAMPS:
            middle = (first + end) // 2
            _place(times, slack, at_ns, moved, stamps, first, middle)
            _place(times, slack, at_ns, moved, stamps, middle, end)
        return
    for k in range(first, end):
        i = moved[k]
        stamp = stamps[i]
        if stamp is not None:
            times[k], slack[k] = min(at_ns[i], max(at_ns[i - 1] + 1, stamp - offset[0])), offset[1]


def _offset(at_ns: Sequence[int], chunk: Sequence[int], stamps: Sequence[int | None]) -> tuple[int, int] | None:
    """Stamp minus time of the reads' clock, and how far it may be off in all; ``None``: they contradict."""
    known = [(stamp, i) for i in chunk if (stamp := stamps[i]) is not None]
    if not known:
        return None
    least = max(stamp - at_ns[i] for stamp, i in known)  # no update comes after the read that shows it
    most = min(stamp - at_ns[i - 1] for stamp, i in known)  # nor before the read that does not
    if least >= most:
        return None
    apart_ns = DRIFT * (at_ns[chunk[-1]] - at_ns[chunk[0]])
    return (least + most) // 2, most - least + round(apart_ns)
