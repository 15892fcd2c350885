"""Quality against energy, and the way there."""

from __future__ import annotations

from typing import Any

from harness.report.figures import curves, tradeoff
from harness.report.reach import reaches
from harness.report.sections.base import Section
from harness.report.view import View


class Tradeoff(Section):
    """What a saving costs, beside what the controls pay for the same energy."""

    name = "tradeoff"
    title = "What does it cost in quality, and do the controls do as well?"
    short = "Quality and energy"
    order = 30

    def context(self, view: View) -> dict[str, Any]:
        """Two figures and the table of energy to reach dense's quality."""
        found = reaches(view)
        rank = {arm: index for index, arm in enumerate(view.arms)}
        sizes = {size: index for index, size in enumerate(view.trained_sizes)}
        found.sort(key=lambda r: (rank.get(r.arm, len(rank)), sizes.get(r.size, len(sizes))))
        return {"tradeoff": tradeoff.draw(view), "curves": curves.draw(view), "reaches": found, "metric": view.metric}
