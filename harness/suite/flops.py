"""Matmul FLOPs of a whole run, by the workload's closed form. Pure: no torch."""

from __future__ import annotations

from collections.abc import Sequence

from harness.suite.spec import Json, Phase, Recipe
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
