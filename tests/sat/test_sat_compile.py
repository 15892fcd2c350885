"""Layers compiled in place: the same training as in eager, with a bounded number of graphs, in every mode."""

from __future__ import annotations

import pytest
import torch
from sat_families import FAMILIES
from sat_models import adamw, attach, llama, tokens, train
from torch import nn

import sat
from sat.config import DEFAULT_SCHEDULES

STEPS = 5
GROWING = {"schedule": ((0.0, 0.34), (0.5, 1.0))}
ROTATING = {"schedule": ((0.0, 0.34), (0.5, 0.67)), "interval": 2, "score": "random"}
KINDS = ["llama", "bert"]  # a norm before the branch, and one after the sum


@pytest.fixture(autouse=True)
def fresh_compiler():
    """No graphs of other tests, and the process-wide settings as they were."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):
        yield


def settings(mode, axis):
    """A training in which the active units change."""
    chosen = {"skip": GROWING, "prefix": {"schedule": ((0.0, 0.67), (0.5, 0.34))}}
    return {"mode": mode, "axis": axis} | chosen.get(mode, ROTATING)


def run(family, chosen, compiled):
    model = family.make()
    record = sat.compile_layers(model, backend="eager") if compiled else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    config = sat.SATConfig(**chosen)
    controller = sat.sparsify_(
        model, optimizer, config, total_steps=STEPS, loss=lambda index: family.loss(model, 1000 + index)
    )
    losses = []
    for step in range(STEPS):
        loss = family.loss(model, step)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
        controller.step()
    return losses, record, controller


@pytest.mark.parametrize(("mode", "axis"), DEFAULT_SCHEDULES)
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_training_is_that_of_eager_with_few_graphs(kind, mode, axis):
    """Backend ``eager`` runs the traced operations as they are: losses agree but for rounding."""
    family, chosen = FAMILIES[kind], settings(mode, axis)
    eager, _, _ = run(family, chosen, compiled=False)
    losses, record, controller = run(family, chosen, compiled=True)
    assert losses == pytest.approx(eager, rel=1e-5)
    assert 0 < record.graphs <= record.most_graphs(controller.config, STEPS)
    assert controller.report().compiled_graphs == record.graphs


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize("axis", ["depth", "width"])
def test_gates_of_units_that_come_in_act_in_compiled_layers(axis, kind):
    """A gate is a hook, which compiled code would not see: its layer runs uncompiled while the gate rises."""
    chosen = {"axis": axis, "ramp_steps": 6, "swap_share": 1.0, "hysteresis": 0.0, "score": "random"}
    chosen |= {"regime": "rotating", "interval": 1, "schedule": ((0.0, 0.5),), "swap_until": None}
    family = FAMILIES[kind]
    eager, _, controller = run(family, chosen, compiled=False)
    assert controller.ramp.state()  # some are still rising at the end
    losses, record, controller = run(family, chosen, compiled=True)
    assert losses == pytest.approx(eager, rel=1e-5)
    assert record.graphs > 0
    layers = [layer for stack in controller.structure.stacks for layer in stack.layers]
    rising = [layer for layer in layers if layer._compiled_call_impl is None]
    assert rising
    sat.densify_(controller.model)
    assert all(layer._compiled_call_impl is not None for layer in rising)


def test_probes_of_compiled_layers_see_the_gates():
    model = llama(layers=2)
    sat.compile_layers(model, backend="eager")
    optimizer = adamw(model)
    controller = attach(model, optimizer, 8, axis="width", schedule=((0.0, 0.3), (0.5, 1.0)))
    assert all(threshold > 0 for threshold in controller.report().thresholds.values())
    train(model, optimizer, controller, 0, 6)


def test_graphs_grow_with_the_counts_of_units_and_no_further():
    """Five shares; every layer is of one kind, so each count costs one graph, however long it trains."""
    model = llama(mlp=128, kv_heads=4, layers=3)
    record = sat.compile_layers(model, backend="eager")
    optimizer = adamw(model)
    shares = (0.2, 0.4, 0.6, 0.8, 1.0)
    schedule = tuple((index / 5, share) for index, share in enumerate(shares))
    controller = attach(model, optimizer, 10, axis="width", score="random", schedule=schedule)
    seen = []
    for step in range(10):
        model(input_ids=tokens(step), labels=tokens(step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(controller.report().compiled_graphs)
        controller.step()
    assert record.kinds == 1
    assert seen == sorted([1, 2, 3, 4, 5] * 2) == sorted(seen)
    assert record.most_graphs(controller.config, 10) == 5
    assert "5 graphs compiled" in str(controller.report())


def test_beyond_the_limit_torch_raises_and_does_not_go_on_in_eager(monkeypatch):
    monkeypatch.setattr("sat.compiled.LIMIT", 2)
    torch._dynamo.config.recompile_limit = 2
    model = llama(mlp=128, kv_heads=4, layers=2)
    sat.compile_layers(model, backend="eager")
    optimizer = adamw(model)
    controller = attach(model, optimizer, 8, axis="width", score="random", schedule=((0.0, 0.2), (0.5, 1.0)))
    for share in (0.2, 0.4):
        controller.set_share(share)
        model(input_ids=tokens(0))
    controller.set_share(0.6)
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        model(input_ids=tokens(0))


def test_what_compile_layers_refuses():
    model = llama(layers=2)
    with pytest.raises(ValueError, match="settings of 'inductor', not of 'eager'"):
        sat.compile_layers(model, backend="eager", mode="max-autotune")
    with pytest.raises(ValueError, match="no known structure to switch"):
        sat.compile_layers(nn.Linear(2, 2), backend="eager")
    attach(model, adamw(model))
    with pytest.raises(ValueError, match=r"call sat\.compile_layers before sat\.sparsify_"):
        sat.compile_layers(model, backend="eager")


def test_a_model_that_was_not_compiled_reports_no_graphs():
    model = llama(layers=2)
    report = attach(model, adamw(model)).report()
    assert report.compiled_graphs is None
    assert "graphs" not in str(report)


@pytest.mark.slow
def test_inductor_trains_the_same():
    losses = []
    for compiled in (False, True):
        model = llama(layers=2)
        record = sat.compile_layers(model) if compiled else None
        optimizer = adamw(model)
        controller = attach(model, optimizer, 4, schedule=((0.0, 0.5), (0.5, 1.0)))
        losses.append(train(model, optimizer, controller, 0, 4))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert record.graphs == 1  # layers of one kind share it
