"""The closed form against torch's own counter on the real model, dense and as SAT really runs it."""

import pytest
import torch
from language_runs import TINY, run_spec
from torch.utils.flop_counter import FlopCounterMode

from harness.methods.base import METHODS, PlanRequest
from harness.run.count import count
from harness.suite.flops import total_flops
from harness.suite.spec import Phase
from harness.workloads.language import ladder
from harness.workloads.language.task import LanguageTask
from harness.workloads.language.workload import LanguageWorkload

WORKLOAD = LanguageWorkload()
SHAPES = {
    "tiny": TINY,
    "0.1M": ladder.shape("0.1M", length=24),
    "untied": TINY.model_copy(update={"tied": False, "vocab": 600}),
    "grouped queries": TINY.model_copy(update={"heads": 4, "head_dim": 4}),
    "one layer": TINY.model_copy(update={"layers": 1}),
    "heads wider than the stream": TINY.model_copy(update={"head_dim": 16}),
}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_dense_step_equals_the_counter(name, checkpointing):
    shape = SHAPES[name]
    spec = run_spec(shape, batch_size=5, recipe={"checkpointing": checkpointing})
    task = LanguageTask(spec, torch.device("meta"))
    with FlopCounterMode(display=False) as counter:
        task.loss(task.batch(0)).backward()
    counted = counter.get_total_flops()
    assert counted == WORKLOAD.step_flops(spec.model, spec.recipe, {}, Phase(steps=1))


ARMS = {
    "depth": {},
    "depth, gates of layers": {"score": "gate_probe", "schedule": [[0.0, 0.7], [0.8, 1.0]]},
    "width": {"axis": "width", "schedule": [[0.0, 0.17], [0.8, 1.0]]},
    "freeze": {"mode": "freeze", "schedule": [[0.0, 0.7]]},
    "backward_drop": {"mode": "backward_drop", "schedule": [[0.0, 0.7]]},
    "prefix": {"mode": "prefix", "schedule": [[0.0, 0.7], [0.5, 0.3]]},
}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("arm", "tied"), [*((arm, True) for arm in ARMS), ("prefix", False)])
def test_sat_costs_what_the_plan_says(arm, tied, checkpointing):
    shape = ladder.shape("0.1M", length=24).model_copy(update={"layers": 3, "tied": tied})
    dense = run_spec(shape, batch_size=2, steps=40, recipe={"checkpointing": checkpointing})
    request = PlanRequest(WORKLOAD, dense.workload_options, dense.model, dense.recipe)
    plan = METHODS.get("sat")().plan(ARMS[arm], request)
    spec = dense.model_copy(update={"method": "sat", "method_options": ARMS[arm], "phases": plan.phases})
    counted = count(spec)
    step, probe = WORKLOAD.step_flops, WORKLOAD.probe_flops
    assert counted.per_step == tuple(step(spec.model, spec.recipe, {}, phase) for phase in spec.phases)
    assert counted.per_probe == tuple(
        probe(spec.model, spec.recipe, {}, phase) if phase.probes else 0.0 for phase in spec.phases
    )
    assert counted.total == total_flops(WORKLOAD, spec.model, spec.recipe, {}, spec.phases)
    assert counted.per_step[0] < WORKLOAD.step_flops(spec.model, spec.recipe, {}, Phase(steps=1))


def test_the_largest_rung_can_be_counted():
    shape = ladder.shape("13B")
    spec = run_spec(shape, batch_size=1)
    assert count(spec).per_step == (WORKLOAD.step_flops(spec.model, spec.recipe, {}, Phase(steps=1)),)


def test_shares_between_none_and_all_cost_in_order():
    spec = run_spec(ladder.shape("0.4M"))
    for share in ("depth", "width", "gradient", "backward"):
        costs = [
            WORKLOAD.step_flops(spec.model, spec.recipe, {}, Phase(steps=1, **{share: value / 20}))
            for value in range(21)
        ]
        assert costs == sorted(costs)
        assert costs[0] > 0
        assert costs[0] < costs[10] < costs[20] == WORKLOAD.step_flops(spec.model, spec.recipe, {}, Phase(steps=1))


def test_the_gate_probe_costs_about_two_thirds_of_a_dense_step_for_each_micro_batch():
    spec = run_spec(ladder.shape("13B", length=8))  # so short that attention's scores weigh nothing
    one = Phase(steps=1, width=0.5, probes=1, probe_batches=1)
    probe = WORKLOAD.probe_flops(spec.model, spec.recipe, {}, one)
    assert probe / WORKLOAD.step_flops(spec.model, spec.recipe, {}, Phase(steps=1)) == pytest.approx(2 / 3, abs=0.01)
    four = one.model_copy(update={"probe_batches": 4})
    assert WORKLOAD.probe_flops(spec.model, spec.recipe, {}, four) == 4 * probe
