"""The baseline: the whole model works in every step."""

from __future__ import annotations

from harness.methods.base import Method, MethodPlan, PlanRequest
from harness.suite.spec import Json, Phase
from harness.types import Frozen


class Dense(Method):
    """Ordinary training. Under a second arm name it is the A/A control."""

    name = "dense"
    version = 1
    summary = "ordinary training of the full model"

    class Options(Frozen):
        """Nothing to set."""

    def plan(self, options: Json, request: PlanRequest) -> MethodPlan:
        """The recipe as it stands, in one phase."""
        return MethodPlan(request.model, request.recipe, (Phase(steps=request.recipe.steps),))
