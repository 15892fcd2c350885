"""The studies behind docs/sat-cost.md, at their smallest."""

from __future__ import annotations

import pytest
import sat_flops
import sat_memory
import sat_step
import torch

from harness.suite.spec import Phase, Protocol
from sat.flops import count_flops


@pytest.mark.parametrize(
    ("schedule", "saving", "units", "probes"),
    [
        ("depth: one layer until .8, then all (the claim's)", 0.62937, 1 / 3, False),
        ("depth: half until .8, then all", 0.3776, 0.6, False),
        ("width: constant .25, persistent", 0.68616, 3 / 11, True),
        ("freeze: .30 (the claim's)", 0.12368, 1 / 3, True),
    ],
)
def test_savings_of_the_smallest_rung(schedule, saving, units, probes):
    """Golden: with a schedule or a count that changes, so does the table in the document."""
    row = sat_flops.row("0.1M", schedule, sat_flops.SCHEDULES[schedule])
    assert row.saving == pytest.approx(saving, abs=1e-4)
    assert row.active_units == pytest.approx(units, abs=1e-3)
    assert (row.probe_flops > 0) == probes


def test_half_the_layers_until_four_fifths_by_hand():
    """0.8 of the steps without half of the layers: what is saved is their share of a step, no more."""
    row = sat_flops.row("0.1M", "by hand", {"schedule": sat_flops.HALF})
    workload = sat_flops.WORKLOAD
    model = workload.model("0.1M", {})
    recipe = workload.recipe("0.1M", model, {}, Protocol.COUNT)
    tokens = recipe.batch_size * model["sequence_length"]
    head = 6 * tokens * model["width"] * model["vocab"]
    layers = workload.step_flops(model, recipe, {}, Phase(steps=1)) - head
    assert row.saving == pytest.approx(0.8 * 0.5 * layers / (layers + head), abs=1e-12)


def test_a_closed_form_that_is_off_by_one_flop_stops_the_study(monkeypatch):
    truth = sat_flops.total_flops
    monkeypatch.setattr(sat_flops, "total_flops", lambda *given: truth(*given) + 1)
    with pytest.raises(RuntimeError, match="closed form"):
        sat_flops.row("0.1M", "depth", {})


def test_the_verdict_names_what_reaches_the_target_at_the_largest_size():
    def row(size, schedule, steps):
        return sat_flops.Row(size, schedule, 10, 0.3, 0.35, dense_flops=100, step_flops=steps, probe_flops=2)

    rows = [row("1.3B", "a", 5), row("13B", "a", 25), row("13B", "b", 26), row("13B", "c", 20)]
    assert sat_flops.verdict(rows) == (
        "At 13B, 73% is reached by *c* (78.0%, with 30.0% of the units and 35.0% of the parameters at work on average);"
        " *a* (73.0%, with 30.0% of the units and 35.0% of the parameters at work on average)."
    )
    assert sat_flops.verdict(rows[2:3]) == "At 13B no schedule saves 73%."


@pytest.mark.parametrize("share", sat_step.SHARES)
@pytest.mark.parametrize("axis", sat_step.AXES)
def test_the_floor_is_a_model_of_the_same_size_and_work(axis, share):
    shape = sat_step.shape_of("0.4M")
    ours, floor = sat_step.at_share(shape, axis, share), sat_step.floor(shape, axis, share)
    assert ours.flops == floor.flops
    trained = [p for p in ours.model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == sum(p.numel() for p in floor.model.parameters())
    before = [p.detach().clone() for p in trained]
    ours.step()
    assert any(not torch.equal(old, new) for old, new in zip(before, trained, strict=True))


def test_turns_alternate_so_that_drift_cancels():
    order = []
    sat_step.turns([lambda: order.append("a"), lambda: order.append("b")], 4)
    assert "".join(order[2 * sat_step.WARMUP :]) == "baabbaab"


def test_a_profile_has_every_class_and_puts_the_head_apart():
    shape = sat_step.shape_of("0.1M")
    (found,) = sat_step.profiled([sat_step.dense(shape)], shape.vocab, 1)
    assert set(found) == set(sat_step.CLASSES)
    assert all(found[name] > 0 for name in sat_step.CLASSES[:-1])


def test_timed_steps_are_not_watched():
    """A watch that ran on would slow every step of a benchmark."""
    ours = sat_step.at_share(sat_step.shape_of("0.1M"), "width", 0.5)
    assert not ours.model._forward_hooks
    assert count_flops(ours.model, lambda: ours.loss(0)).total == ours.flops
    assert not ours.model._forward_hooks


@pytest.mark.parametrize("axis", sat_memory.AXES)
def test_memory_falls_with_the_parameters_at_work(axis):
    """With the bank on the host nothing of what is out stays on the device, but for a step counter per tensor."""
    row = sat_memory.row("0.1M", axis, 0.25)
    assert 0.25 < row.active_parameters < 0.5
    assert row.memory == pytest.approx(row.active_parameters, abs=1e-3)
    assert sat_memory.row("0.1M", axis, 1.0).host_bytes == 0
