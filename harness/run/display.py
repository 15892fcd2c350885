"""What a person sees while a suite runs: one live line on a terminal, plain lines elsewhere.

Everything goes to standard error; standard output is for results.
"""

from __future__ import annotations

import sys
import time
from typing import TextIO

from rich.live import Live
from rich.text import Text

from harness.console import Console
from harness.meter.live import Live as Reading
from harness.record.record import Record, Status
from harness.run.events import Progress
from harness.suite.spec import PlannedRun
from harness.suite.spec import Protocol as RunProtocol
from harness.types import Basis

_MARKS = {
    Status.OK: ("✓", "green"),
    Status.FAILED: ("✗", "red"),
    Status.OUT_OF_MEMORY: ("✗", "red"),
    Status.INVALID: ("!", "yellow"),
    Status.SKIPPED: ("-", "dim"),
}


class LiveDisplay:
    """Progress, loss, joules of what has ended, time left."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False, basis: Basis = Basis.MEASURED) -> None:
        self._not_measured = "" if basis is Basis.MEASURED else f" ({basis.value})"
        self.console = Console(file=stream or sys.stderr, quiet=quiet)
        self._live: Live | None = None
        self._began = time.monotonic()
        self._expected_s = 0.0  # of all runs, by the plan
        self._expected_done_s = 0.0
        self._label = ""
        self._planned: PlannedRun | None = None
        self._spent_j = 0.0

    def expect(self, runs: list[PlannedRun]) -> None:
        """What lies ahead, for the time left."""
        self._expected_s = sum(run.prediction.seconds or 0.0 for run in runs)

    def start(self, planned: PlannedRun, number: int, total: int) -> None:
        """A run begins."""
        self._planned = planned
        spec = planned.spec
        width = len(str(total))
        self._label = f"[{number:>{width}}/{total}] {spec.size:>5} s{spec.seed} {spec.arm:<11} {spec.protocol.value:<6}"
        if self.console.is_terminal:
            self._live = Live(Text(self._label), console=self.console, transient=True, refresh_per_second=8)
            self._live.start()

    def update(self, progress: Progress, elapsed_s: float, reading: Reading) -> None:
        """It goes on."""
        if self._live is None:
            return
        share = min(1.0, progress.step / progress.steps)
        bar = "━" * round(20 * share) + "─" * (20 - round(20 * share))
        loss = f"  loss {progress.loss:.3f}" if progress.loss is not None else ""
        power = f"  {reading.power_w:.1f} W" if reading.power_w is not None else ""
        joules = f"  {reading.joules:.0f} J" if reading.joules is not None else ""
        energy = power + joules + (self._not_measured if power or joules else "")
        line = f"{self._label} {bar} {100 * share:3.0f} %{loss}{energy}  {elapsed_s:.0f} s  {self._left()}"
        self._live.update(Text(line, no_wrap=True))

    def end(self, record: Record) -> None:
        """It has ended."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._planned is not None:
            self._expected_done_s += self._planned.prediction.seconds or 0.0
        mark, style = _MARKS[record.status]
        self.console.print(
            Text(f"{mark} ", style=style) + Text(f"{self._label} {self._result(record)}"), soft_wrap=True
        )

    def say(self, text: str) -> None:
        """Anything else worth a line."""
        self.console.print(text, soft_wrap=True)

    def _result(self, record: Record) -> str:
        if not record.ok:
            return f"{record.status.value}: {record.reason}"
        if record.spec.protocol is RunProtocol.COUNT:
            return f"{record.flops.total:.3e} FLOPs (counted)" if record.flops else ""
        parts = []
        if record.quality:
            name, value = next(iter(record.quality.items()))
            parts.append(f"{name} {value:.4f}")
        if record.energy_per_step is not None and record.energy_per_step.joules is not None:
            parts.append(f"{record.energy_per_step.joules:.4g} J/step ({record.energy_per_step.basis.value})")
        if record.energy is not None and record.energy.joules is not None:
            self._spent_j += record.energy.joules
            power = f", {record.energy.joules / record.seconds:.1f} W" if record.seconds else ""
            parts.append(f"{record.energy.joules:.1f} J{power} ({record.energy.basis.value})")
        if record.seconds is not None:
            parts.append(f"{record.seconds:.1f} s")
        return "  ".join(filter(None, [*parts, self._left()]))

    def _left(self) -> str:
        """Time left, from how the plan's predictions have held up so far."""
        elapsed = time.monotonic() - self._began
        if self._expected_done_s < 0.02 * self._expected_s or elapsed < 5:
            return ""
        left = elapsed / self._expected_done_s * (self._expected_s - self._expected_done_s)
        return f"{left / 60:.0f} min left" if left >= 90 else f"{max(0, left):.0f} s left"
