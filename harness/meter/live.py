"""A running tally for the live line: power now and joules so far. Nothing is computed from it later."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from harness.meter.base import MeterInfo, Quantity, Sample
from harness.meter.energy import scopes_of
from harness.meter.track import COUNTERS, NS, POWERS

WINDOW_S = 1.0
"""Power is the mean over this."""
LATER = 100
"""So many rounds are kept until somebody asks: taken in together they cost less than one by one."""


@dataclass(frozen=True, slots=True)
class Live:
    """What the live line shows; ``None`` is not known."""

    power_w: float | None
    joules: float | None


class Tally:
    """Feeds on samples as they come, in constant memory."""

    def __init__(self, info: MeterInfo) -> None:
        scope = (scopes_of(info) or [""])[0]
        headline: dict[str, int] = {}  # device -> its channel: a counter if there is one, else the first power
        for index, channel in enumerate(info.channels):
            if channel.scope != scope or channel.quantity not in COUNTERS | POWERS:
                continue
            taken = headline.get(channel.device)
            if taken is None or (channel.quantity in COUNTERS and info.channels[taken].quantity in POWERS):
                headline[channel.device] = index
        self._info = info
        self._last: dict[int, Sample | None] = dict.fromkeys(headline.values())
        self._joules: dict[int, float] = dict.fromkeys(headline.values(), 0.0)
        self._recent: deque[tuple[int, float]] = deque()
        self._rounds: list[list[Sample]] = []

    def feed(self, samples: list[Sample]) -> None:
        """Take in one round of samples."""
        self._rounds.append(samples)
        if len(self._rounds) == LATER:
            self._catch_up()

    def _catch_up(self) -> None:
        for samples in self._rounds:
            self._add(samples)
        self._rounds.clear()

    def _add(self, samples: list[Sample]) -> None:
        at_ns = None
        for sample in samples:
            index, read_ns, _, value, _ = sample
            if value is None or index not in self._last:
                continue
            last = self._last[index]
            if last is not None and last.value is not None:
                self._joules[index] += self._between(index, last.value, sample, last.at_ns)
            self._last[index] = sample
            at_ns = read_ns
        if at_ns is not None:
            self._recent.append((at_ns, sum(self._joules.values())))
            while len(self._recent) > 2 and at_ns - self._recent[1][0] > WINDOW_S * NS:
                self._recent.popleft()

    def live(self) -> Live:
        """The present state."""
        self._catch_up()
        if len(self._recent) < 2:
            return Live(None, None)
        (start_ns, start_j), (end_ns, end_j) = self._recent[0], self._recent[-1]
        return Live((end_j - start_j) / ((end_ns - start_ns) / NS) if end_ns > start_ns else None, end_j)

    def _between(self, index: int, last: float, sample: Sample, last_ns: int) -> float:
        channel = self._info.channels[index]
        value = sample.value or 0.0
        if channel.quantity in POWERS:
            return last * (sample.at_ns - last_ns) / NS
        delta = value - last
        if delta < 0:
            delta += channel.wrap_at or -delta
        return delta * (channel.scale if channel.quantity is Quantity.CPU_S else 1.0)
