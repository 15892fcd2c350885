"""The sums behind a report: plain values, saved with a training. No torch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sat.report import Phase, Report


@dataclass
class Stretch:
    """Steps between two changes of units. FLOPs are of its first step, ``None`` where it was not counted."""

    first_step: int
    share: float
    active_units: float
    active_parameters: float
    steps: int = 0
    probes: int = 0
    forward_flops: int | None = None
    backward_flops: int | None = None


@dataclass
class Tally:
    """What has happened so far."""

    parameters: int  # of the full model
    steps: int = 0
    entries: int = 0
    exits: int = 0
    returns: int = 0
    switches: int = 0
    swaps: int = 0
    probes: int = 0
    probe_flops: int | None = 0
    switch_bytes: int = 0
    dense_step_flops: int | None = None
    stretches: list[Stretch] = field(default_factory=list)

    def __post_init__(self) -> None:  # from a saved state
        self.stretches = [each if isinstance(each, Stretch) else Stretch(**each) for each in self.stretches]

    @property
    def active_parameters(self) -> float:
        """Active now, as a share of all parameters."""
        return self.stretches[-1].active_parameters if self.stretches else 1.0

    def decide(
        self, step: int, share: float, units: float, present: int, *, entries: int, exits: int, returns: int
    ) -> bool:
        """Book a decision before ``step``; whether anything changed, so that a new stretch begins.

        ``units`` is the share of active units, ``present`` the number of active parameters.
        """
        self.entries += entries
        self.exits += exits
        self.returns += returns
        self.switches += bool(entries or exits or returns)
        self.swaps += min(exits, entries + returns)
        last = self.stretches[-1] if self.stretches else None
        if last is not None and last.share == share and not (entries or exits or returns):
            return False
        self.stretches.append(Stretch(step, share, units, present / self.parameters))
        return True

    def end_step(self) -> None:
        """Book a step."""
        self.steps += 1
        if not self.stretches:  # no decision yet: the model as it came
            self.stretches.append(Stretch(self.steps - 1, 1.0, 1.0, 1.0))
        self.stretches[-1].steps += 1

    def report(self, **now: Any) -> Report:
        """The sums as a report; ``now`` holds its fields that are not sums."""
        same = {name: getattr(self, name) for name in _SHARED}
        done = [each for each in self.stretches if each.steps]
        return Report(
            **same,
            active_parameters=self.active_parameters,
            mean_active_units=_mean(done, "active_units") if done else None,
            mean_active_parameters=_mean(done, "active_parameters") if done else None,
            phases=tuple(self._phases()),
            **now,
        )

    def state(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    def _phases(self) -> Iterator[Phase]:
        for share, group in itertools.groupby(self.stretches, lambda each: each.share):
            stretches = list(group)
            done = [each for each in stretches if each.steps]
            yield Phase(
                first_step=stretches[0].first_step,
                steps=sum(each.steps for each in done),
                share=share,
                active_units=_mean(done or stretches[-1:], "active_units"),
                active_parameters=_mean(done or stretches[-1:], "active_parameters"),
                probes=sum(each.probes for each in stretches),
                forward_flops=_product(done, "forward_flops"),
                backward_flops=_product(done, "backward_flops"),
            )


_SHARED = (
    "steps", "entries", "exits", "returns", "switches", "swaps", "probes", "probe_flops", "switch_bytes",
    "dense_step_flops",
)  # fmt: skip
"""Fields that a report takes over as they are."""


def _mean(stretches: list[Stretch], name: str) -> float:
    steps = sum(each.steps for each in stretches)
    if not steps:
        return float(getattr(stretches[-1], name))
    return sum(each.steps * float(getattr(each, name)) for each in stretches) / steps


def _product(stretches: list[Stretch], name: str) -> int | None:
    total = 0
    for each in stretches:
        flops = getattr(each, name)
        if flops is None:
            return None
        total += each.steps * flops
    return total if stretches else None
