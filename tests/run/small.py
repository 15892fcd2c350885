"""A suite small enough to be run for real in a test."""

from __future__ import annotations

from pathlib import Path

from harness import app
from harness.record.ledger import Ledger
from harness.record.record import Record
from harness.run.events import Progress
from harness.run.runner import Outcome, Runner
from harness.suite.spec import PlannedRun

SUITE = """\
name: small
title: Small
workload: language
workload_options: {{data: markov, sequence_length: 16, evaluation_tokens: 256, curve_tokens: 256}}
arms:
  dense: {{}}
  sat: {{}}
  sat-width: {{method: sat, axis: width}}
experiments:
  - protocol: train
    sizes: [0.1M]
    seeds: {seeds}
    arms: [{arms}]
    recipe: {{steps: {steps}, batch_size: 2, evaluations: 2}}
idle: 0s
timeout: {timeout}
"""


def write_suite(
    path: Path, *, seeds: int = 1, steps: int = 8, arms: str = "dense, sat, sat-width", timeout: str = "2m"
) -> Path:
    """The suite file."""
    path.write_text(SUITE.format(seeds=seeds, steps=steps, arms=arms, timeout=timeout), encoding="utf-8")
    return path


class Watcher:
    """A display that remembers, and may act when a run makes progress."""

    def __init__(self, on_update=None) -> None:
        self.started: list[str] = []
        self.records: list[Record] = []
        self.said: list[str] = []
        self.on_update = on_update

    def start(self, planned: PlannedRun, number: int, total: int) -> None:
        self.started.append(planned.spec.arm)

    def update(self, progress: Progress, elapsed_s: float, live: object) -> None:
        if self.on_update:
            self.on_update(progress)

    def end(self, record: Record) -> None:
        self.records.append(record)

    def say(self, text: str) -> None:
        self.said.append(text)


def walk(suite: Path, results: Path, watcher: Watcher | None = None, **options) -> tuple[Outcome, Watcher]:
    """Run a suite file into a result set, in this process."""
    watcher = watcher or Watcher()
    loaded, planned = app.make_plan(suite, [], None, None, None, results)
    context = options.pop("context", {})
    meter = options.pop("meter", None) or app.choose_meter("modelled", "cpu")
    runner = Runner(loaded, planned.blocks, Ledger(results), meter, watcher, **options)
    return runner.run(suite.read_text(), context), watcher
