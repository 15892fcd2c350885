"""Energy to reach the dense arm's quality, seed by seed; a miss stays a miss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.record.record import Record
from harness.report.figures.curves import Point, curve
from harness.report.view import View


@dataclass(frozen=True, slots=True)
class Reach:
    """One arm at one size: how many of its runs reached the dense run of their own block, and at what share.

    ``shares`` are the energies at which they did, each a share of its dense run's whole energy, sorted.
    """

    arm: str
    size: str
    runs: int
    shares: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """Mean share over the runs that got there; ``None`` where none did."""
        return math.fsum(self.shares) / len(self.shares) if self.shares else None


def reaches(view: View) -> list[Reach]:
    """By size and arm, for the headline metric; empty where no better direction is declared."""
    metric = view.metric
    if metric is None or metric.name in view.undeclared:
        return []
    sign = 1.0 if metric.better == "lower" else -1.0
    base = {r.block_id: r for r in view.trained if r.spec.arm == view.baseline}
    found: dict[tuple[str, str], list[float | None]] = {}
    for record in view.trained:
        dense = base.get(record.block_id)
        if dense is None or record.spec.arm == view.baseline or record.spec.arm in view.repeats:
            continue
        share = _share(record, dense, metric.name, sign)
        if share is not None:
            found.setdefault((record.spec.size, record.spec.arm), []).append(share if share >= 0 else None)
    return [
        Reach(arm, size, len(shares), tuple(sorted(s for s in shares if s is not None)))
        for (size, arm), shares in found.items()
    ]


def _share(record: Record, dense: Record, metric: str, sign: float) -> float | None:
    """Share of dense's energy; -1 for a miss; ``None`` where energies or curves are missing."""
    mine, theirs = curve(record, metric), curve(dense, metric)
    if len(mine) < 2 or len(theirs) < 2 or not theirs[-1][0]:
        return None
    joules = first_reached(mine, theirs[-1][1], sign)
    return -1.0 if joules is None else joules / theirs[-1][0]


def first_reached(points: Sequence[Point], target: float, sign: float) -> float | None:
    """Energy at which the curve first comes to ``target``, linear between its points; ``None``: never.

    ``sign`` is 1 where lower is better, -1 where higher is. Already there at the first point: that point.
    """
    before: Point | None = None
    for joules, value in points:
        if sign * value <= sign * target:
            if before is None or before[1] == value:
                return joules
            part = (before[1] - target) / (before[1] - value)
            return before[0] + part * (joules - before[0])
        before = (joules, value)
    return None
