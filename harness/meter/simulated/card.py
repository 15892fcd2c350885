"""What a simulated card's sensor and counter would read at a time, given the load's truth.

Time is seconds since the simulation began. Reads come in order of time: looks are taken once each, in
order, whatever the times of the reads, so that noise and a counter of looks depend on the scenario alone.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass

from harness.meter.simulated.load import Load
from harness.meter.simulated.scenario import Card, Fault, FaultKind

HEAT_WINDOW_S = 30.0


@dataclass(frozen=True, slots=True)
class Reading:
    """A value and when the card came to it, in seconds of the simulation."""

    value: float
    at_s: float


class SimulatedCard:
    """One card under a load."""

    def __init__(self, card: Card, load: Load) -> None:
        self.card = card
        self._load = load
        self._noise = random.Random(card.seed)
        self._looks = 0
        self._look_w = 0.0
        self._looked_j = 0.0
        self._last_readings: dict[str, Reading] = {}
        self._recent: deque[float] = deque(maxlen=max(1, round(card.sensor.mean_window_s / card.sensor.period_s)))

    def true_energy_j(self, start_s: float, end_s: float) -> float:
        """What an ideal meter would have read; the card's gain and offset are not in it."""
        return self.card.load_scale * (self._load.energy_until(end_s) - self._load.energy_until(start_s))

    def power(self, at_s: float) -> Reading:
        """Instant power in watts: the last look."""
        self._look(at_s)
        watts = _quantised(self._look_w, self.card.sensor.quantum_w)
        return self._held("power", at_s, Reading(watts, self._looked_at_s(at_s)))

    def power_mean(self, at_s: float) -> Reading:
        """Average power in watts: the mean of the looks of ``mean_window_s``."""
        self._look(at_s)
        watts = _quantised(math.fsum(self._recent) / len(self._recent), self.card.sensor.quantum_w)
        return self._held("power_mean", at_s, Reading(watts, self._looked_at_s(at_s)))

    def energy(self, at_s: float) -> Reading:
        """The counter in joules since the driver was loaded, or since its last reset."""
        counter = self.card.counter
        if counter.of == "sensor":
            self._look(at_s)
            total_j, stepped_s = self._looked_j, self._looked_at_s(at_s)
        else:
            stepped_s = _last(at_s, counter.period_s, counter.phase_s)
            total_j = self._metered_j(stepped_s) - self._metered_j(max([0.0, *self._resets_until(stepped_s)]))
        if not self._resets_until(stepped_s):
            total_j += counter.start_j
        total_j += math.fsum(f.value or 0.0 for f in self._of(FaultKind.JUMP) if f.from_s <= at_s)
        return self._held("energy", at_s, Reading(_quantised(total_j, counter.quantum_j), stepped_s))

    def temperature_c(self, at_s: float) -> float:
        """Whole degrees, by the mean power of the last half minute."""
        mean_w = self.true_energy_j(at_s - HEAT_WINDOW_S, at_s) / HEAT_WINDOW_S
        return float(round(self.card.temperature_c + self.card.heating_c_per_w * mean_w))

    def power_limit_w(self, at_s: float) -> float:
        """The limit in force."""
        limits = [f.value or 0.0 for f in self._of(FaultKind.POWER_LIMIT) if f.holds(at_s)]
        return limits[-1] if limits else self.card.power_limit_w

    def foreign(self, at_s: float) -> int:
        """Processes of others on the card."""
        return sum(int(f.value or 0) for f in self._of(FaultKind.FOREIGN) if f.holds(at_s))

    def throttled_ns(self, at_s: float) -> int:
        """Time so far in which heat held the clocks back."""
        spans = [f for f in self._of(FaultKind.THROTTLE) if f.from_s <= at_s]
        held_s = math.fsum(min(at_s, f.until_s if f.until_s is not None else at_s) - f.from_s for f in spans)
        return round(held_s * 1e9)

    def _of(self, kind: FaultKind) -> list[Fault]:
        return [fault for fault in self.card.faults if fault.kind is kind]

    def _held(self, name: str, at_s: float, reading: Reading) -> Reading:
        """The reading, or the last one before it froze."""
        if any(f.holds(at_s) and name in f.readings for f in self._of(FaultKind.FROZEN)):
            return self._last_readings.setdefault(name, reading)
        self._last_readings[name] = reading
        return reading

    def _resets_until(self, at_s: float) -> list[float]:
        return [fault.from_s for fault in self._of(FaultKind.RESET) if fault.from_s <= at_s]

    def _metered_j(self, at_s: float) -> float:
        return self.true_energy_j(0.0, at_s) * self.card.gain + self.card.offset_w * at_s

    def _looked_at_s(self, at_s: float) -> float:
        return _last(at_s, self.card.sensor.period_s, self.card.sensor.phase_s)

    def _look(self, at_s: float) -> None:
        """Take every look that is due up to a time."""
        card, sensor = self.card, self.card.sensor
        due = math.floor((at_s - sensor.phase_s) / sensor.period_s + 1e-9) + 1
        while self._looks < due or not self._recent:
            end_s = sensor.phase_s + self._looks * sensor.period_s
            watts = self.true_energy_j(end_s - sensor.window_s, end_s) / sensor.window_s * card.gain + card.offset_w
            if sensor.noise_w:
                watts += self._noise.gauss(0.0, sensor.noise_w)
            self._look_w = max(0.0, watts)
            if any(end_s - sensor.period_s < reset_s <= end_s for reset_s in self._resets_until(end_s)):
                self._looked_j = 0.0
            self._looked_j += self._look_w * sensor.period_s
            self._recent.append(self._look_w)
            self._looks += 1


def _last(at_s: float, period_s: float, phase_s: float) -> float:
    """The last time on the grid ``phase + n x period`` that is not after ``at_s``."""
    return phase_s + math.floor((at_s - phase_s) / period_s + 1e-9) * period_s


def _quantised(value: float, quantum: float) -> float:
    return math.floor(value / quantum + 1e-9) * quantum
