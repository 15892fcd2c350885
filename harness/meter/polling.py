"""Reading a meter as fast as makes sense for a few seconds, so that ``calibration.py`` sees its refreshes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from harness.meter.base import Meter, MeterInfo, Quantity, Sample
from harness.meter.clock import read_ns
from harness.meter.refresh import NS
from harness.meter.samples import SamplesWriter

POLL_S = 0.002
FAST_POLL_S = 0.00025
"""For a counter that changes at every read, as RAPL does once a millisecond."""
SECONDS = 2.0
MOST_SECONDS = 3.0
ENOUGH_UPDATES = 25
LOOK_S = 0.25
"""After so long it is seen whether the pace is fast enough."""
BUSY = 0.5
"""At most this share of the time is spent reading: a slow driver is polled more slowly."""


@dataclass(frozen=True, slots=True)
class Polled:
    """What polling left beside its samples file."""

    count: int  # samples in the file
    read_s: float  # median wall time of one read of all channels
    read_cpu_s: float  # mean CPU time of one read


def poll(
    meter: Meter,
    info: MeterInfo,
    path: Path,
    *,
    clock: Callable[[], int] = read_ns,
    sleep: Callable[[float], None] = time.sleep,
    cpu_clock: Callable[[], int] = time.process_time_ns,
) -> Polled:
    """Poll an open meter for 2 to 3 s into a new samples file.

    It stops after 2 s if every counter and power changed often enough, and after 3 s whatever it saw.

    Raises:
        FileExistsError: raw samples are never overwritten.
    """
    seen = _Changes(info)
    walls: list[int] = []
    cpu_ns = 0
    pause_s = POLL_S
    started_ns = clock()
    with SamplesWriter(path, info) as writer:
        while True:
            before_ns, cpu_before_ns = clock(), cpu_clock()
            samples = meter.read()
            cpu_ns += cpu_clock() - cpu_before_ns
            walls.append(clock() - before_ns)
            writer.append(samples)
            seen.add(samples)
            passed_s = (clock() - started_ns) / NS
            if passed_s >= MOST_SECONDS or (passed_s >= SECONDS and seen.least >= ENOUGH_UPDATES):
                break
            if pause_s == POLL_S and passed_s >= LOOK_S and seen.most > len(walls) / 2:
                pause_s = FAST_POLL_S
            read_s = walls[-1] / NS
            sleep(max(pause_s - read_s, read_s * (1 - BUSY) / BUSY, 0.0))
        count = writer.count
    return Polled(count, median(walls) / NS, cpu_ns / NS / len(walls))


class _Changes:
    """How often each counter and instant power has changed."""

    def __init__(self, info: MeterInfo) -> None:
        wanted = {Quantity.ENERGY_J, Quantity.POWER_W}
        self._last: dict[int, float | None] = {
            index: None for index, channel in enumerate(info.channels) if channel.quantity in wanted
        }
        self._counts = dict.fromkeys(self._last, 0)

    def add(self, samples: list[Sample]) -> None:
        """One read."""
        for sample in samples:
            if sample.value is None or sample.channel not in self._last:
                continue
            before, self._last[sample.channel] = self._last[sample.channel], sample.value
            if before is not None and before != sample.value:
                self._counts[sample.channel] += 1

    @property
    def least(self) -> int:
        """Changes of the channel that changed least."""
        return min(self._counts.values(), default=0)

    @property
    def most(self) -> int:
        """Changes of the channel that changed most."""
        return max(self._counts.values(), default=0)
