"""FLOPs as torch counts them on meta tensors: they fall by what the active share says, no more, no less."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from sat_models import llama, steep
from torch.utils.flop_counter import FlopCounterMode

import sat

BATCH, LENGTH = 2, 16


def meta(**shape):
    with torch.device("meta"):
        return llama(**shape)


def count(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def loss_of(model):
    ids = torch.zeros((BATCH, LENGTH), dtype=torch.long, device="meta")
    # a ready mask: transformers would look at values to build one, and there are none on meta
    mask = torch.zeros((BATCH, 1, LENGTH, LENGTH), device="meta")
    return model(input_ids=ids, attention_mask=mask, labels=ids).loss


def step(model):
    loss_of(model).backward()


def attach(model, **settings):
    return sat.sparsify_(
        model,
        torch.optim.AdamW(model.parameters()),
        steep(**settings),
        total_steps=100,
        loss=lambda index: loss_of(model),
        start=False,
    )


def layers_and_head(model) -> tuple[int, int]:
    """Counted FLOPs of the layers and of the rest of a dense step."""
    head = 3 * 2 * BATCH * LENGTH * model.lm_head.weight.numel()
    return count(lambda: step(model)) - head, head


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_depth_falls_exactly_with_the_layers(share):
    model = meta(layers=8)
    layers, head = layers_and_head(model)
    controller = attach(model)
    controller.set_share(share)
    kept = sat.units_kept(8, share)
    assert count(lambda: step(model)) == head + Fraction(kept, 8) * layers


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 1.0])
def test_width_falls_exactly_with_the_units(share):
    model = meta(layers=3, kv_heads=4, heads=8)
    layers, head = layers_and_head(model)
    controller = attach(model, axis="width")
    controller.set_share(share)
    assert count(lambda: step(model)) == head + Fraction(share) * layers


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_freezing_saves_weight_gradients_only(share):
    model = meta(layers=8)
    dense = count(lambda: step(model))
    linear = 8 * sum(p.numel() for p in model.model.layers[0].parameters() if p.dim() > 1)
    controller = attach(model, mode="freeze")
    controller.set_share(share)
    saved = (1 - Fraction(share)) * 2 * BATCH * LENGTH * linear
    assert count(lambda: step(model)) == dense - saved


def test_a_gate_probe_costs_a_forward_and_input_gradients():
    """Per micro-batch: two thirds of the linear products, less the first layer's query, key and value."""
    model = meta(layers=3)
    controller = attach(model, axis="width", probe_batches=1)
    controller.set_share(0.25)
    layer = model.config
    tokens, width = BATCH * LENGTH, layer.hidden_size
    linear = 2 * tokens * 3 * (2 * width * width + 2 * width * 16 + 3 * width * 64)
    head = 2 * tokens * model.lm_head.weight.numel()
    scores = 3 * 4 * BATCH * LENGTH * LENGTH * width
    first = 2 * tokens * (width * width + 2 * width * 16) + 2 * scores // 3  # no gradient below the first gate
    assert count(controller.probe) == 2 * (linear + head) + 3 * scores - first


def test_a_freeze_probe_costs_a_dense_step():
    model = meta(layers=4)
    dense = count(lambda: step(model))
    controller = attach(model, mode="freeze", probe_batches=3)
    controller.set_share(0.25)
    assert count(controller.probe) == 3 * dense


def test_a_whole_schedule_runs_on_meta_tensors():
    width = {"axis": "width"}
    for settings in ({}, width, {"mode": "freeze"}, {**width, "score": "magnitude"}, {**width, "entry": "random"}):
        model = meta(layers=2)
        controller = attach(model, **settings)
        optimizer = controller.optimizer
        for at in range(100):
            if controller.due(at):
                controller.begin_step(at)
                optimizer.zero_grad()
                step(model)
                optimizer.step()
            controller.end_step(at)
        sat.densify_(model)
        assert count(lambda: step(model)) > 0  # noqa: B023
