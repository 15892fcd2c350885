"""A launcher whose runs are acted: the events of a training, in real time, without torch.

Runner, sampler, meter, ledger and seal are the real ones; only what is trained is not.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from harness.run.events import CHARGED, Activity, Counted, Evaluated, Event, Finished, Started, Window, WindowKind
from harness.suite.spec import RunSpec
from harness.types import canonical_json

WINDOW_S = 0.25


class ActedRun:
    """Says that it started at once, and all the rest once it may go."""

    def __init__(self, spec: RunSpec, events: Path) -> None:
        self._spec = spec
        self._events = events
        self.pid = os.getpid()
        self.alive = True
        self.exit_code: int | None = None
        now = time.monotonic_ns()
        self._say(
            Started(at_ns=now, pid=self.pid, wall_clock="2026-01-01T00:00:00+00:00", device="cpu", parameters=97_696)
        )

    def go(self) -> None:
        """Act the whole run."""
        spec = self._spec
        per_step = tuple(1e6 * (index + 1) for index in range(len(spec.phases)))
        total = sum(phase.steps * flops for phase, flops in zip(spec.phases, per_step, strict=True))
        self._say(Counted(per_step=per_step, per_probe=(0.0,) * len(spec.phases), total=total))
        step = 0
        for index, phase in enumerate(spec.phases):
            if phase.probes:
                self._window(WindowKind.PROBE, 0.1, index, step, 0)
                self._say(Activity(at_ns=time.monotonic_ns(), step=step, active_units=0.5, active_parameters=0.5))
            self._window(WindowKind.TRAIN, WINDOW_S, index, step, phase.steps)
            step += phase.steps
            self._evaluated(step, final=False)
        self._evaluated(step, final=True)
        self._say(Finished(at_ns=time.monotonic_ns(), steps=step, examples=step * 32, peak_memory_bytes=1 << 20))

    def bye(self) -> None:
        """The meter has seen the end."""
        self.alive, self.exit_code = False, 0

    def wait(self, seconds: float) -> None:
        """As a real one."""
        time.sleep(min(seconds, 0.01))

    def kill(self) -> None:
        """As a real one."""
        self.alive, self.exit_code = False, -9

    def close(self) -> None:
        """As a real one."""

    def _window(self, kind: WindowKind, seconds: float, phase: int, first_step: int, steps: int) -> None:
        assert kind in CHARGED
        start = time.monotonic_ns()
        time.sleep(seconds)
        self._say(
            Window(
                kind=kind, start_ns=start, end_ns=time.monotonic_ns(), phase=phase, first_step=first_step, steps=steps
            )
        )

    def _evaluated(self, step: int, *, final: bool) -> None:
        metrics = {"loss": 4.0 - 0.01 * step, "bits_per_byte": 3.0, "accuracy": 20.0, "perplexity": 50.0}
        self._say(Evaluated(at_ns=time.monotonic_ns(), step=step, examples=step * 32, metrics=metrics, final=final))

    def _say(self, event: Event) -> None:
        with self._events.open("a", encoding="utf-8") as file:
            file.write(canonical_json(event) + "\n")


class ActingLauncher:
    """In the place of ``LocalLauncher``."""

    def start(self, spec: RunSpec, events: Path) -> ActedRun:
        """A fresh run."""
        return ActedRun(spec, events)
