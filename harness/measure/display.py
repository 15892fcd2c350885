"""What a person sees while pairs run: one live line on a terminal, a line per run elsewhere. Standard error only."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from rich.live import Live
from rich.text import Text

from harness.console import Console
from harness.measure.once import Task
from harness.measure.types import Role, Run
from harness.suite.units import duration_text


class PairsDisplay:
    """Which run, how long, how long yet. The live line has no thread of its own: a fork must not meet one."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.console = Console(file=stream or sys.stderr)
        self._live: Live | None = None
        self._label = ""
        self._began = time.monotonic()
        self._number, self._total = 0, 0

    def begin(self, task: Task, number: int, total: int) -> None:
        """A run begins."""
        self._number, self._total = number, total
        what = "warm-up" if task.role is Role.WARM_UP else f"pair {task.pair}"
        self._label = f"[{number:>{len(str(total))}}/{total}] {what} {task.arm.upper()}"
        if self.console.is_terminal:
            self._live = Live(Text(self._label), console=self.console, transient=True, auto_refresh=False)
            self._live.start()

    def update(self, seconds: float) -> None:
        """It goes on."""
        if self._live is not None:
            self._live.update(Text(f"{self._label}  {seconds:.0f} s  {self._left(self._number - 1)}"), refresh=True)

    def end(self, made: Run) -> None:
        """It has ended."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        mark, style = ("✓", "green") if made.ok else ("✗", "red")
        told = made.error or ("interrupted" if made.interrupted else f"exit code {made.exit_code}")
        seconds = "" if made.seconds is None else f"  {made.seconds:.2f} s"
        left = self._left(self._number)
        line = f"{self._label}{seconds}{'' if made.ok else f'  {told}'}{f'  {left}' if left else ''}"
        self.console.print(Text(f"{mark} ", style=style) + Text(line), soft_wrap=True)
        problems = [f"{left.meter}: {left.problem}" for left in made.meters if left.problem]
        for problem in problems:
            self.console.print(Text(f"  meter problem: {problem}", style="bold red"), soft_wrap=True)

    def say(self, text: str) -> None:
        """Anything else worth a line."""
        self.console.print(text, soft_wrap=True)

    def _left(self, done: int) -> str:
        if not done or done == self._total:
            return ""
        return f"about {duration_text((time.monotonic() - self._began) / done * (self._total - done))} left"
