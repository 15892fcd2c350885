"""Every comparison with the baseline, with nothing left out."""

from __future__ import annotations

from typing import Any

from harness.judge.types import Comparison
from harness.report import formats
from harness.report.markdown import table
from harness.report.sections.base import Section
from harness.report.view import View

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
        groups = [
            {"protocol": name, "title": title, "lead": lead, "rows": view.comparisons(name), "metrics": metrics}
            for name, (title, lead) in _PROTOCOLS.items()
            if view.comparisons(name) and (metrics := _metrics(view, name)) is not None
        ]
        return {"groups": groups}

    def markdown(self, view: View) -> str:
        """One table, quality in the headline metric."""
        metric = view.metric
        heads = ["arm", "size", "protocol", "pairs", "energy saved", "net of idle", "time part", "power part", "FLOPs saved"]
        heads += [f"{metric.label} against {view.baseline}"] if metric else []
        lines = []
        for c in (c for name in _PROTOCOLS for c in view.comparisons(name)):
            estimates = (c.saving, c.net_saving, c.time_saving, c.power_saving, c.flops_saving)
            line = [c.arm, c.size, c.protocol, str(len(c.pairs)), *(absent(c, e) for e in estimates)]
            if metric:
                line.append(absent(c, c.quality.get(metric.name)))
            lines.append(line)
        return table(heads, lines)


def absent(comparison: Comparison, estimate: Any) -> str:
    """An estimate, or why it is not there."""
    if comparison.invalid:
        return f"invalid: {comparison.invalid}"
    return formats.estimate_text(estimate)


def _metrics(view: View, protocol: str) -> list[Any]:
    present = {name for c in view.comparisons(protocol) for name in c.quality}
    return [metric for metric in view.metrics if metric.name in present]
