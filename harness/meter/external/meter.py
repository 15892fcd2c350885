"""The instrument behind ``--meter external:...``: another instrument's readings on our clock.

Where readings carry the source's own times, ``Sample.at_ns`` is that time mapped to our clock and
``Sample.sensor_ns`` the time as given; how long each took to arrive is recorded beside it. Nothing is ever
repeated as new: a reading that does not come is *missing*, a source that is no longer there is *lost*. At the
end of a run the readings that are still on their way are waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from harness.meter.base import Channel, Meter, MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.clock import read_ns
from harness.meter.external.clock import FUTURE_S, Clock, offset_of
from harness.meter.external.endpoint import EndpointSource
from harness.meter.external.options import Options, load
from harness.meter.external.source import GoneError, Reading, SilentError, Source
from harness.meter.external.table import TableSource
from harness.meter.track import GAP_PERIODS, NS
from harness.types import Basis, UserError

ASSUMED_PERIOD_S = 1.0
SETTLE_PERIODS = 3.0
"""So many periods are waited for readings when the meter is opened and for late ones at the end."""
SETTLE_LEAST_S, SETTLE_MOST_S = 1.0, 10.0
LAST_MOST_S = 20.0
SILENT_PERIODS = 2.5
"""Without a reading for so long, one counts as missing."""
STALE_PERIODS, STALE_LEAST_S = 10.0, 30.0
CLOCK_SD_S = 0.02
"""Clocks of one machine or network agree no better than this by what is known here."""


class ExternalMeter(Meter):
    """Reads one source; ``pid`` plays no part, ``device`` chooses among cards that the source names by UUID."""

    name = "external"
    argument = "FILE.csv|FILE.yaml|http://127.0.0.1:PORT/metrics"

    def __init__(self, source: str, clock: Callable[[], int] = read_ns) -> None:
        self._argument = source
        self._now_ns = clock
        self._clock = Clock()
        self._source: Source | None = None
        self._options = Options(source=source)
        self._period_ns = NS
        self._ready: list[Reading] = []  # come while the meter was opened
        self._due_ns = 0  # of the next scrape
        self._last_at_ns = 0  # of the newest reading
        self._heard_ns = 0  # when a reading last arrived
        self._absence: tuple[ReadStatus, int] | None = None  # what was last recorded instead of one, and when
        self._still: list[tuple[float | None, int]] = []  # last value of each stream and since when

    @classmethod
    def options_of(cls, argument: str) -> dict[str, Any]:
        """The argument, with its options file read and checked."""
        if not argument:
            raise UserError(f"meter 'external' needs a source: external:{cls.argument}")
        load(argument)
        return {"source": argument}

    @classmethod
    def available(cls) -> str | None:
        """Always: what it needs is the argument's to say."""
        return None

    def open(self, pid: int | None, device: str | None) -> MeterInfo:
        """Find the streams, wait for a reading or two, and settle the clocks.

        Raises:
            UserError: a source that can't be read, or whose clock can't be believed.
        """
        self._options = options = load(self._argument)
        self._source = source = EndpointSource(options) if options.is_url else TableSource(options)
        there = source.open(device)
        period_s = options.update_period_s or source.period_s
        notes = [options.gain_source, *source.assumptions]
        self._clock = Clock()
        uncertain_s = 0.0
        if source.stamped:
            self._refuse_future(there)
            come = self._listen(period_s or ASSUMED_PERIOD_S)
            if period_s is None:
                period_s = _period_s([*there, *come])
            lags = [lag for reading in come if (lag := self._lag_s(reading)) is not None]
            self._clock.offset_s, note = offset_of(lags, options.clock_offset_s, options.late_s, source.title)
            uncertain_s = max([CLOCK_SD_S, source.stamp_step_s, min(lags, default=0.0) + self._clock.offset_s])
            notes += [note, f"readings are placed by their own times, good to {uncertain_s:.3g} s"]
            self._ready = [*there[-1:], *come]
        if period_s is None:
            period_s = ASSUMED_PERIOD_S
            notes.append(f"readings are taken to be refreshed every {period_s:g} s: state update_period_s if not so")
        self._period_ns = round(period_s * NS)
        now_ns = self._now_ns()
        self._due_ns = self._heard_ns = now_ns
        self._still = [(None, now_ns) for _ in source.streams]
        return MeterInfo(
            name=self.name,
            basis=Basis.MEASURED,
            source=f"{options.title}: {source.title}" if options.title else f"external meter {source.title}",
            channels=(*self._channels(source), *([_LAG] if source.stamped else [])),
            assumptions=tuple(notes),
            # A stamped reading is as old as its own time says; what is left is the doubt about that time.
            update_period_s=uncertain_s if source.stamped else period_s,
            look_s=uncertain_s if source.stamped else None,
            sample_hz=NS / self._period_ns,
        )

    def read(self) -> list[Sample]:
        """What has come since; an endpoint is asked no more often than it is refreshed."""
        readings, self._ready = self._ready, []
        samples = [sample for reading in readings for sample in self._samples(reading)]
        source, now_ns = self._opened(), self._now_ns()
        if isinstance(source, EndpointSource):
            if now_ns < self._due_ns:
                return samples
            every_ns = self._period_ns // 2 if source.stamped else self._period_ns
            self._due_ns += every_ns * ((now_ns - self._due_ns) // every_ns + 1)
        try:
            for reading in source.poll():
                samples += self._samples(reading)
        except GoneError:
            return [*samples, *self._absent(ReadStatus.LOST)]
        except SilentError:
            return [*samples, *self._absent(ReadStatus.MISSING)]
        silent = now_ns - self._heard_ns > SILENT_PERIODS * self._period_ns
        return [*samples, *(self._absent(ReadStatus.MISSING) if silent else [])]

    def read_last(self) -> list[Sample]:
        """All that belongs to the time until now, also what is still on its way."""
        source, end_ns = self._opened(), self._now_ns()
        period_s = self._period_ns / NS
        wait_s = self._options.wait_s or min(LAST_MOST_S, SETTLE_PERIODS * period_s + SETTLE_LEAST_S)
        self._due_ns = min(self._due_ns, end_ns)
        samples = self.read()
        while source.stamped and self._last_at_ns < end_ns and self._now_ns() < end_ns + round(wait_s * NS):
            if self._absence is not None and self._absence[0] is ReadStatus.LOST:
                break
            time.sleep(min(0.05, period_s / 4))
            samples += self.read()
        return samples

    def close(self) -> None:
        """Let go of the source."""
        if self._source is not None:
            self._source.close()
            self._source = None

    def _opened(self) -> Source:
        assert self._source is not None, "open() comes first"
        return self._source

    def _channels(self, source: Source) -> list[Channel]:
        return [
            Channel(
                name=stream.name,
                quantity=stream.quantity,
                device=stream.device,
                scope=stream.scope,
                basis=Basis.MEASURED,
                quantum=stream.quantum,
                gain_error=self._options.gain_sd,
            )
            for stream in source.streams
        ]

    def _listen(self, period_s: float) -> list[Reading]:
        """Readings that arrive now: two, or as many as come in a few periods."""
        wait_s = min(SETTLE_MOST_S, max(SETTLE_LEAST_S, SETTLE_PERIODS * period_s))
        until_ns, come = time.monotonic_ns() + round(wait_s * NS), list[Reading]()
        while time.monotonic_ns() < until_ns and len({reading.stamp_ns for reading in come}) < 2:
            try:
                come += self._opened().poll()
            except (GoneError, SilentError):
                pass  # whether it is still there is the run's to find out
            time.sleep(min(0.02, period_s / 10))
        return come

    def _refuse_future(self, there: list[Reading]) -> None:
        stamps = [reading.stamp_ns for reading in there if reading.stamp_ns is not None]
        if stamps and self._options.clock_offset_s is None:
            ahead_s = -self._clock.lag_s(max(stamps), time.monotonic_ns())
            if ahead_s > FUTURE_S:
                offset_of([-ahead_s], None, self._options.late_s, self._opened().title)

    def _lag_s(self, reading: Reading) -> float | None:
        if reading.stamp_ns is None or reading.arrived_ns is None:
            return None
        return self._clock.lag_s(reading.stamp_ns, reading.arrived_ns)

    def _samples(self, reading: Reading) -> list[Sample]:
        """A reading's samples; none if it is no new one."""
        if self._opened().stamped:
            return self._stamped(reading)
        at_ns = reading.arrived_ns or self._now_ns()
        self._heard(at_ns)
        return self._values(self._fresh(reading.values, at_ns), at_ns // 1000 * 1000, None)

    def _stamped(self, reading: Reading) -> list[Sample]:
        stamp_ns, arrived_ns = reading.stamp_ns, reading.arrived_ns
        if stamp_ns is None:
            return [] if arrived_ns is None else self._absent(ReadStatus.MISSING)
        at_ns = self._clock.monotonic_ns(stamp_ns) // 1000 * 1000
        if at_ns <= self._last_at_ns:
            return []
        samples = self._values(reading.values, at_ns, stamp_ns)
        if arrived_ns is None:  # there before anyone looked: of use only if it is recent
            if self._now_ns() - at_ns > GAP_PERIODS * self._period_ns:
                return []
            self._last_at_ns = at_ns
            return samples
        lag_s = self._clock.lag_s(stamp_ns, arrived_ns)
        lag = round(lag_s / _LAG.quantum) * _LAG.quantum
        seen = Sample(len(self._opened().streams), arrived_ns // 1000 * 1000, ReadStatus.OK, lag, stamp_ns)
        if not -FUTURE_S <= lag_s <= self._options.late_s:
            return [*self._absent(ReadStatus.MISSING), seen]
        self._last_at_ns = at_ns
        self._heard(arrived_ns)
        return [*samples, seen]

    def _values(self, values: tuple[float | None, ...], at_ns: int, stamp_ns: int | None) -> list[Sample]:
        return [
            Sample(i, at_ns, ReadStatus.MISSING if value is None else ReadStatus.OK, value, stamp_ns)
            for i, value in enumerate(values)
        ]

    def _fresh(self, values: tuple[float | None, ...], at_ns: int) -> tuple[float | None, ...]:
        """Values without a time, less those that have stood still for too long to be believed."""
        least_s = self._options.stale_s or max(STALE_LEAST_S, STALE_PERIODS * self._period_ns / NS)
        fresh = []
        for i, value in enumerate(values):
            last, since_ns = self._still[i]
            if value != last:
                self._still[i] = (value, at_ns)
                since_ns = at_ns
            fresh.append(None if at_ns - since_ns > least_s * NS else value)
        return tuple(fresh)

    def _heard(self, at_ns: int) -> None:
        self._heard_ns, self._absence = at_ns, None

    def _absent(self, status: ReadStatus) -> list[Sample]:
        """That nothing came: at once, and once a period while it lasts."""
        now_ns = self._now_ns()
        if self._absence is not None:
            last, at_ns = self._absence
            if status is last and now_ns - at_ns < self._period_ns:
                return []
        self._absence = (status, now_ns)
        return [Sample(i, now_ns, status) for i in range(len(self._opened().streams))]


_LAG = Channel(
    name="clock/lag",
    quantity=Quantity.CLOCK_LAG_S,
    device="source",
    scope="clock",
    basis=Basis.MEASURED,
    quantum=1e-6,
)


def _period_s(readings: list[Reading]) -> float | None:
    stamps = sorted({reading.stamp_ns for reading in readings if reading.stamp_ns is not None})
    return (stamps[-1] - stamps[-2]) / NS if len(stamps) > 1 else None
