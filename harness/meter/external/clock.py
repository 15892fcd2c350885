"""Times of another clock on ours.

A source stamps its readings with wall-clock time, ours is monotonic. One pair of the two, taken when the meter
is opened, maps one onto the other for the whole run; ``offset_s`` is the source's clock minus this machine's.

Of a reading that was seen to arrive, *lag* is arrival minus stamp: the way it took, less the clock's offset. A
way takes no negative time, so the least lag bounds the offset from above; how lags change tells the drift.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from statistics import fmean, median
from typing import NamedTuple

from harness.meter.base import MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.track import NS
from harness.types import UserError

FUTURE_S = 2.0
"""A stamp may lie so far ahead of this machine's clock: NTP at its worst, and stamps rounded up to a second."""
MIN_READINGS = 8
"""Fewer arrivals than this tell no drift."""


class Clock:
    """Maps Unix times of the source, in nanoseconds, to ``time.monotonic_ns``."""

    def __init__(self, offset_s: float = 0.0) -> None:
        # The wall clock between two reads of ours: the pair is good to half of what the three calls take.
        before = time.monotonic_ns()
        self._wall_ns = time.time_ns()
        self._anchor_ns = (before + time.monotonic_ns()) // 2
        self.offset_s = offset_s

    def monotonic_ns(self, stamp_ns: int) -> int:
        """Our time at a stamp."""
        return self._anchor_ns + stamp_ns - self._wall_ns - round(self.offset_s * NS)

    def lag_s(self, stamp_ns: int, arrived_ns: int) -> float:
        """How long after its stamp a reading came."""
        return (arrived_ns - self.monotonic_ns(stamp_ns)) / NS


def offset_of(lags_s: Sequence[float], wanted: float | str | None, late_s: float, source: str) -> tuple[float, str]:
    """Offset of the source's clock and how it was found, from the lags seen with no offset.

    A number is taken as it is; ``auto`` takes the fastest reading to have come at once. Otherwise clocks are
    taken to agree, unless the lags say they can't: a reading from the future by less than :data:`FUTURE_S`
    moves the clock so that none is.

    Raises:
        UserError: the clocks differ by more than any delay can explain.
    """
    if isinstance(wanted, float | int):
        least = min((lag + wanted for lag in lags_s), default=0.0)
        if not -FUTURE_S <= least <= late_s:
            raise UserError(_apart(source, least, f"with clock_offset_s: {wanted:g} "))
        return float(wanted), f"clock offset {wanted:+g} s as stated in the options"
    if not lags_s:
        if wanted == "auto":
            raise UserError(f"{source}: clock_offset_s: auto needs readings that arrive, and none came: is it running?")
        return 0.0, "no reading came while the meter was opened: its clock is taken to agree with this machine's"
    least = min(lags_s)
    if wanted == "auto":
        return -least, f"clock offset {-least:+.3f} s: the fastest of {len(lags_s)} readings taken to come at once"
    if not -FUTURE_S <= least <= late_s:
        raise UserError(_apart(source, least, ""))
    if least < 0:
        return -least, f"clock ahead by {-least:.3f} s at least: readings came before their own time"
    return 0.0, f"clock taken to agree with this machine's; readings came {least:.3f} s after their time at least"


def _apart(source: str, lag_s: float, how: str) -> str:
    where = "ahead of" if lag_s < 0 else "behind"
    hint = " A whole number of hours is a time zone: see the option timezone." if abs(lag_s) > 1800 else ""
    return (
        f"{source}: its newest readings are stamped {abs(lag_s):.1f} s {where} this machine's clock {how}"
        f"- set its clock, or state clock_offset_s: {-lag_s:.1f} (or auto) in an options file.{hint}"
    )


class Drift(NamedTuple):
    """How a source's clock ran against ours during a run."""

    readings: int
    least_lag_s: float
    median_lag_s: float
    drift_ppm: float | None  # above 0: the source's clock runs slow, lags grow
    drift_sd_ppm: float | None  # one standard deviation, from the scatter of the lags around the line


def drift_of(info: MeterInfo, samples: Iterable[Sample]) -> Drift | None:
    """From the recorded lags of a run; ``None`` for a source without stamps, or if none arrived."""
    lags = {i for i, channel in enumerate(info.channels) if channel.quantity is Quantity.CLOCK_LAG_S}
    points = [
        (sample.at_ns / NS, sample.value)
        for sample in samples
        if sample.channel in lags and sample.status is ReadStatus.OK and sample.value is not None
    ]
    if not points:
        return None
    values = [lag for _, lag in points]
    slope, deviation = _line(points) if len(points) >= MIN_READINGS else (None, None)
    return Drift(
        len(points),
        min(values),
        median(values),
        None if slope is None else slope * 1e6,
        None if deviation is None else deviation * 1e6,
    )


def _line(points: Sequence[tuple[float, float]]) -> tuple[float | None, float | None]:
    """Slope of the least-squares line and its standard error."""
    mean_t, mean_y = fmean(t for t, _ in points), fmean(y for _, y in points)
    spread = math.fsum((t - mean_t) ** 2 for t, _ in points)
    if spread == 0:
        return None, None
    slope = math.fsum((t - mean_t) * (y - mean_y) for t, y in points) / spread
    rest = math.fsum((y - mean_y - slope * (t - mean_t)) ** 2 for t, y in points)
    return slope, math.sqrt(rest / (len(points) - 2) / spread)
