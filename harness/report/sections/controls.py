"""Each method arm against each control that spends the same FLOPs."""

from __future__ import annotations

from typing import Any

from harness.judge.controls import is_fair
from harness.judge.types import ControlRow
from harness.report import formats
from harness.report.markdown import table
from harness.report.sections.base import Section
from harness.report.view import View


class Controls(Section):
    """Is the saving the method's own?"""

    name = "controls"
    title = "Is it the method, or would a plainer way do?"
    short = "Controls"
    order = 40

    def context(self, view: View) -> dict[str, Any]:
        """Fair matches in the headline metric first, all else behind them; A/A comparisons beside."""
        rows, metric = _rows(view), view.metric
        named = {row.metric for row in rows}
        headline = [row for row in rows if metric is None or metric.name not in named or row.metric == metric.name]
        fair = [row for row in headline if is_fair(row)]
        return {
            "groups": [
                ("Arm minus control at equal FLOPs", fair, False),
                ("No fair match: the FLOPs differ", [row for row in headline if not is_fair(row)], False),
                ("The other metrics", [row for row in rows if row not in headline], True),
            ],
            "repeats": view.comparisons("train", sorted(view.repeats)),
        }

    def markdown(self, view: View) -> str:
        """The same table."""
        return table(
            ["arm", "control", "metric", "arm − control", "FLOPs arm / control",
             f"energy{view.energy_note} arm / control", "outcome"],
            [
                [r.arm, r.control, r.metric, formats.estimate_text(r.difference), ratio(r.flops_ratio),
                 ratio(r.energy_ratio), r.outcome]
                for r in _rows(view)
            ],
        )  # fmt: skip


def ratio(value: float | None) -> str:
    """A ratio with two decimals."""
    return formats.MISSING if value is None else formats.number(value, 2)


def _rows(view: View) -> list[ControlRow]:
    rank = {arm: index for index, arm in enumerate(view.arms)}
    return sorted(
        view.judgement.controls, key=lambda r: (rank.get(r.arm, len(rank)), rank.get(r.control, len(rank)), r.metric)
    )
