"""Saving over model size."""

from __future__ import annotations

from typing import Any

from harness.report.figures import scaling
from harness.report.sections.base import Section
from harness.report.view import View


class Scaling(Section):
    """The scaling curve and its trend."""

    name = "scaling"
    title = "Does the saving grow with the model?"
    short = "Scaling"
    order = 20

    def context(self, view: View) -> dict[str, Any]:
        """The figure and the fitted trends."""
        rank = {arm: index for index, arm in enumerate(view.arms)}
        trends = sorted(view.judgement.trends, key=lambda t: (rank.get(t.arm, len(rank)), t.protocol != "train"))
        first = [t for t in trends if t.arm in view.methods and t.protocol == "train"]
        others = [t for t in trends if t not in first]
        return {"picture": scaling.draw(view), "trends": first, "other_trends": others}
