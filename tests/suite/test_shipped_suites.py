"""The suites that ship, planned for real with the real workload and methods; still no torch."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

from harness.suite.flops import STEADY_PROBES, STEADY_WARMUP_STEPS
from harness.suite.form import ExperimentForm, SuiteForm
from harness.suite.load import load, loads
from harness.suite.machine import GPU_LAYER_STEP_S, GPU_UTILISATION, Machine
from harness.suite.plan import Plan, plan
from harness.suite.spec import Suite

ROOT = Path(__file__).parents[2]
CPU = Machine(
    device="cpu", name="CPU", cores=2, memory_bytes=16 * 2**30, flops_per_second=1e11, layer_step_s=6e-3, watts=8.0
)
H100 = Machine(
    device="cuda",
    name="NVIDIA H100 80GB HBM3",
    cores=16,
    memory_bytes=79 * 2**30,
    flops_per_second=GPU_UTILISATION * 989e12,
    layer_step_s=GPU_LAYER_STEP_S,
    watts=700.0,
)


@functools.cache
def suite(name: str) -> Suite:
    return load(ROOT / "suites" / name)


@functools.cache
def planned(name: str, machine: Machine) -> Plan:
    return plan(suite(name), machine)


def test_the_main_job_has_every_arm_that_a_sceptic_asks_for() -> None:
    scaling = planned("scaling.yaml", CPU)
    train = [block for block in scaling.blocks if block.protocol == "train"]
    assert {(block.size, block.seed) for block in train} == {(s, n) for s in ("0.1M", "0.2M", "0.4M") for n in range(3)}
    arms = {
        "dense",
        "dense-aa",
        "sat",
        "sat-width",
        "dense-short",
        "dense-small",
        "dense-narrow",
        "sat-random",
        "freeze",
    }
    assert all({run.spec.arm for run in block.runs} == arms for block in train)
    assert {"1.6M", "3M"} == {block.size for block in scaling.blocks if block.protocol == "steady"}
    assert {"124M", "13B"} <= {block.size for block in scaling.blocks if block.protocol == "count"}
    assert scaling.totals.skipped == 0


def test_matched_controls_spend_what_they_match() -> None:
    """To the nearest step of the control (of its dearest phase): the match is as fair as whole steps allow."""
    for block in planned("scaling.yaml", CPU).blocks:
        runs = {run.spec.arm: run for run in block.runs}
        flops = {arm: run.prediction.flops or 0.0 for arm, run in runs.items()}
        for arm, run in runs.items():
            match = suite("scaling.yaml").arms[arm].match
            if match is not None:
                steps_of = arm if len(run.spec.phases) == 1 else "dense"
                step = flops[steps_of] / runs[steps_of].spec.recipe.steps
                assert abs(flops[arm] - flops[match]) <= step / 2 * 1.01


def test_the_counted_saving_at_13b_is_under_what_the_arm_can_save() -> None:
    counts = {r.spec.arm: r.prediction.flops or 0.0 for r in planned("scaling.yaml", CPU).runs if r.spec.size == "13B"}
    for arm in ("sat", "sat-width"):
        assert 0 < 1 - counts[arm] / counts["dense"] < 0.8


def test_a_and_a_differ_in_name_only() -> None:
    block = planned("scaling.yaml", CPU).blocks[0]
    specs = {run.spec.arm: run.spec for run in block.runs}
    assert specs["dense"].run_id != specs["dense-aa"].run_id
    assert specs["dense"].model_copy(update={"arm": "dense-aa"}) == specs["dense-aa"]


def test_gpu_smoke_is_skipped_without_a_card_and_fits_its_budget_on_one() -> None:
    assert {run.skip is None for run in planned("gpu-smoke.yaml", CPU).runs} == {False}
    on_card = planned("gpu-smoke.yaml", H100)
    assert on_card.totals.skipped == 0
    assert on_card.beyond_budget == ()
    assert {run.spec.recipe.precision for run in on_card.runs} == {"bf16"}


@pytest.mark.parametrize("name", ["scaling.yaml", "quickstart.yaml"])
def test_nothing_is_skipped_on_a_small_machine(name: str) -> None:
    assert planned(name, CPU).totals.skipped == 0


def test_steady_steps_are_those_of_the_training_loop() -> None:
    """The plan can't import the loop (it needs torch), so the figures stand in both."""
    source = (ROOT / "harness" / "run" / "train.py").read_text()
    constants = {
        node.targets[0].id: node.value.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    assert constants["STEADY_WARMUP_STEPS"] == STEADY_WARMUP_STEPS
    assert source[source.index("def _steady") : source.index("def _step(")].count("controller.probe()") == STEADY_PROBES


def test_the_reference_page_knows_every_key_and_its_example_loads() -> None:
    text = (ROOT / "docs" / "suite-file.md").read_text()
    for form in (SuiteForm, ExperimentForm):
        assert [key for key in form.model_fields if f"`{key}`" not in text] == []
    example = text.split("```yaml\n")[1].split("```")[0]
    assert loads(example).budget_s == 1800
