"""CPU time of the machine, and of all on it that is not the run: what a meter of whole packages must know."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from harness.meter.proctree import TICK_NS, TreeClock

STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class CpuTime:
    """Nanoseconds since boot; differences count."""

    busy_ns: int  # of all processes of the machine, and the kernel's own
    others_ns: int  # the same without the run's process tree and the sampler


class Neighbours:
    """Counts the CPU time of everybody else. ``root`` is the run's first process; without one all are others."""

    def __init__(self, root: int | None, stat: Path = STAT) -> None:
        self._stat = stat
        self._tree = None if root is None else TreeClock(root)

    def read(self) -> CpuTime | None:
        """Now; ``None`` if the kernel does not tell, or the run's process is gone."""
        busy_ns = self._busy_ns()
        own_ns = 0 if self._tree is None else self._tree.read_ns()
        if busy_ns is None or own_ns is None:
            return None
        return CpuTime(busy_ns, max(0, busy_ns - own_ns - time.process_time_ns()))

    def _busy_ns(self) -> int | None:
        """User, nice, system and interrupt time (proc_stat(5)); guests are in user time, stolen time is not ours."""
        try:
            with self._stat.open() as file:
                name, *ticks = file.readline().split()
        except (OSError, ValueError):
            return None
        if name != "cpu" or len(ticks) < 7:
            return None
        user, nice, system, _idle, _waiting, interrupt, soft_interrupt = map(int, ticks[:7])
        return (user + nice + system + interrupt + soft_interrupt) * TICK_NS
