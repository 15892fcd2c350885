"""Matmul FLOPs of a whole run, by the workload's closed form. Pure: no torch."""

from __future__ import annotations

from collections.abc import Sequence

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
STEADY_PROBES = 2
"""Probes that it runs in a phase that has any: one to warm up, one measured."""


def performed(protocol: Protocol, recipe: Recipe, phases: Sequence[Phase]) -> tuple[Phase, ...]:
    """The steps and probes that a run really executes: all of a training, a sample of each phase if steady."""
    if protocol is Protocol.TRAIN:
        return tuple(phases)
    if protocol is Protocol.COUNT:
        return ()
    steps = STEADY_WARMUP_STEPS + recipe.sampled_steps
    return tuple(
        phase.model_copy(update={"steps": steps, "probes": STEADY_PROBES if phase.probes else 0}) for phase in phases
    )
