"""One power sensor: what it has seen of a truth that it looks at only part of the time."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence

from harness.meter.simulated.scenario import Sensor

SLACK = 1e-9
"""Of a period: a read at the very moment of a refresh, rounded, still sees it."""


def refreshed_s(at_s: float, period_s: float, phase_s: float) -> float:
    """The last time on the grid ``phase + n x period`` that is not after ``at_s``."""
    return phase_s + math.floor((at_s - phase_s) / period_s + SLACK) * period_s


class Looks:
    """Looks of a sensor, taken once each and in order whatever the times of the reads.

    So noise and the sum of looks hang on the scenario alone, not on who reads when. ``mean_w`` gives what the
    sensor would find over a stretch of time: mean truth x gain + offset.
    """

    def __init__(
        self, sensor: Sensor, mean_w: Callable[[float, float], float], resets_s: Sequence[float], seed: int | str
    ) -> None:
        self._period_s, self._phase_s = sensor.period_s, sensor.phase_s
        self._window_s, self._noise_w = sensor.window_s, sensor.noise_w
        self._mean_w = mean_w
        self._resets_s = sorted(resets_s)
        self._noise = random.Random(seed)
        self._recent: deque[float] = deque(maxlen=max(1, round(sensor.mean_window_s / sensor.period_s)))
        # The first look ended at the start or before it: a sensor that is read has looked already.
        self._next = math.floor(-sensor.phase_s / sensor.period_s + SLACK)
        self.power_w = 0.0  # of the last look
        self.joules = 0.0  # every look held for one period, since the first or the last reset
        self.until(0.0)

    @property
    def at_s(self) -> float:
        """When the last look ended."""
        return self._phase_s + (self._next - 1) * self._period_s

    @property
    def recent_w(self) -> float:
        """Mean of the looks of ``mean_window_s``, or of as many as there are."""
        return math.fsum(self._recent) / len(self._recent)

    def until(self, at_s: float) -> None:
        """Take every look that is due."""
        last = math.floor((at_s - self._phase_s) / self._period_s + SLACK)
        while self._next <= last:
            end_s = self._phase_s + self._next * self._period_s
            watts = self._mean_w(end_s - self._window_s, end_s)
            if self._noise_w:
                watts += self._noise.gauss(0.0, self._noise_w)
            self.power_w = max(0.0, watts)
            while self._resets_s and self._resets_s[0] <= end_s:
                self._resets_s.pop(0)
                self.joules = 0.0
            self.joules += self.power_w * self._period_s
            self._recent.append(self.power_w)
            self._next += 1
