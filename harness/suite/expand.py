"""Suite to run specifications: sizes x seeds x arms, each arm's model, recipe and phases by its method."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from pydantic import BaseModel, ValidationError

from harness.methods.base import METHODS, MethodPlan, PlanRequest
from harness.suite.flops import total_flops
from harness.suite.spec import Arm, Experiment, Json, Levels, Protocol, Recipe, RunSpec, Suite, levels_text
from harness.types import UserError
from harness.workloads.base import Workload

M = TypeVar("M", bound=BaseModel)


class PlanError(UserError):
    """Everything in a suite that can't be planned: (index of the experiment, what is wrong)."""

    def __init__(self, details: Sequence[tuple[int, str]]) -> None:
        self.details = tuple(details)
        self.problems = tuple(f"experiments[{index}]: {what}" for index, what in details)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True)
class Draft:
    """A block before its order is set: the specs of its arms, as listed."""

    experiment: int
    size: str
    seed: int
    protocol: Protocol
    levels: Levels
    specs: tuple[RunSpec, ...]


def expand(suite: Suite, workload: Workload, device: Literal["cpu", "cuda"]) -> list[Draft]:
    """All blocks of a suite: experiments, in them sizes, in them seeds, in them levels of factors, as listed.

    Raises:
        PlanError: every recipe and arm that can't be planned.
    """
    drafts: list[Draft] = []
    problems: list[tuple[int, str]] = []
    for index, experiment in enumerate(suite.experiments):
        for size in experiment.sizes:
            conditions = []
            for levels in experiment.conditions:
                specs, wrong = _try_specs(suite, experiment, size, levels, workload, device)
                where = f"at {size}, {levels_text(levels)}" if levels else f"at {size}"
                problems += [(index, f"{where}: {what}") for what in wrong]
                conditions.append((levels, specs))
            for seed in experiment.seeds:
                for levels, specs in conditions:
                    seeded = tuple(spec.model_copy(update={"seed": seed}) for spec in specs)
                    drafts.append(Draft(index, size, seed, experiment.protocol, levels, seeded))
    if problems:
        raise PlanError(problems)
    return drafts


def _try_specs(
    suite: Suite,
    experiment: Experiment,
    size: str,
    levels: Levels,
    workload: Workload,
    device: Literal["cpu", "cuda"],
) -> tuple[list[RunSpec], list[str]]:
    """Specs of the arms at a size, as listed, and what is wrong with those that have none.

    The seed is set later; plans do not depend on it.
    """
    try:
        return _specs(suite, experiment, size, levels, workload, device)
    except UserError as error:  # of the options, the model or the recipe that all arms share
        return [], [str(error)]


def _specs(
    suite: Suite,
    experiment: Experiment,
    size: str,
    levels: Levels,
    workload: Workload,
    device: Literal["cpu", "cuda"],
) -> tuple[list[RunSpec], list[str]]:
    options = normal_options(workload.Options, {**suite.workload_options, **experiment.options})
    model = workload.model(size, options)
    recipe = _recipe(experiment, size, workload, model, levels=levels, options=options, device=device)
    specs: dict[str, RunSpec] = {}
    problems = []
    for name in matching_order(experiment.arms, suite.arms):
        arm = suite.arms[name]
        if arm.match is not None and arm.match not in specs:
            continue  # the arm it matches has failed, which is said already
        try:
            method = METHODS.get(arm.method)
            method_options = normal_options(method.Options, arm.options)
            target = None
            if arm.match is not None:
                matched = specs[arm.match]
                why = METHODS.get(matched.method)().unplanned(matched.method_options)
                if why is not None:
                    raise UserError(f"arm {arm.match!r} can't be matched: {why}")
                target = flops_of(matched, workload)
            planned: MethodPlan = method().plan(method_options, PlanRequest(workload, options, model, recipe, target))
        except UserError as error:
            problems.append(f"arm {name!r}: {error}")
            continue
        specs[name] = RunSpec(
            workload=workload.name,
            workload_version=workload.version,
            workload_options=options,
            size=size,
            seed=0,
            protocol=experiment.protocol,
            levels=levels,
            arm=name,
            method=arm.method,
            method_version=method.version,
            method_options=method_options,
            model=planned.model,
            recipe=planned.recipe,
            phases=planned.phases,
            # counting happens on meta tensors: it is the same run everywhere
            device="cpu" if experiment.protocol is Protocol.COUNT else device,
        )
    return [specs[name] for name in experiment.arms if name in specs], problems


def _recipe(
    experiment: Experiment,
    size: str,
    workload: Workload,
    model: Json,
    *,
    levels: Levels,
    options: Json,
    device: Literal["cpu", "cuda"],
) -> Recipe:
    """The workload's recipe with the experiment's changes; bf16 on a GPU unless the suite says otherwise."""
    recipe = workload.recipe(size, model, options, experiment.protocol).model_dump()
    if device == "cuda" and experiment.protocol is not Protocol.COUNT:
        recipe["precision"] = "bf16"
    return _validated(Recipe, {**recipe, **experiment.recipe, **levels}, "recipe")


def flops_of(spec: RunSpec, workload: Workload) -> float | None:
    """FLOPs of the whole training that a spec describes, by the closed form."""
    return total_flops(workload, spec.model, spec.recipe, spec.workload_options, spec.phases)


def matching_order(names: Iterable[str], arms: dict[str, Arm]) -> list[str]:
    """Arms so that each comes after the one it matches, otherwise as listed."""
    waiting = list(names)
    ordered: list[str] = []
    while waiting:
        ready = [name for name in waiting if arms[name].match in (None, *ordered)]
        if not ready:
            raise UserError(f"arms match each other in a circle, or one that takes no part: {', '.join(waiting)}")
        ordered += ready
        waiting = [name for name in waiting if name not in ready]
    return ordered


def normal_options(model: type[BaseModel], options: Json) -> Json:
    """Options as plain JSON with the defaults written out: a default spelt out changes no run id."""
    return _validated(model, options, "options").model_dump(mode="json")


def _validated(model: type[M], values: Json, key: str) -> M:
    try:
        return model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        lines = [
            f"{'.'.join([key, *(str(part) for part in item['loc'])])}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_url=False)
        ]
        raise UserError("; ".join(lines)) from None
