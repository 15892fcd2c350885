"""A simulation in no time: the NVML meter reads simulated cards by a clock that is moved by hand."""

from __future__ import annotations

import random
from dataclasses import dataclass

from harness.meter.base import MeterInfo, Sample
from harness.meter.nvml import NvmlMeter
from harness.meter.simulated.load import Load
from harness.meter.simulated.nvml import NS, SimulatedNvml
from harness.meter.simulated.scenario import Scenario
from harness.types import Basis

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

    def true_energy_j(self, start_ns: int, end_ns: int) -> float:
        """What ideal meters on all cards would have read."""
        start_s, end_s = ((at - self.start_ns) / NS for at in (start_ns, end_ns))
        return sum(card.true_energy_j(start_s, end_s) for card in self.nvml.cards)


def play(
    scenario: Scenario, seconds: float, *, sample_hz: float = 20.0, load: Load | None = None, seed: int = 0
) -> Played:
    """Meter a scenario for so many seconds at so many reads a second. ``seed`` is of the reads' lateness."""
    clock, late = VirtualClock(), random.Random(seed)
    start_ns = clock()
    nvml = SimulatedNvml(scenario, load, clock)
    meter = NvmlMeter(nvml=nvml, clock=clock)
    info = meter.open(None, None)
    samples: list[Sample] = []
    for read in range(round(seconds * sample_hz) + 1):
        due_ns = start_ns + round(read / sample_hz * NS) + round(late.expovariate(1 / SCHEDULER_DELAY_S) * NS)
        clock.now_ns = max(clock.now_ns + 1000, due_ns)
        samples += meter.read()
    info = info.model_copy(
        update={
            "sample_hz": sample_hz,
            "basis": Basis.SIMULATED,
            "channels": tuple(c.model_copy(update={"basis": Basis.SIMULATED}) for c in info.channels),
        }
    )
    return Played(info, tuple(samples), nvml, start_ns)
