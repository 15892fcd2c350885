"""What the controller says of itself: counted, never estimated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn


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
class Report:
    """A training so far. ``mean_*`` are averages over the steps done, ``None`` before the first.

    ``switches`` are decisions that changed something, ``swaps`` the units exchanged in them one for one.
    ``active`` and ``never_trained`` list units by part; ``thresholds`` is the lowest score kept per part,
    ``None`` where units have no score.
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

    def __str__(self) -> str:
        mean = "" if self.mean_active_units is None else f" (mean {self.mean_active_units:.1%})"
        waiting = sum(len(units) for units in self.never_trained.values())
        return (
            f"{self.steps} steps; active units {self.active_units:.1%}{mean}, parameters {self.active_parameters:.1%}; "
            f"{self.entries} entries, {self.exits} exits, {self.returns} returns in {self.switches} switches, "
            f"{self.probes} probes; {waiting} units never trained"
        )


@dataclass
class Tally:
    """Running sums behind a :class:`Report`."""

    parameters: int  # of the full model
    active_parameters: float = 1.0
    steps: int = 0
    unit_steps: float = 0.0
    parameter_steps: float = 0.0
    entries: int = 0
    exits: int = 0
    returns: int = 0
    switches: int = 0
    swaps: int = 0
    probes: int = 0

    def count(self, model: nn.Module, *, trained_only: bool, entries: int, exits: int, returns: int) -> None:
        """Book a decision. ``trained_only``: only parameters with a gradient are active (mode ``freeze``)."""
        present = sum(p.numel() for p in model.parameters() if p.requires_grad or not trained_only)
        self.active_parameters = present / self.parameters
        self.entries += entries
        self.exits += exits
        self.returns += returns
        self.switches += bool(entries or exits or returns)
        self.swaps += min(exits, entries + returns)

    def end_step(self, active_units: float) -> None:
        """Book a step."""
        self.steps += 1
        self.unit_steps += active_units
        self.parameter_steps += self.active_parameters

    def report(self, **now: Any) -> Report:
        """The sums as a report; ``now`` holds its fields that are not sums."""
        return Report(
            steps=self.steps,
            active_parameters=self.active_parameters,
            mean_active_units=self.unit_steps / self.steps if self.steps else None,
            mean_active_parameters=self.parameter_steps / self.steps if self.steps else None,
            entries=self.entries,
            exits=self.exits,
            returns=self.returns,
            switches=self.switches,
            swaps=self.swaps,
            probes=self.probes,
            **now,
        )

    def state(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)
