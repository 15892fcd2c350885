"""FLOPs of a run, counted by torch on meta tensors: no memory, no arithmetic, any size.

The counter sees matrix products, attention and convolutions; element-wise work and the optimizer are
not in it, as is usual. Each phase is counted by really building its shape and running one step.
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.methods.base import METHODS
from harness.run.events import Counted
from harness.run.train import make_optimizer
from harness.suite.spec import RunSpec
from harness.workloads.base import WORKLOADS


def count(spec: RunSpec) -> Counted:
    """Build the run on ``meta`` and count one step and one probe of each phase."""
    device = torch.device("meta")
    task = WORKLOADS.get(spec.workload)().build(spec, device)
    optimizer = make_optimizer(task.model, spec.recipe)
    controller = METHODS.get(spec.method)().attach(spec, task, optimizer)
    per_step: list[float] = []
    per_probe: list[float] = []
    for index, phase in enumerate(spec.phases):
        controller.enter_phase(index)
        with FlopCounterMode(display=False) as counter:
            task.loss(task.batch(0)).backward()  # type: ignore[no-untyped-call]
        per_step.append(float(counter.get_total_flops()))
        optimizer.zero_grad(set_to_none=True)
        if not phase.probes:
            per_probe.append(0.0)
            continue
        with FlopCounterMode(display=False) as counter:
            controller.probe()
        per_probe.append(float(counter.get_total_flops()))
    total = sum(
        phase.steps * step + phase.probes * probe
        for phase, step, probe in zip(spec.phases, per_step, per_probe, strict=True)
    )
    return Counted(per_step=tuple(per_step), per_probe=tuple(per_probe), total=total)
