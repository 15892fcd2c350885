"""What the controller says of itself: counted or measured, never estimated; what is not known is ``None``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Switch:
    """The state of affairs after a decision. Shares are between 0 and 1; counts are of this decision alone.

    ``active_parameters`` is over all parameters of the model, those that are always active included.
    ``entries`` are units active for the first time, ``returns`` those that had been active before.
    """

    step: int
    share: float  # asked for; what is active follows by rounding
    active_units: float
    active_parameters: float
    entries: int
    exits: int
    returns: int
    probed: bool

    @property
    def changed(self) -> bool:
        """Whether any unit came or went."""
        return bool(self.entries or self.exits or self.returns)


@dataclass(frozen=True)
class Phase:
    """A stretch of steps with one share asked for.

    FLOPs are those of its steps together, of this process: the first step after each change of units is counted
    (:mod:`sat.flops`), the steps after it are taken to cost the same, which is exact where batches have one shape.
    ``None`` where a step was not seen, e.g. because the loop runs the model in parts.
    """

    first_step: int
    steps: int
    share: float
    active_units: float  # mean over the steps
    active_parameters: float  # mean over the steps
    probes: int
    forward_flops: int | None
    backward_flops: int | None

    @property
    def flops(self) -> int | None:
        """Forward and backward of all its steps."""
        return _sum((self.forward_flops, self.backward_flops))


@dataclass(frozen=True)
class Report:
    """A training so far. ``mean_*`` are averages over the steps done, ``None`` before the first.

    ``switches`` are decisions that changed something, ``swaps`` the units exchanged in them one for one.
    ``active`` and ``never_trained`` list units by part; ``thresholds`` is the lowest score kept per part,
    ``None`` where units have no score; ``global_threshold`` is the score per FLOP down to which the latest decision
    took units in over all parts, ``None`` where each part has a threshold of its own or the floors took the budget.

    ``probe_seconds`` and ``switch_seconds`` are time on the GPU's stream between two events on CUDA, elsewhere wall
    time of the calls; nothing waits for them in training. ``switch_bytes`` is what was copied between compact
    tensors and bank: weights and optimizer state. ``peak_memory_bytes`` is the largest amount allocated on the card
    (``torch.cuda.max_memory_allocated``), on a CPU the largest resident set of the whole process, which holds far
    more than the model: ``peak_memory_of`` says which. On device ``meta`` there is neither time nor memory.

    Two reports are equal if what is counted in them is; measurements take no part.
    """

    steps: int
    share: float
    active_units: float
    active_parameters: float
    mean_active_units: float | None
    mean_active_parameters: float | None
    entries: int
    exits: int
    returns: int
    switches: int
    swaps: int
    probes: int
    active: Mapping[str, tuple[int, ...]]
    never_trained: Mapping[str, tuple[int, ...]]
    thresholds: Mapping[str, float | None]
    global_threshold: float | None
    phases: tuple[Phase, ...]
    probe_flops: int | None  # of all probes
    dense_step_flops: int | None  # counted, once a step with all units at work has been seen
    switch_bytes: int
    probe_seconds: float | None = field(compare=False)
    switch_seconds: float | None = field(compare=False)
    peak_memory_bytes: int | None = field(compare=False)
    peak_memory_of: str | None = field(compare=False)
    compiled_graphs: int | None = field(compare=False)  # None unless sat.compile_layers compiled the layers

    @property
    def step_flops(self) -> int | None:
        """Of all steps so far, without probes."""
        return _sum(phase.flops for phase in self.phases if phase.steps)

    @property
    def total_flops(self) -> int | None:
        """Of all steps and probes so far."""
        return _sum((self.step_flops, self.probe_flops))

    @property
    def flops_of_dense(self) -> float | None:
        """``total_flops`` as a share of as many dense steps."""
        if self.total_flops is None or not self.dense_step_flops or not self.steps:
            return None
        return self.total_flops / (self.steps * self.dense_step_flops)

    @property
    def summary(self) -> str:
        """One line."""
        mean = "" if self.mean_active_units is None else f" (mean {self.mean_active_units:.1%})"
        waiting = sum(len(units) for units in self.never_trained.values())
        return (
            f"{self.steps} steps; active units {self.active_units:.1%}{mean}, parameters {self.active_parameters:.1%}; "
            f"{self.entries} entries, {self.exits} exits, {self.returns} returns in {self.switches} switches, "
            f"{self.probes} probes; {waiting} units never trained"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, JSON-ready, derived ones included; ``None`` is what is not known."""
        derived = {name: getattr(self, name) for name in ("step_flops", "total_flops", "flops_of_dense")}
        phases = [dataclasses.asdict(phase) | {"flops": phase.flops} for phase in self.phases]
        units = {name: {k: list(v) for k, v in getattr(self, name).items()} for name in ("active", "never_trained")}
        plain = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return plain | units | {"thresholds": dict(self.thresholds), "phases": phases} | derived

    def __str__(self) -> str:
        rows = [("from step", "steps", "asked", "units", "parameters", "forward/step", "backward/step", "probes")]
        rows += [
            (
                f"{phase.first_step:,}",
                f"{phase.steps:,}",
                f"{phase.share:.1%}",
                f"{phase.active_units:.1%}",
                f"{phase.active_parameters:.1%}",
                _flops(phase.forward_flops, phase.steps),
                _flops(phase.backward_flops, phase.steps),
                f"{phase.probes:,}",
            )
            for phase in self.phases
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        lines.insert(1, "-" * len(lines[0]))
        dense = "" if self.flops_of_dense is None else f" ({self.flops_of_dense:.1%} of as many dense steps)"
        memory = _bytes(self.peak_memory_bytes) + (f" ({self.peak_memory_of})" if self.peak_memory_of else "")
        graphs = [] if self.compiled_graphs is None else [f"{self.compiled_graphs} graphs compiled"]
        return "\n".join(
            [
                self.summary,
                f"mean active parameters {_percent(self.mean_active_parameters)}",
                *lines,
                f"matmul FLOPs: steps {_flops(self.step_flops)}, probes {_flops(self.probe_flops)}, "
                f"together {_flops(self.total_flops)}{dense}",
                f"time: probes {_seconds(self.probe_seconds)}, switches {_seconds(self.switch_seconds)}, which copied "
                f"{_bytes(self.switch_bytes)}; peak memory {memory}",
                *graphs,
            ]
        )


def _sum(values: Any) -> int | None:
    """The sum, unless a part of it is not known."""
    found = list(values)
    return None if None in found else sum(found)


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g} s"


def _flops(value: int | None, steps: int = 1) -> str:
    if value is None or not steps:
        return "unknown"
    return f"{value / steps:.4g}"


def _bytes(value: int | None) -> str:
    if value is None:
        return "unknown"
    size = float(value)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:,.4g} GiB"
