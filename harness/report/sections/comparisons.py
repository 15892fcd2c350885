"""Every comparison with the baseline, with nothing left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from harness.judge.types import Comparison, Estimate
from harness.report import formats
from harness.report.markdown import table
from harness.report.sections.base import Section
from harness.report.view import View
from harness.workloads.base import Metric

_PROTOCOLS = {
    "train": ("Whole trainings", "Energy of the whole training, warm-up, dense phases, probes and swaps included."),
    "steady": ("Steady state", "Energy per step, phases weighted by the schedule. Nothing was trained: no quality."),
    "count": ("Counted only", "FLOPs counted on tensors without data. Nothing ran: no energy, no quality."),
}


class Comparisons(Section):
    """Arm × size × protocol."""

    name = "comparisons"
    title = "Every comparison"
    short = "Comparisons"
    order = 70

    def context(self, view: View) -> dict[str, Any]:
        """One table for each protocol that has rows."""
        groups = []
        for name, (title, lead) in _PROTOCOLS.items():
            rows = view.comparisons(name)
            if not rows:
                continue
            metrics = _metrics(view, name)
            groups.append(
                {"protocol": name, "title": title, "lead": lead, "rows": rows, "metrics": metrics,
                 "columns": _columns(view, name, rows), "quality": [_quality(view, m, rows) for m in metrics]}
            )  # fmt: skip
        return {"groups": groups}

    def markdown(self, view: View) -> str:
        """One table, quality in the headline metric."""
        metric = view.metric
        heads = [
            "arm",
            "size",
            "protocol",
            "pairs",
            "energy saved",
            "net of idle",
            "time part",
            "power part",
            "FLOPs saved",
        ]
        heads += [f"{metric.label} against {view.baseline}"] if metric else []
        lines = []
        for c in (c for name in _PROTOCOLS for c in view.comparisons(name)):
            estimates = (c.saving, c.net_saving, c.time_saving, c.power_saving)
            line = [c.arm, c.place, c.protocol, str(len(c.pairs)), *(absent(c, e, energy=True) for e in estimates)]
            line.append(absent(c, c.flops_saving))
            if metric:
                line.append(absent(c, c.quality.get(metric.name)))
            lines.append(line)
        return table(heads, lines)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of estimates. ``basis`` is set where all of them share it, and then stands in the head alone."""

    title: str
    of: Callable[[Comparison], Estimate | None]
    basis: str = ""
    hint: str = ""
    missing: str = formats.MISSING
    energy: bool = False  # an invalid comparison has none


def _columns(view: View, protocol: str, rows: Sequence[Comparison]) -> list[Column]:
    flops = Column("FLOPs saved", attrgetter("flops_saving"), missing="not counted")
    energies = [
        Column(f"Energy saved{view.energy_note}", attrgetter("saving"), energy=True),
        Column(f"Net of idle{view.energy_note}", attrgetter("net_saving"), energy=True),
        Column("Time part", attrgetter("time_saving"), energy=True),
        Column("Power part", attrgetter("power_saving"), energy=True),
    ]
    return [_with_basis(column, rows) for column in ([flops] if protocol == "count" else [*energies, flops])]


def _quality(view: View, metric: Metric, rows: Sequence[Comparison]) -> Column:
    def of(comparison: Comparison) -> Estimate | None:
        return comparison.quality.get(metric.name)

    title = f"{metric.label}, {metric.unit}" if metric.unit else metric.label
    hint = "" if metric.name in view.undeclared else f"{metric.better} is better"
    return _with_basis(Column(title, of, hint=hint), rows)


def _with_basis(column: Column, rows: Sequence[Comparison]) -> Column:
    found = {estimate.basis.value for row in rows if (estimate := column.of(row)) is not None}
    return replace(column, basis=found.pop()) if len(found) == 1 else column


def absent(comparison: Comparison, estimate: Estimate | None, *, energy: bool = False) -> str:
    """An estimate, or why it is not there; where only the energy is invalid, the rest still stands."""
    if comparison.invalid and (energy or comparison.invalid_scope == "all"):
        return f"invalid: {comparison.invalid}"
    return formats.estimate_text(estimate)


def _metrics(view: View, protocol: str) -> list[Metric]:
    present = {name for c in view.comparisons(protocol) for name in c.quality}
    return [metric for metric in view.metrics if metric.name in present]
