"""Freeze: the forward pass is whole, frozen layers get no weight gradient and do not move."""

from __future__ import annotations

import pytest
import torch
from sat_models import adamw, attach, llama, loss_of, snapshot, tokens, train

import sat


def frozen_layers(model):
    return [not any(p.requires_grad for p in layer.parameters()) for layer in model.model.layers]


def test_flags_and_gradients_are_as_promised():
    dense, model = llama(), llama()
    controller = attach(model, adamw(model), mode="freeze", schedule=((0.0, 0.5),))
    active = controller.parts[0].active
    assert frozen_layers(model) == [layer not in active for layer in range(4)]
    loss_of(dense)(0).backward()
    loss = loss_of(model)(0)
    loss.backward()
    assert torch.equal(loss, loss_of(dense)(0))
    for (name, ours), theirs in zip(model.named_parameters(), dense.parameters(), strict=True):
        frozen = name.startswith("model.layers.") and int(name.split(".")[2]) not in active
        assert (ours.grad is None) == frozen, name
        if not frozen:
            assert torch.equal(ours.grad, theirs.grad), name


def test_frozen_layers_do_not_move_and_rotate_by_score():
    model = llama(layers=6)
    optimizer = adamw(model)
    controller = attach(model, optimizer, 60, mode="freeze", interval=5, hysteresis=0.0)
    assert sum(frozen_layers(model)) == 6 - sat.units_kept(6, 0.3)
    sets = set()
    for first in range(0, 60, 5):
        if controller.due(first):
            controller.begin_step(first)
        before, active = snapshot(model), controller.parts[0].active
        sets.add(active)
        train(model, optimizer, controller, first, first + 5)
        for name, now in model.named_parameters():
            frozen = name.startswith("model.layers.") and int(name.split(".")[2]) not in active
            assert torch.equal(now, before[name]) == frozen, name
    report = controller.report()
    assert report.probes == 12
    assert len(sets) > 1
    assert report.active_units == 2 / 6
    assert report.mean_active_units == pytest.approx(2 / 6)


def test_the_chosen_layers_have_the_largest_products_of_weight_and_gradient():
    model, plain = llama(layers=6), llama(layers=6)
    controller = attach(model, adamw(model), mode="freeze", probe_batches=2)
    scores = [0.0] * 6
    for index in range(2):
        plain.zero_grad()
        loss_of(plain)(index).backward()
        for layer in range(6):
            total = sum((p.detach() * p.grad).sum().item() for p in plain.model.layers[layer].parameters())
            scores[layer] += total**2 / 2
    best = sorted(sorted(range(6), key=lambda layer: -scores[layer])[:2])
    assert list(controller.parts[0].active) == best


def test_parameters_that_came_frozen_stay_frozen_and_densify_restores_the_flags():
    model = llama()
    for parameter in model.model.layers[1].parameters():
        parameter.requires_grad_(False)
    model.model.embed_tokens.weight.requires_grad_(False)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    controller = attach(model, optimizer, 20, mode="freeze", interval=2, schedule=((0.0, 0.5),))
    train(model, optimizer, controller, 0, 6)
    assert 1 not in controller.parts[0].active  # without gradients it scores 0
    assert not any(p.requires_grad for p in model.model.layers[1].parameters())
    output = model(input_ids=tokens(0)).logits
    sat.densify_(model)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert torch.equal(model(input_ids=tokens(0)).logits, output)


def test_active_share_over_parameters_counts_what_is_trained():
    model = llama()
    controller = attach(model, adamw(model), mode="freeze", schedule=((0.0, 0.5),))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    assert controller.report().active_parameters == trained / total
    assert 0.5 < trained / total < 0.7
