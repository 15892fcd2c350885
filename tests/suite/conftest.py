"""A made-up workload and methods with closed forms simple enough to check by hand."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from harness.meter.base import METERS
from harness.meter.modelled import ModelledCpuMeter
from harness.meter.nvml import NvmlMeter
from harness.meter.rapl import RaplMeter
from harness.meter.replay import ReplayMeter
from harness.meter.simulated.meter import SimulatedMeter
from harness.methods.base import METHODS, Method, MethodPlan, PlanRequest
from harness.suite.spec import Json, Phase, Protocol, Recipe, RunSpec
from harness.types import Frozen, UserError
from harness.workloads.base import WORKLOADS, Metric, Task, Workload

LADDER = {"0.1M": (1e5, 2), "0.2M": (2e5, 4), "1B": (1e9, 16), "13B": (13e9, 40)}


class ToyWorkload(Workload):
    """A step costs 6 x parameters x batch x active depth; a probe costs half of a dense step."""

    name = "toy"
    version = 3
    metrics = (Metric(name="loss", unit="nats", better="lower", label="loss"),)
    examples = "tokens"

    class Options(Frozen):
        context: Annotated[int, Field(ge=8, le=4096)] = 64
        text: Literal["sotu", "austen"] = "sotu"

    def sizes(self) -> list[str]:
        return list(LADDER)

    def model(self, size: str, options: Json) -> Json:
        if size not in LADDER:
            raise UserError(f"no size {size}")
        parameters, layers = LADDER[size]
        return {"parameters": parameters, "layers": layers}

    def recipe(self, size: str, model: Json, options: Json, protocol: Protocol) -> Recipe:
        return Recipe(steps=100, batch_size=4, learning_rate=1e-3)

    def parameters(self, model: Json) -> int:
        return int(model["parameters"])

    def layers(self, model: Json) -> int:
        return int(model["layers"])

    def step_flops(self, model: Json, recipe: Recipe, options: Json, phase: Phase) -> float | None:
        return 6.0 * model["parameters"] * recipe.batch_size * options["context"] * phase.depth

    def probe_flops(self, model: Json, recipe: Recipe, options: Json, phase: Phase) -> float | None:
        return 3.0 * model["parameters"] * recipe.batch_size * options["context"]

    def smaller(self, model: Json, axis: Literal["depth", "width"]) -> list[Json]:
        return []

    def memory_bytes(self, model: Json, recipe: Recipe, options: Json) -> float:
        return 16.0 * model["parameters"]

    def build(self, spec: RunSpec, device: Any) -> Task:
        raise NotImplementedError


class ToyDense(Method):
    """The whole model."""

    name = "dense"
    version = 1
    summary = "dense"

    class Options(Frozen):
        pass

    def plan(self, options: Json, request: PlanRequest) -> MethodPlan:
        return MethodPlan(request.model, request.recipe, (Phase(steps=request.recipe.steps),))


class ToySat(Method):
    """Half of the depth until 80 % of the steps, with probes."""

    name = "sat"
    version = 2
    summary = "sat"

    class Options(Frozen):
        share: Annotated[float, Field(gt=0, le=1)] = 0.5
        interval: Annotated[int, Field(ge=1)] = 20
        mode: Literal["skip", "freeze"] = "skip"

    def plan(self, options: Json, request: PlanRequest) -> MethodPlan:
        steps = request.recipe.steps
        if steps < 5:
            raise UserError("needs at least 5 steps")
        first = steps * 4 // 5
        phases = (
            Phase(steps=first, depth=options["share"], probes=first // options["interval"]),
            Phase(steps=steps - first),
        )
        return MethodPlan(request.model, request.recipe, phases)


class ToyShort(Method):
    """Fewer steps, the matched arm's FLOPs."""

    name = "dense-short"
    version = 1
    summary = "short"
    matches = True

    class Options(Frozen):
        pass

    def plan(self, options: Json, request: PlanRequest) -> MethodPlan:
        assert request.target_flops is not None
        one = request.workload.step_flops(request.model, request.recipe, request.workload_options, Phase(steps=1))
        assert one is not None
        steps = max(1, round(request.target_flops / one))
        return MethodPlan(request.model, request.recipe.model_copy(update={"steps": steps}), (Phase(steps=steps),))


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registries that hold nothing but the made-up things, so that messages stay the same."""
    for registry, things in (
        (WORKLOADS, {"toy": ToyWorkload}),
        (METHODS, {"dense": ToyDense, "sat": ToySat, "dense-short": ToyShort}),
        (
            METERS,
            {
                "nvml": NvmlMeter,
                "rapl": RaplMeter,
                "modelled": ModelledCpuMeter,
                "replay": ReplayMeter,
                "simulated": SimulatedMeter,
            },
        ),
    ):
        monkeypatch.setattr(registry, "_paths", {})
        monkeypatch.setattr(registry, "_loaded", dict(things))
        monkeypatch.setattr(registry, "_outside_read", True)
