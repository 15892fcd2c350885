"""Two commands in counter-balanced pairs, as many as were planned, resumable after any end."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from harness.measure.command import Streams
from harness.measure.meters import Metering
from harness.measure.once import Task, idle, make_opinions, run
from harness.measure.saving import counting_attempts
from harness.measure.signals import Signals
from harness.measure.store import Folder
from harness.measure.types import Plan, Role, Run
from harness.run.cooldown import Cooldown

ARMS = ("a", "b")


class Display(Protocol):
    """What a person sees meanwhile."""

    def begin(self, task: Task, number: int, total: int) -> None:
        """A run begins."""

    def update(self, seconds: float) -> None:
        """It goes on."""

    def end(self, made: Run) -> None:
        """It has ended."""

    def say(self, text: str) -> None:
        """Anything else worth a line."""


def first_arms(pairs: int, seed: int) -> tuple[str, ...]:
    """Which command goes first in each pair: in turns (ABBA), who begins is drawn by ``seed``."""
    begins = random.Random(seed).randrange(2)
    return tuple(ARMS[(begins + pair) % 2] for pair in range(pairs))


class Walk:
    """One walk over what is left of a plan."""

    def __init__(
        self, plan: Plan, folder: Folder, meters: Sequence[Metering], signals: Signals, display: Display
    ) -> None:
        self.plan = plan
        self.folder = folder
        self.meters = meters
        self.signals = signals
        self.display = display
        self._runs: list[Run] = []
        self._number = 0
        self._total = 0
        self._cooldown = Cooldown(plan.cooldown_c, self._temperature_c, display.say)

    def go(self) -> None:
        """Do what is left: warm-ups, then whole pairs. Ends early if a command fails or a signal comes.

        Raises:
            InterruptedBySignalError: a signal came between two runs.
        """
        self._runs = self.folder.runs()
        done = counting_attempts(self.plan, self._runs)
        left = [pair for pair in range(1, self.plan.pairs + 1) if pair not in done]
        if not left:
            return
        warm_ups = [(number, arm) for number in range(1, self.plan.warmups + 1) for arm in ARMS]
        self._total = len(warm_ups) + 2 * len(left)
        session = max((made.attempt for made in self._runs), default=0) + 1
        for number, arm in warm_ups:
            key = f"warm-up-{number}-{arm}" + (f".{session}" if session > 1 else "")
            if not self._one(Task(key, arm, self.plan.argv[arm], Role.WARM_UP, attempt=session)):
                return
        for pair in left:
            if not self._pair(pair):
                return

    def _pair(self, pair: int) -> bool:
        """Both runs of a pair, one after the other; whether to go on."""
        attempt = max((made.attempt for made in self._runs if made.pair == pair), default=0) + 1
        stem = f"pair-{pair}" + (f".{attempt}" if attempt > 1 else "")
        rest = idle(stem, self.plan.idle_s, self.meters, self.signals)
        first = self.plan.first[pair - 1]
        for position, arm in enumerate(sorted(ARMS, key=lambda arm: arm != first)):
            self._cooldown.wait("pairs")
            task = Task(f"{stem}-{arm}", arm, self.plan.argv[arm], Role.PAIR, pair, attempt, position, idle=rest)
            if not self._one(task):
                return False
        return True

    def _one(self, task: Task) -> bool:
        self.signals.pause(0)
        self._number += 1
        self.display.begin(task, self._number, self._total)
        self.folder.logs.mkdir(parents=True, exist_ok=True)
        with ExitStack() as files:
            nothing = files.enter_context(open(os.devnull, "rb"))
            log = files.enter_context((self.folder.logs / f"{task.key}.log").open("wb"))
            streams = Streams(nothing.fileno(), log.fileno(), log.fileno())
            made = run(
                replace(task, streams=streams),
                self.meters,
                make_opinions(self.plan.opinions),
                self.signals,
                started=lambda pid: self.folder.begun(pid, task.key),
                watch=self.display.update,
            )
        self.folder.append(made)
        self.folder.ended()
        self._runs.append(made)
        self.display.end(made)
        return not made.interrupted and not made.error and (made.ok or self.plan.allow_failures)

    def _temperature_c(self) -> float | None:
        self.signals.pause(0)  # a long wait must not outlast a signal
        known = [found for found in (meter.temperature_c() for meter in self.meters) if found is not None]
        return max(known, default=None)


def tail_of_log(folder: Folder, key: str, lines: int = 10) -> str:
    """The last lines that a command printed."""
    path: Path = folder.logs / f"{key}.log"
    if not path.exists():
        return ""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
