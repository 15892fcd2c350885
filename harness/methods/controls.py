"""What a sceptic tries instead: spend the method's FLOPs on a shorter or a smaller dense training."""

from __future__ import annotations

import math
from typing import Literal

from harness.methods.base import Method, MethodPlan, PlanRequest, with_steps
from harness.suite.spec import Json, Phase
from harness.types import Frozen, UserError


def _dense_step_flops(request: PlanRequest, model: Json) -> float:
    one = Phase(steps=1)
    flops = request.workload.step_flops(model, request.recipe, request.workload_options, one)
    if flops is None:
        raise UserError(
            f"workload {request.workload.name!r} can't tell its FLOPs, so no control can be matched to them; "
            "leave out the arms with 'match'"
        )
    return flops


def _target(request: PlanRequest) -> float:
    if request.target_flops is None:
        raise UserError("this control spends the FLOPs of another arm: name it with 'match: ARM'")
    return request.target_flops


class DenseShort(Method):
    """The full model for fewer steps, with its own fully decayed learning rate.

    Published work found that the gains of many "efficient training" methods vanish against it
    (Kaddour et al., "No Train No Gain", NeurIPS 2023).
    """

    name = "dense-short"
    version = 1
    summary = "the full model, stopped at the matched arm's FLOPs, learning rate fully decayed by then"
    matches = True

    class Options(Frozen):
        """Nothing to set."""

    def plan(self, options: Json, request: PlanRequest) -> MethodPlan:
        """Steps = target FLOPs / FLOPs of a dense step, to the nearest step."""
        steps = max(1, round(_target(request) / _dense_step_flops(request, request.model)))
        recipe = with_steps(request.recipe, steps)
        return MethodPlan(request.model, recipe, (Phase(steps=steps),))


class DenseSmall(Method):
    """A smaller dense model from the start, its steps set so that it spends the same FLOPs.

    Of all complete models that are shallower (or narrower) than the full one, the one whose step
    costs are nearest, in ratio, to the matched arm's mean step is taken; the steps then close the gap. Its
    learning rate is what the workload's rule gives such a model, so that it is not held back by another's.
    """

    name = "dense-small"
    version = 1
    summary = "a shallower or narrower dense model from the start, at the matched arm's FLOPs"
    matches = True

    class Options(Frozen):
        """Which way it is smaller."""

        axis: Literal["depth", "width"] = "depth"

    def plan(self, options: Json, request: PlanRequest) -> MethodPlan:
        """Choose the model, then the steps."""
        axis = self.Options.model_validate(options).axis
        target = _target(request)
        mean_step = target / request.recipe.steps
        candidates = request.workload.smaller(request.model, axis)
        if not candidates:
            raise UserError(f"the model has no smaller version along {axis!r}; leave out the dense-small arm here")
        model = min(candidates, key=lambda shape: abs(math.log(_dense_step_flops(request, shape) / mean_step)))
        steps = max(1, round(target / _dense_step_flops(request, model)))
        rate = request.workload.learning_rate_of(model, request.model, request.recipe.learning_rate)
        recipe = with_steps(request.recipe, steps).model_copy(update={"learning_rate": rate})
        return MethodPlan(model, recipe, (Phase(steps=steps),))


class DenseShallow(Method):
    """A dense model with fewer layers on the same data: what any method that leaves out layers has to beat.

    It is matched to nobody: with a few of them, the loss of dense models at any FLOPs between theirs can be read off.
    """

    name = "dense-shallow"
    version = 1
    summary = "a dense model with a share of the layers from the start, the same steps and data"

    class Options(Frozen):
        """How many layers it has, as a share of the full model's."""

        share: float = 0.5

    def plan(self, options: Json, request: PlanRequest) -> MethodPlan:
        """The shallower model that is nearest to the share asked for.

        Raises:
            UserError: the model has no shallower version, or the share is not between 0 and 1.
        """
        share = self.Options.model_validate(options).share
        if not 0.0 < share < 1.0:
            raise UserError(f"dense-shallow: share must lie between 0 and 1, not {share}")
        candidates = request.workload.smaller(request.model, "depth")
        if not candidates:
            raise UserError("the model has no shallower version; leave out the dense-shallow arm here")
        wanted = share * request.workload.layers(request.model)
        model = min(candidates, key=lambda shape: abs(request.workload.layers(shape) - wanted))
        rate = request.workload.learning_rate_of(model, request.model, request.recipe.learning_rate)
        recipe = request.recipe.model_copy(update={"learning_rate": rate})
        return MethodPlan(model, recipe, (Phase(steps=recipe.steps),))
