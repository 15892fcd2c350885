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
        return {"picture": scaling.draw(view), "trends": view.judgement.trends}
