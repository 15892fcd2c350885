"""Steps of a planned run on a device, outside the harness's own processes."""

from __future__ import annotations

from collections.abc import Callable

import torch

from harness.methods.base import METHODS
from harness.run.train import Loop, make_optimizer, synchronize
from harness.suite.expand import expand
from harness.suite.load import loads
from harness.suite.spec import RunSpec
from harness.workloads.base import WORKLOADS

SUITE = """\
name: steps
workload: language
workload_options: {{data: markov}}
arms:
  dense:
  sat: {{method: sat, regime: rotating, score: magnitude, schedule: [[0, {share}]]}}
  width: {{method: sat, axis: width, regime: rotating, score: magnitude, schedule: [[0, {share}]]}}
experiments:
  - {{protocol: steady, sizes: ["{size}"], seeds: 1, recipe: {recipe}}}
"""


def specs(size: str, share: float, device: torch.device, recipe: str = "{}") -> dict[str, RunSpec]:
    """Arm to specification, of one size at one active share."""
    suite = loads(SUITE.format(size=size, share=share, recipe=recipe))
    workload = WORKLOADS.get(suite.workload)()
    (draft,) = expand(suite, workload, "cuda" if device.type == "cuda" else "cpu")
    return {spec.arm: spec for spec in draft.specs}


def stepper(spec: RunSpec, device: torch.device) -> tuple[Callable[[], None], Callable[[float], None]]:
    """One warm optimizer step of the first phase, to be called over and over, and a switch to another share.

    Neither waits for the device.
    """
    task = WORKLOADS.get(spec.workload)().build(spec, device)
    if spec.recipe.compile:
        task.compile()
    optimizer = make_optimizer(task.model, spec.recipe)
    controller = METHODS.get(spec.method)().attach(spec, task, optimizer)
    loop = Loop(spec, task, controller, optimizer, device, lambda event: None)
    controller.enter_phase(0)
    batch = task.batch(0)
    task.batch = lambda step: batch

    def step() -> None:
        loop._step(0)

    for _ in range(3):
        step()
    synchronize(device)
    return step, getattr(getattr(controller, "inner", None), "set_share", lambda share: None)
