"""How much of the model worked, and what came back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.report.figures import activity
from harness.report.figures.activity import Activity, average
from harness.report.sections.base import Section
from harness.report.view import View


@dataclass(frozen=True, slots=True)
class Row:
    """Means over the runs of one arm at one size."""

    arm: str
    size: str
    runs: int
    units: float
    parameters: float
    entries: float
    exits: float
    returns: float


class ActiveShare(Section):
    """Active share over time, stated twice: over the units and over all parameters."""

    name = "activity"
    title = "How much of the model was active?"
    short = "Active share"
    order = 50

    def context(self, view: View) -> dict[str, Any]:
        """The figure and its numbers."""
        found: dict[tuple[str, str], list[Activity]] = {}
        for record in view.trained:
            logged = average(record)
            if logged is not None:
                found.setdefault((record.spec.arm, record.spec.size), []).append(logged)
        rank = {arm: index for index, arm in enumerate(view.arms)}
        rows = [_row(arm, size, runs) for (arm, size), runs in found.items()]
        rows.sort(key=lambda row: rank[row.arm])  # stable: sizes stay in their order
        arms = dict.fromkeys(row.arm for row in rows)
        totals = [_row(arm, "", [a for (name, _), runs in found.items() if name == arm for a in runs]) for arm in arms]
        return {"picture": activity.draw(view), "rows": rows, "totals": totals}


def _row(arm: str, size: str, runs: Sequence[Activity]) -> Row:
    def mean(name: str) -> float:
        return math.fsum(float(getattr(run, name)) for run in runs) / len(runs)

    names = ("units", "parameters", "entries", "exits", "returns")
    return Row(arm, size, len(runs), *(mean(name) for name in names))
