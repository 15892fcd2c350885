"""Every registered method, on every shape of arm, keeps what the seam promises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.methods.base import METHODS, PlanRequest
from harness.run.count import count
from harness.suite.flops import total_flops
from harness.suite.spec import Json, Phase, Protocol, RunSpec
from harness.workloads.base import WORKLOADS
from harness.workloads.language.workload import LanguageWorkload

OPTIONS = LanguageWorkload.Options(data="markov", sequence_length=16, tokens_per_parameter=0.05).model_dump()
ARMS: dict[str, list[Json]] = {
    "dense": [{}],
    "sat": [
        {},
        {"axis": "width"},
        {"axis": "width", "score": "random"},
        {"mode": "freeze"},
        {"mode": "backward_drop"},
        {"mode": "prefix"},
    ],
    "dense-short": [{}],
    "dense-small": [{"axis": "depth"}, {"axis": "width"}],
    "dense-shallow": [{"share": 0.5}],
}
CASES = [(name, options) for name in METHODS.names() for options in ARMS.get(name, [{}])]
"""Every registered method, those of outside packages with their default options."""


def the_plan(name: str, options: Json, steps: int):
    method = METHODS.get(name)()
    workload = LanguageWorkload()
    model = workload.model("0.1M", OPTIONS)
    recipe = workload.recipe("0.1M", model, OPTIONS, Protocol.TRAIN).model_copy(
        update={"steps": steps, "batch_size": 2}
    )
    dense = total_flops(workload, model, recipe, OPTIONS, (Phase(steps=steps),))
    target = 0.4 * dense if method.matches else None
    return workload, method, method.plan(options, PlanRequest(workload, OPTIONS, model, recipe, target))


@pytest.fixture
def halves():
    """The method of docs/own-method.md, as it stands there."""
    page = Path(__file__).parents[2] / "docs" / "own-method.md"
    found = re.search(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert found is not None
    written: dict[str, Any] = {}
    exec(found[1], written)  # it is the page's example
    METHODS.add("halves")(written["Halves"])
    yield "halves"
    del METHODS._loaded["halves"]


def test_the_example_of_the_docs_works(halves):
    for steps in (1, 2, 41):
        counts_as_planned(halves, {"start": 0.25}, steps)
    _, _, plan = the_plan(halves, {}, 41)
    assert [(phase.steps, phase.depth) for phase in plan.phases] == [(20, 0.5), (21, 1.0)]


@pytest.mark.parametrize(("name", "options"), CASES)
@given(steps=st.integers(1, 5000))
def test_phases_add_up_to_the_steps(name, options, steps):
    _, _, plan = the_plan(name, options, steps)
    assert sum(phase.steps for phase in plan.phases) == plan.recipe.steps


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_closed_form_equals_what_torch_counts(name, options):
    counts_as_planned(name, options, 40)


def counts_as_planned(name, options, steps):
    workload, method, plan = the_plan(name, options, steps)
    spec = RunSpec(
        workload="language",
        workload_version=1,
        workload_options=OPTIONS,
        size="0.1M",
        seed=0,
        protocol=Protocol.COUNT,
        arm="arm",
        method=name,
        method_version=method.version,
        method_options=method.Options.model_validate(options).model_dump(mode="json"),
        model=plan.model,
        recipe=plan.recipe,
        phases=plan.phases,
        device="cpu",
    )
    counted = count(spec)
    for phase, per_step, per_probe in zip(spec.phases, counted.per_step, counted.per_probe, strict=True):
        assert per_step == workload.step_flops(spec.model, spec.recipe, OPTIONS, phase)
        if phase.probes:
            assert per_probe == workload.probe_flops(spec.model, spec.recipe, OPTIONS, phase)
    assert counted.total == total_flops(workload, spec.model, spec.recipe, OPTIONS, spec.phases)


def test_building_on_meta_takes_no_memory_and_reads_no_data():
    workload = WORKLOADS.get("language")()
    _, _, plan = the_plan("dense", {}, 10)
    spec = RunSpec(
        workload="language",
        workload_version=1,
        workload_options=OPTIONS | {"data": "/nowhere"},
        size="0.1M",
        seed=0,
        protocol=Protocol.COUNT,
        arm="dense",
        method="dense",
        method_version=1,
        model=plan.model,
        recipe=plan.recipe,
        phases=plan.phases,
        device="cpu",
    )
    task = workload.build(spec, torch.device("meta"))
    assert all(parameter.is_meta for parameter in task.model.parameters())
