"""How energy was measured or modelled, how well, and how conclusions were drawn from it."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.meter.base import Energy, MeterInfo
from harness.meter.calibration import observed_period_s
from harness.record.record import Record
from harness.report import formats
from harness.report.sections.base import Section
from harness.report.view import View

METHODS = (
    ("Pairs",
     "Every arm is compared with the baseline of its own block: the same workload, size, seed, machine and card. "
     "The unit of analysis is the natural logarithm of the energy ratio of a pair, and a saving is one minus the "
     "exponential of the mean."),
    ("Intervals",
     "Student t intervals at 95 % over pairs; where sizes are pooled, each size keeps its own mean. One pair has no "
     "interval, and says so."),
    ("Quality",
     "A quality claim is tested for non-inferiority, one-sided, at the margin written in the claim before the run. "
     "Not finding a difference is never taken for its absence."),
    ("Several claims",
     "One-sided tests at 2.5 %, adjusted after Holm over the claims and arms that are tested together. The number of "
     "seeds is fixed by the plan, and while a planned run is missing nothing is verified."),
    ("Scaling",
     "A line through one mean for each size, over the logarithm of the parameter count. There is no verdict outside "
     "the sizes that ran: what lies beyond is drawn as a projection."),
    ("Attribution",
     "A claim has two answers, whether its figure is true and whether the figure is the method's own. The second "
     "comes from controls that spend the same counted FLOPs with their own fully decayed learning rate."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Quality:
    """How good the energies of one meter are, over its runs."""

    meter: MeterInfo
    runs: int
    unknown: int
    coverage: tuple[float, float] | None  # lowest and median share of the windows that was observed
    uncertainty: float | None  # median relative standard deviation
    dominating: str
    parts: tuple[tuple[str, float], ...]  # the budget: median relative standard deviation of each part
    disagreement: tuple[float, float] | None  # median and largest absolute, between the two channels
    period_is_observed: bool  # by polling; else the meter's period is assumed
    sampler_share: float | None  # of one core, median


class Measurement(Section):
    """Meters, assumptions, coverage, uncertainty, order, statistics."""

    name = "measurement"
    title = "How it was measured and judged"
    short = "Method"
    order = 90

    def context(self, view: View) -> dict[str, Any]:
        """Per meter, per arm, and the statistics in words."""
        metered = [r for r in view.records if r.meter is not None]
        groups: dict[str, list[Record]] = {}
        for record in metered:
            meter = record.meter
            assert meter is not None
            groups.setdefault(f"{meter.name} {meter.source} {meter.basis.value}", []).append(record)
        idle = [r.idle_power_w for r in metered if r.idle_power_w is not None]
        return {
            "meters": [_quality(records) for _, records in sorted(groups.items())],
            "positions": _positions(view),
            "idle": (min(idle), statistics.median(idle), max(idle)) if idle else None,
            "blocks": len({r.block_id for r in view.records}),
            "methods": METHODS,
        }


def _quality(records: Sequence[Record]) -> Quality:
    energies = [e for r in records if (e := r.energy if r.energy is not None else r.energy_per_step) is not None]
    known = [e for e in energies if e.joules is not None]
    relative = [e.uncertainty_j / e.joules for e in known if e.uncertainty_j is not None and e.joules]
    disagreements = [abs(e.disagreement) for e in known if e.disagreement is not None]
    coverage = [e.coverage for e in energies]
    shares = [float(r.conditions["sampler_cpu_share"]) for r in records if "sampler_cpu_share" in r.conditions]
    meter = records[0].meter
    assert meter is not None
    return Quality(
        meter=meter,
        runs=len(records),
        unknown=len(records) - len(known),
        coverage=(min(coverage), statistics.median(coverage)) if coverage else None,
        uncertainty=statistics.median(relative) if relative else None,
        dominating=_dominating(known),
        parts=_parts(known),
        disagreement=(statistics.median(disagreements), max(disagreements)) if disagreements else None,
        period_is_observed=all(r.meter is not None and observed_period_s(r.meter) is not None for r in records),
        sampler_share=statistics.median(shares) if shares else None,
    )


def _dominating(energies: Sequence[Energy]) -> str:
    named = Counter(e.dominating for e in energies if e.dominating)
    total = sum(named.values())
    told = [f"{term} ({formats.percent(n / total, 0)} of runs)" if len(named) > 1 else term
            for term, n in sorted(named.items(), key=lambda item: (-item[1], item[0]))]  # fmt: skip
    return ", ".join(told)


def _parts(energies: Sequence[Energy]) -> tuple[tuple[str, float], ...]:
    found: dict[str, list[float]] = {}
    for energy in energies:
        for name, joules in energy.parts.items():
            if energy.joules:
                found.setdefault(name, []).append(joules / energy.joules)
    medians = [(name, statistics.median(shares)) for name, shares in found.items()]
    return tuple(sorted(medians, key=lambda part: (-part[1], part[0])))


def _positions(view: View) -> list[tuple[str, int, float]]:
    """Arm, runs, mean place in the order of its blocks (1 is first): equal means are a balanced order."""
    places: dict[str, list[int]] = {}
    for record in view.good:
        places.setdefault(record.spec.arm, []).append(record.position + 1)
    return [(arm, len(places[arm]), math.fsum(places[arm]) / len(places[arm])) for arm in view.arms if arm in places]
