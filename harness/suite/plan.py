"""Suite to plan: blocks of paired runs in counter-balanced order, what each will take, what is skipped.

Pure and free of torch: the workload and the methods answer from closed forms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from harness.record.record import Record
from harness.suite import select
from harness.suite.expand import Draft, PlanError, expand
from harness.suite.machine import Machine
from harness.suite.predict import History, hourly_price, predict
from harness.suite.spec import Block, PlannedRun, Prediction, Protocol, RunSpec, Suite, levels_text
from harness.suite.units import duration_text, gib
from harness.types import Basis, Frozen, digest
from harness.workloads.base import WORKLOADS, Workload

__all__ = ["Plan", "PlanError", "Totals", "plan"]

BASIS = {
    "flops": Basis.COUNTED,
    "seconds": Basis.PROJECTED,
    "energy_j": Basis.PROJECTED,
    "memory_bytes": Basis.PROJECTED,
    "price_usd": Basis.PROJECTED,
}
"""How the numbers of a :class:`Prediction` came to be."""


class Totals(Frozen):
    """Sums over the runs that will be started. A number is ``None`` if any part of it is unknown."""

    runs: int
    skipped: int
    flops: float | None  # executed by trainings; what a count run counts is not executed and not in here
    seconds: float | None
    energy_j: float | None
    price_usd: float | None


class Plan(Frozen):
    """What would run, in order, and what it would take."""

    suite: str
    title: str
    workload: str
    machine: Machine
    blocks: tuple[Block, ...]
    totals: Totals
    budget_s: float | None = None
    beyond_budget: tuple[str, ...] = ()  # ids of blocks that would end after the budget
    basis: dict[str, Basis] = BASIS
    notes: tuple[str, ...] = ()  # what was assumed and what was left out

    @property
    def runs(self) -> list[PlannedRun]:
        """All runs in order, skipped ones included."""
        return [run for block in self.blocks for run in block.runs]

    @property
    def summary(self) -> str:
        """One line: ``24 runs in 9 blocks, 2 skipped, about 8 min (projected) on AMD EPYC ...``."""
        totals = self.totals
        time = "time unknown" if totals.seconds is None else f"about {duration_text(totals.seconds)} (projected)"
        skipped = f", {totals.skipped} skipped" if totals.skipped else ""
        return f"{totals.runs} runs in {len(self.blocks)} blocks{skipped}, {time} on {self.machine.description}"


def plan(
    suite: Suite,
    machine: Machine,
    *,
    only: str | None = None,
    shard: str | None = None,
    budget_s: float | None = None,
    records: Iterable[Record] = (),
) -> Plan:
    """Lay out a suite for a machine.

    Order within a block is counter-balanced: of the blocks of an experiment at one level of its factors
    (sizes, and within them seeds, as listed) every second one runs its arms backwards, ABBA, so that what drifts
    (temperature, clocks, other load) falls on both arms of a pair alike. Shards are cut first and balanced each in
    itself, since each is one machine's work.

    Args:
        suite: what is to be run.
        machine: where; ``detect(suite.device)``.
        only: globs over run ids, arms, sizes, protocols and block ids; baselines stay.
        shard: ``i/n``, 0-based.
        budget_s: instead of the suite's own.
        records: finished runs, whose times and powers correct the projections.

    Raises:
        PlanError: recipes and arms that can't be planned, all of them.
        UserError: a shard that makes no sense, a glob that matches nothing.
        ValueError: the suite is for the CPU and the machine describes a GPU.
    """
    if suite.device == "cpu" and machine.device != "cpu":
        raise ValueError("the suite wants the CPU: plan it with detect('cpu')")
    part = None if shard is None else select.parse_shard(shard)
    workload = WORKLOADS.get(suite.workload)()
    device: Literal["cpu", "cuda"] = "cuda" if suite.device == "cuda" else machine.device
    drafts = expand(suite, workload, device)
    mine = select.shard_of(drafts, part)
    forecast = _Forecast(suite, workload, machine, records)
    seen: Counter[tuple[int, str]] = Counter()
    blocks = []
    for draft in mine:
        alike = draft.experiment, levels_text(draft.levels)
        blocks.append(forecast.block(draft, backwards=seen[alike] % 2 == 1))
        seen[alike] += 1
    wanted = tuple(select.only(blocks, only))
    budget_s = suite.budget_s if budget_s is None else budget_s
    notes = [*machine.sources, *forecast.notes]
    if part is not None:
        notes.append(f"shard {shard}: {len(mine)} of {len(drafts)} blocks")
    if only is not None:
        notes.append(f"only {only}: {len(wanted)} of {len(mine)} blocks")
    return Plan(
        suite=suite.name,
        title=suite.title,
        workload=suite.workload,
        machine=machine,
        blocks=wanted,
        totals=_totals([run for block in wanted for run in block.runs]),
        budget_s=budget_s,
        beyond_budget=_beyond(wanted, budget_s),
        notes=tuple(notes),
    )


def block_id(baseline: RunSpec) -> str:
    """``language-0.1M-s0-train-1a2b3c``: a block is the pairs made with one run of the baseline.

    The other arms are not in it, so that an arm added later joins the block it is paired in.
    """
    protocol = baseline.protocol.value
    return f"{baseline.workload}-{baseline.size}-s{baseline.seed}-{protocol}-{digest(baseline, 6)}"


class _Forecast:
    """What the runs of a suite will take on a machine, and which of them it can't do."""

    def __init__(self, suite: Suite, workload: Workload, machine: Machine, records: Iterable[Record]) -> None:
        self.suite = suite
        self.workload = workload
        self.machine = machine
        self.history = History.of(records, workload, machine)
        self.usd_per_hour, price_note = hourly_price(suite.footprint.price, machine)
        self.notes = [price_note]
        if self.history.runs:
            self.notes.append(f"time and power are corrected by {self.history.runs} finished runs")

    def block(self, draft: Draft, *, backwards: bool) -> Block:
        """The block of a draft: its runs in order, each with its prediction and, where it can't be, the reason."""
        runs = [self._planned(spec) for spec in draft.specs]
        baseline = next(run for run in runs if run.spec.arm == self.suite.baseline)
        if baseline.skip is not None:
            reason = f"no baseline to compare with: {baseline.spec.arm} {baseline.skip}"
            runs = [run if run.skip else run.model_copy(update={"skip": reason}) for run in runs]
        return Block(
            block_id=block_id(baseline.spec),
            workload=self.workload.name,
            size=draft.size,
            seed=draft.seed,
            protocol=draft.protocol,
            levels=draft.levels,
            baseline=self.suite.baseline,
            runs=tuple(reversed(runs) if backwards else runs),
        )

    def _planned(self, spec: RunSpec) -> PlannedRun:
        prediction = predict(spec, self.workload, self.machine, self.history, self.usd_per_hour)
        return PlannedRun(spec=spec, prediction=prediction, skip=self._skip(spec, prediction))

    def _skip(self, spec: RunSpec, prediction: Prediction) -> str | None:
        """Why this machine can't do a run, or ``None``."""
        if spec.protocol is Protocol.COUNT:
            return None
        if spec.device != self.machine.device:
            return "needs an NVIDIA GPU, this machine has none that NVML can see"
        memory, seconds, timeout_s = prediction.memory_bytes, prediction.seconds, self.suite.timeout_s
        if memory is not None and memory > self.machine.memory_bytes:
            kind = " of GPU memory" if spec.device == "cuda" else ""
            return f"needs {gib(memory)}{kind}, this machine has {gib(self.machine.memory_bytes)}"
        if seconds is not None and seconds > timeout_s:
            return f"would take about {duration_text(seconds)}, the suite's timeout is {duration_text(timeout_s)}"
        return None


def _totals(runs: Sequence[PlannedRun]) -> Totals:
    going = [run for run in runs if run.skip is None]
    trained = [run.prediction for run in going if run.spec.protocol is not Protocol.COUNT]
    return Totals(
        runs=len(going),
        skipped=len(runs) - len(going),
        flops=_sum(prediction.flops for prediction in trained),
        seconds=_sum(run.prediction.seconds for run in going),
        energy_j=_sum(prediction.energy_j for prediction in trained),
        price_usd=_sum(prediction.price_usd for prediction in trained),
    )


def _sum(values: Iterable[float | None]) -> float | None:
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _beyond(blocks: Sequence[Block], budget_s: float | None) -> tuple[str, ...]:
    """Blocks that would end after the budget, in order; a run whose time is unknown adds nothing."""
    if budget_s is None:
        return ()
    spent = 0.0
    beyond = []
    for block in blocks:
        spent += sum(run.prediction.seconds or 0.0 for run in block.runs if run.skip is None)
        if spent > budget_s:
            beyond.append(block.block_id)
    return tuple(beyond)
