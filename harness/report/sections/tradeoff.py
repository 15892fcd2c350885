"""Quality against energy, and the way there."""

from __future__ import annotations

from typing import Any

from harness.report.figures import curves, tradeoff
from harness.report.reach import Reach, reaches
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
        found: dict[str, dict[str, Reach]] = {}
        for reach in sorted(reaches(view), key=lambda reach: view.arms.index(reach.arm)):
            found.setdefault(reach.arm, {})[reach.size] = reach
        return {
            "tradeoff": tradeoff.draw(view), "curves": curves.draw(view), "metric": view.metric, "reaches": found,
            "reach_sizes": [size for size in view.trained_sizes if any(size in cells for cells in found.values())],
        }  # fmt: skip
