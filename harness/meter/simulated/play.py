"""A simulation in no time: the NVML meter reads simulated cards by a clock that is moved by hand."""

from __future__ import annotations

import random
from dataclasses import dataclass

from harness.meter.base import MeterInfo, Sample
from harness.meter.nvml import NvmlMeter
from harness.meter.simulated.load import Load
from harness.meter.simulated.nvml import NS, SimulatedNvml
from harness.meter.simulated.scenario import Scenario, Scope

SCHEDULER_DELAY_S = 1e-3
"""Mean lateness of a read, exponential: what a sampler on an ordinary machine shows."""


class VirtualClock:
    """Nanoseconds that pass when :meth:`advance` says so."""

    def __init__(self) -> None:
        self.now_ns = NS  # not 0: a time of 0 hides mistakes

    def __call__(self) -> int:
        """The time now, in whole microseconds as ``read_ns`` gives it."""
        return self.now_ns // 1000 * 1000

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_ns += round(seconds * NS)


@dataclass(frozen=True)
class Played:
    """What the meter read, and the cards to ask for the truth."""

    info: MeterInfo
    samples: tuple[Sample, ...]
    nvml: SimulatedNvml
    start_ns: int
    error: str = ""  # what ended the reading before its time: the sampler would have stopped there too

    def true_energy_j(self, start_ns: int, end_ns: int, scope: Scope = "gpu") -> float:
        """What ideal meters on all cards would have read."""
        start_s, end_s = ((at - self.start_ns) / NS for at in (start_ns, end_ns))
        return sum(card.true_energy_j(start_s, end_s, scope) for card in self.nvml.cards)


def play(
    scenario: Scenario, seconds: float, *, sample_hz: float = 20.0, load: Load | None = None, seed: int = 0
) -> Played:
    """Meter a scenario for so many seconds at so many reads a second. ``seed`` is of the reads' lateness.

    The schedule is that of the sampler's process: on a grid, and a read that comes late is not made up for.

    Raises:
        UserError: the cards of the scenario can't be metered.
    """
    clock, late = VirtualClock(), random.Random(seed)
    start_ns, period_ns = clock(), round(NS / sample_hz)
    nvml = SimulatedNvml(scenario, load, clock, clock.advance)
    meter = NvmlMeter(nvml=nvml, clock=clock)
    info = meter.open(None, None).model_copy(update={"sample_hz": sample_hz})
    samples: list[Sample] = []
    error, due_ns = "", start_ns
    end_ns = start_ns + round(seconds * sample_hz) * period_ns
    while due_ns <= end_ns:
        clock.now_ns = max(clock.now_ns + 1000, due_ns + round(late.expovariate(1 / SCHEDULER_DELAY_S) * NS))
        try:
            samples += meter.read()
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
            break
        due_ns += period_ns * (max(0, clock.now_ns - due_ns) // period_ns + 1)
    return Played(info, tuple(samples), nvml, start_ns, error)
