"""Matmul FLOPs of a whole run, by the workload's closed form. Pure: no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from harness.suite.spec import Json, Phase, Protocol, Recipe
from harness.workloads.base import Workload


def total_flops(
    workload: Workload, model: Json, recipe: Recipe, options: Json, phases: Sequence[Phase]
) -> float | None:
    """FLOPs of all steps and all importance probes of a training; ``None`` if the workload can't tell.

    Evaluation is outside, as it is outside the energy that a training is charged with.
    """
    total = 0.0
    for phase in phases:
        step = workload.step_flops(model, recipe, options, phase)
        if step is None:
            return None
        total += phase.steps * step
        if phase.probes:
            probe = workload.probe_flops(model, recipe, options, phase)
            if probe is None:
                return None
            total += phase.probes * probe
    return total


STEADY_WARMUP_STEPS = 2
"""Steps that the steady protocol runs and throws away at the head of each phase."""
STEADY_PACE_STEPS = 3
"""Steps that it times beside, where a phase is to be measured for a number of seconds."""
STEADY_PROBES = 2
"""Probes that it runs in a phase that has any: one to warm up, one measured."""


def performed(
    protocol: Protocol, recipe: Recipe, phases: Sequence[Phase], step_s: Callable[[Phase], float] | None = None
) -> tuple[Phase, ...]:
    """The steps and probes that a run really executes: all of a training, a sample of each phase if steady.

    ``step_s`` gives the expected seconds of a step in a phase, by which a recipe's ``sampled_seconds`` become steps.
    """
    if protocol is Protocol.TRAIN:
        return tuple(phases)
    if protocol is Protocol.COUNT:
        return ()

    def sampled(phase: Phase) -> int:
        steps = STEADY_WARMUP_STEPS + recipe.sampled_steps
        if not recipe.sampled_seconds or step_s is None:
            return steps
        wanted = math.ceil(recipe.sampled_seconds / (step_s(phase) + recipe.jitter_s / 2))
        return STEADY_PACE_STEPS + STEADY_WARMUP_STEPS + max(recipe.sampled_steps, wanted)

    return tuple(
        phase.model_copy(update={"steps": sampled(phase), "probes": STEADY_PROBES if phase.probes else 0})
        for phase in phases
    )
