"""SAT as an arm: what is planned is what is run, and what is predicted is what is counted."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sat_models import llama, tokens

import sat
from harness.methods.base import METHODS, PlanRequest
from harness.methods.sat import SatOptions
from harness.run.events import Activity
from harness.suite.spec import Protocol, Recipe, RunSpec
from harness.types import UserError

ARMS: dict[str, dict[str, Any]] = {
    "sat": {},
    "sat, interleaved": {"entry": "interleaved", "schedule": [[0, 0.25], [0.35, 0.5], [0.65, 1]]},
    "sat-width": {"axis": "width"},
    "sat-random": {"axis": "width", "score": "random"},
    "freeze": {"mode": "freeze"},
    "backward_drop": {"mode": "backward_drop"},
    "prefix": {"mode": "prefix", "schedule": [[0, 0.75], [0.5, 0.25]]},
}


def request(steps: int = 1000, layers: int = 8) -> PlanRequest:
    workload: Any = SimpleNamespace(name="fake", layers=lambda model: model["layers"])
    return PlanRequest(workload, {}, {"layers": layers}, Recipe(steps=steps, batch_size=2, learning_rate=1e-3))


def test_planning_loads_no_torch():
    code = "import sys; from harness.methods.sat import Sat; Sat.Options(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_phases_cover_the_training_with_realised_shares(arm, steps):
    plan = METHODS.get("sat")().plan(ARMS[arm], request(steps))
    assert sum(phase.steps for phase in plan.phases) == steps
    for phase in plan.phases:
        assert phase.depth * 8 == int(phase.depth * 8)
        for share in (phase.gradient, phase.backward, phase.suffix):
            assert share * 8 == int(share * 8)
        assert phase.probe_batches == 1  # as many for each step of a short interval as 4 are for 500


def test_the_arms_are_as_registered():
    def plan(arm):
        return [
            (p.steps, p.depth, p.width, p.gradient, p.probes)
            for p in METHODS.get("sat")().plan(ARMS[arm], request()).phases
        ]

    assert plan("sat") == [(800, 1 / 8, 1, 1, 0), (200, 1, 1, 1, 0)]
    assert plan("sat-width") == [(600, 1, 0.17, 1, 1), (200, 1, 0.33, 1, 1), (100, 1, 0.5, 1, 1), (100, 1, 1, 1, 0)]
    assert plan("sat-random") == [(s, d, w, g, 0) for s, d, w, g, _ in plan("sat-width")]
    assert plan("freeze") == [(1000, 1, 1, 2 / 8, 10)]  # an interval of a tenth of a short training


@pytest.mark.parametrize(
    ("given", "steps", "interval"), [(None, 5, 1), (None, 3000, 300), (None, 90_000, 500), (70, 50, 70)]
)
def test_the_interval_is_500_steps_or_a_tenth_of_a_short_training(given, steps, interval):
    config = SatOptions(interval=given).config(steps, 0)
    assert config.interval == interval
    assert config.probe_batches == max(1, 4 * interval // 500)
    assert SatOptions(interval=given, probe_batches=3).config(steps, 0).probe_batches == 3


def test_settings_of_the_choice_reach_the_library_and_name_a_run_only_where_they_are_given():
    given = {"floor": 2, "swap_share": 0.2, "swap_until": 0.5, "hysteresis": 0.3, "staleness": 0.0, "explore": 0.4,
             "observe_every": 4, "smoothing": 0.5, "ramp_steps": 7}  # fmt: skip
    config = SatOptions(axis="width", **given).config(1000, 0)
    assert {name: getattr(config, name) for name in given} == given
    assert given.items() <= SatOptions(**given).model_dump().items()
    assert not given.keys() & SatOptions().model_dump().keys()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"axis": "heads"}, "options of method sat: axis: Input should be 'depth' or 'width'"),
        ({"shedule": []}, "options of method sat: shedule: Extra inputs are not permitted"),
        ({"mode": "freeze", "axis": "width"}, "method sat: mode 'freeze' switches whole layers"),
        ({"schedule": [[0, 0.5]]}, "method sat: regime 'growing' ends with the full model"),
    ],
)
def test_bad_options_are_the_users_error(options, text):
    with pytest.raises(UserError) as caught:
        METHODS.get("sat")().plan(options, request())
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("options", "layers", "text"),
    [
        ({"mode": "freeze", "score": "gate_probe"}, 8, "score 'gate_probe' with mode 'freeze' has no closed form"),
        ({"mode": "prefix", "score": "taylor"}, 8, "score 'taylor' with mode 'prefix' lets scores hold the frozen"),
        ({"mode": "freeze", "schedule": [[0, 0.9]]}, 4, "a share below 1 that keeps all 4 layers"),
        ({"score": "gate_probe", "schedule": [[0, 0.5], [0.2, 0.9], [0.5, 1]]}, 4, "a share below 1 that keeps all 4"),
    ],
)
def test_probes_whose_cost_the_plan_can_not_tell_are_refused(options, layers, text):
    with pytest.raises(UserError, match=f"^method sat: .*{text}"):
        METHODS.get("sat")().plan(options, request(layers=layers))


class TinyTask:
    examples_per_step = 16

    def __init__(self):
        self.model = llama(layers=8)

    def batch(self, step):
        return tokens(step)

    def probe_batch(self, index):
        return tokens(1000 + index)

    def loss(self, batch):
        return self.model(input_ids=batch, labels=batch).loss


def spec(arm: str, steps: int, **recipe: Any) -> RunSpec:
    settings = Recipe(steps=steps, batch_size=2, learning_rate=1e-3, **recipe)
    asked = PlanRequest(request().workload, {}, {"layers": 8}, settings)
    plan = METHODS.get("sat")().plan(ARMS[arm], asked)
    return RunSpec(
        workload="fake", workload_version=1, size="tiny", seed=3, protocol=Protocol.TRAIN, arm=arm, method="sat",
        method_version=1, method_options=ARMS[arm], model={}, recipe=settings, phases=plan.phases, device="cpu",
    )  # fmt: skip


@pytest.mark.parametrize("arm", ARMS)
def test_a_run_keeps_to_its_plan(arm):
    run, task = spec(arm, 20), TinyTask()
    plain = {name: value.shape for name, value in task.model.state_dict().items()}
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-3)
    controller = METHODS.get("sat")().attach(run, task, optimizer)
    planned = [(phase, step) for phase in run.phases for step in range(phase.steps)]
    events, probes = [], 0
    for step, (phase, _) in enumerate(planned):
        if controller.due(step):
            before = controller.inner.report().probes
            event = controller.begin_step(step)
            probes += controller.inner.report().probes - before
            events += [event] if event else []
        present = len(task.model.model.layers)
        assert present == phase.depth * 8
        trained = sum(any(p.requires_grad for p in layer.parameters()) for layer in task.model.model.layers)
        assert trained == min(phase.gradient, phase.backward, phase.suffix) * present
        kept = sat.units_kept(8, phase.width)
        assert task.model.model.layers[0].mlp.up_proj.out_features == 8 * kept
        task.loss(task.batch(step)).backward()
        controller.before_optimizer(step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        controller.end_step(step)
    assert probes == sum(phase.probes for phase in run.phases)
    assert all(isinstance(event, Activity) for event in events)
    assert events[0].step == 0
    assert events[0].entries > 0
    (note,) = controller.finish()
    assert note.startswith("sat: 20 steps; active units ")
    assert {name: value.shape for name, value in task.model.state_dict().items()} == plain


def test_probes_run_in_the_precision_of_the_training():
    task = TinyTask()
    seen = []
    task.loss = lambda batch: (seen.append(torch.is_autocast_enabled("cpu")), TinyTask.loss(task, batch))[1]
    run = spec("sat-width", 20, precision="bf16")
    controller = METHODS.get("sat")().attach(run, task, torch.optim.AdamW(task.model.parameters()))
    controller.begin_step(0)
    assert seen == [True]


def test_a_model_that_is_not_known_is_the_users_error():
    task = TinyTask()
    task.model = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match="method sat on workload fake: Linear: no known structure to switch"):
        METHODS.get("sat")().attach(spec("sat", 10), task, torch.optim.SGD(task.model.parameters(), lr=1.0))


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_language_workloads_closed_form_is_what_is_counted(arm, checkpointing):
    from harness.run.count import count
    from harness.workloads.base import WORKLOADS

    workload = WORKLOADS.get("language")()
    model = workload.model("0.4M", {}) | {"layers": 2}
    recipe = workload.recipe("0.4M", model, {}, Protocol.COUNT).model_copy(update={"checkpointing": checkpointing})
    plan = METHODS.get("sat")().plan(ARMS[arm], PlanRequest(workload, {}, model, recipe))
    run = RunSpec(
        workload="language", workload_version=workload.version, size="0.4M", seed=0, protocol=Protocol.COUNT, arm=arm,
        method="sat", method_version=1, method_options=ARMS[arm], model=model, recipe=recipe, phases=plan.phases,
        device="cpu",
    )  # fmt: skip
    counted = count(run)
    assert list(counted.per_step) == [workload.step_flops(model, recipe, {}, phase) for phase in run.phases]
    predicted = [workload.probe_flops(model, recipe, {}, phase) if phase.probes else 0.0 for phase in run.phases]
    assert list(counted.per_probe) == predicted


def test_an_arm_that_matches_takes_the_steps_that_spend_the_same_flops():
    step = 9.0
    workload: Any = SimpleNamespace(
        name="fake",
        layers=lambda model: 8,
        step_flops=lambda model, recipe, options, phase: step * phase.width,
        probe_flops=lambda model, recipe, options, phase: 8 * step,
    )
    recipe = Recipe(steps=100, batch_size=2, learning_rate=1e-3)
    scored = METHODS.get("sat")().plan({"axis": "width"}, PlanRequest(workload, {}, {}, recipe))
    spent = sum(p.steps * step * p.width + p.probes * 8 * step for p in scored.phases)
    drawn = METHODS.get("sat")().plan(
        {"axis": "width", "score": "random"}, PlanRequest(workload, {}, {}, recipe, target_flops=spent)
    )
    assert sum(p.probes for p in drawn.phases) == 0
    assert drawn.recipe.steps > 100
    assert sum(p.steps for p in drawn.phases) == drawn.recipe.steps
    assert sum(p.steps * step * p.width for p in drawn.phases) == pytest.approx(spent, rel=0.02)


@pytest.mark.parametrize("option", [{"threshold": "global"}, {"buckets": 3}, {"floor": 2}])
def test_flops_that_follow_from_scores_are_said_and_matched_by_nothing(option):
    method = METHODS.get("sat")()
    width = {"axis": "width", **option}
    assert method.plan(width, request()).phases == method.plan({"axis": "width"}, request()).phases
    with pytest.raises(UserError, match=r"can't match another arm here: .* known in the run alone"):
        method.plan(width, replace(request(), target_flops=1e9))
    assert "its budget" in method.unplanned(width)
    assert method.unplanned({"axis": "depth", "score": "random", **option}) is None
    assert method.unplanned({"axis": "width"}) is None


def test_layers_in_buckets_are_planned_as_they_are_run():
    plan = METHODS.get("sat")().plan({"buckets": 2, "schedule": [[0, 0.2], [0.5, 0.6], [0.75, 1]]}, request(layers=9))
    assert [round(phase.depth * 9) for phase in plan.phases] == [5, 5, 9]
