"""What a simulated card would read at a time, given the load's truth.

Time is seconds since the simulation began. Reads come in order of time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from harness.meter.simulated.load import Load
from harness.meter.simulated.looks import Looks, refreshed_s
from harness.meter.simulated.scenario import Card, Fault, FaultKind, Part, Scope

HEAT_WINDOW_S = 30.0
ROUNDING = 1e-3
"""Of a quantum: 300 W that floating point made 299.99999999 are 300 W."""
CAUSES = {
    "power_cap": (FaultKind.POWER_CAP,),
    "thermal": (FaultKind.THROTTLE,),
    "software_thermal": (),
    "hardware_thermal": (FaultKind.THROTTLE,),
    "power_brake": (FaultKind.POWER_BRAKE,),
}
"""Why clocks may be held back, and the faults that do it."""


class Reading(NamedTuple):
    """A value and when the card came to it, in seconds of the simulation."""

    value: float
    at_s: float


class SimulatedCard:
    """One card under a load; ``idle`` is what it carried before the simulation began."""

    def __init__(self, card: Card, load: Load, idle: Load | None = None) -> None:
        self.card = card
        self._load = load
        self._before_w = card.load_scale * (idle or load).power_at(0.0)
        self._rest_w = self._before_w if idle else 0.0
        self._parts: dict[Scope, Part] = {"gpu": Part()}
        self._parts |= {"module": card.module} if card.module else {}
        self._parts |= {"memory": card.memory} if card.memory else {}
        self._faults = {kind: [fault for fault in card.faults if fault.kind is kind] for kind in FaultKind}
        self._resets_s = sorted(fault.from_s for fault in self.faults(FaultKind.RESET))
        # Noise of the GPU's own sensor is that of the seed alone, whatever other scopes there are.
        self._looks = {
            scope: Looks(
                card.sensor, self._seen(scope), self._resets_s, card.seed if scope == "gpu" else f"{card.seed}-{scope}"
            )
            for scope in self._parts
        }
        self._last: dict[str, Reading] = {}

    def faults(self, kind: FaultKind) -> Sequence[Fault]:
        """All of one kind, whenever they hold."""
        return self._faults[kind]

    def has(self, scope: Scope) -> bool:
        """Whether the card has a sensor of this scope."""
        return scope in self._parts

    def true_energy_j(self, start_s: float, end_s: float, scope: Scope = "gpu") -> float:
        """What an ideal meter would have read; the card's gain and offset are not in it."""
        part = self._parts[scope]
        joules = self.card.load_scale * (self._load.energy_until(end_s) - self._load.energy_until(start_s))
        return joules * part.share + part.rest_w * (end_s - start_s)

    def power(self, at_s: float, scope: Scope = "gpu") -> Reading:
        """Instant power in watts: the last look."""
        looks = self._looks[scope]
        looks.until(at_s)
        return self.held("power", Reading(_steps(looks.power_w, self.card.sensor.quantum_w), looks.at_s), at_s, scope)

    def power_mean(self, at_s: float, scope: Scope = "gpu") -> Reading:
        """Average power in watts: the mean of the looks of ``mean_window_s``."""
        looks = self._looks[scope]
        looks.until(at_s)
        watts = _steps(looks.recent_w, self.card.sensor.quantum_w)
        return self.held("power_mean", Reading(watts, looks.at_s), at_s, scope)

    def energy(self, at_s: float) -> Reading:
        """The counter in joules since the driver was loaded, or since its last reset.

        Raises:
            ValueError: a card without a counter.
        """
        counter = self.card.counter
        if counter is None:
            raise ValueError("this card has no energy counter")
        if counter.of == "sensor":
            looks = self._looks[counter.scope]
            looks.until(at_s)
            total_j, stepped_s = looks.joules, looks.at_s
        else:
            stepped_s = refreshed_s(at_s, counter.period_s, counter.phase_s)
            since_s = max((reset for reset in self._resets_s if reset <= stepped_s), default=0.0)
            total_j = self._seen(counter.scope)(since_s, stepped_s) * (stepped_s - since_s)
        last_reset_s = max((reset for reset in self._resets_s if reset <= stepped_s), default=-math.inf)
        total_j += counter.start_j if last_reset_s < 0 else 0.0
        total_j += math.fsum(
            jump.value or 0.0 for jump in self.faults(FaultKind.JUMP) if last_reset_s <= jump.from_s <= stepped_s
        )
        return self.held("energy", Reading(_steps(max(0.0, total_j), counter.quantum_j), stepped_s), at_s)

    def temperature_c(self, at_s: float) -> float:
        """Whole degrees, by the mean power of the last half minute."""
        start_s = at_s - HEAT_WINDOW_S
        before_j = self._before_w * max(0.0, -start_s)
        mean_w = (before_j + self.true_energy_j(max(0.0, start_s), at_s)) / HEAT_WINDOW_S
        return float(round(self.card.temperature_c + self.card.heating_c_per_w * mean_w))

    def power_limit_w(self, at_s: float) -> float:
        """The limit in force."""
        limits = [fault.value for fault in self.faults(FaultKind.POWER_LIMIT) if fault.holds(at_s)]
        return limits[-1] or 0.0 if limits else self.card.power_limit_w

    def busy(self, at_s: float) -> bool:
        """Whether the load draws more than it did at rest, before the simulation; with no idle load, anything."""
        return self.card.load_scale * self._load.power_at(at_s) > self._rest_w

    def foreign(self, at_s: float) -> int:
        """Processes of others on the card."""
        return sum(int(fault.value or 0) for fault in self.faults(FaultKind.FOREIGN) if fault.holds(at_s))

    def throttled_ns(self, at_s: float, cause: str) -> int:
        """Time so far in which clocks were held back for one of :data:`CAUSES`."""
        spans = [f for kind in CAUSES[cause] for f in self._faults[kind] if f.from_s <= at_s]
        if not spans:
            return 0
        held_s = math.fsum(min(at_s, math.inf if f.until_s is None else f.until_s) - f.from_s for f in spans)
        return round(held_s * 1e9)

    def held(self, name: str, reading: Reading, at_s: float, what: str = "") -> Reading:
        """The reading, or the last one before it froze; ``what`` tells apart readings of one name."""
        frozen = self._faults[FaultKind.FROZEN]
        if not frozen:
            return reading
        key = f"{name}/{what}"
        if any(name in fault.readings and fault.holds(at_s) for fault in frozen):
            return self._last.setdefault(key, reading)
        self._last[key] = reading
        return reading

    def _seen(self, scope: Scope) -> Callable[[float, float], float]:
        """Mean watts of a stretch of time as the card takes them: truth x gain + offset."""
        gain, offset_w = self.card.gain, self.card.offset_w

        def mean_w(start_s: float, end_s: float) -> float:
            if end_s == start_s:
                return 0.0
            return self.true_energy_j(start_s, end_s, scope) / (end_s - start_s) * gain + offset_w

        return mean_w


def _steps(value: float, quantum: float) -> float:
    """Whole quanta, downwards, as a register counts."""
    return math.floor(value / quantum + ROUNDING) * quantum
