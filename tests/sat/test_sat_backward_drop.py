"""backward_drop: the forward pass is whole, the branches of inactive layers have no backward pass."""

from __future__ import annotations

import pytest
import torch
from sat_families import FAMILIES
from sat_models import adamw, attach, llama, loss_of, train
from torch import nn

import sat

HALF = {"mode": "backward_drop", "schedule": ((0.0, 0.5),)}


class Detached(nn.Module):
    """The oracle: a module whose result no gradient goes through."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    @property
    def weight(self):  # T5 asks its projection for the dtype
        return self.inner.weight

    def forward(self, *args):
        return self.inner(*args).detach()


@pytest.mark.parametrize("name", ["llama", "bert", "marian", "t5-gated", "resnet"])
def test_gradients_are_those_of_layers_whose_branches_are_constants(name):
    """Where norms follow the sums, too: the gradient goes on through the norm."""
    family = FAMILIES[name]
    model, oracle, plain = family.make(), family.make(), family.make()
    controller = sat.sparsify_(model, adamw(model), sat.SATConfig(**HALF, score="random"), total_steps=2)
    structure = sat.families.find_structure(oracle)
    for part, stack in zip(controller.parts, structure.stacks, strict=True):
        assert set(stack.pinned) <= set(part.active)
        for unit in set(range(part.units)) - set(part.active):
            modules = {id(module) for module in stack.outputs[unit]}
            for parent in list(stack.layers[unit].modules()):
                for child, module in list(parent.named_children()):
                    if id(module) in modules:
                        parent.add_module(child, Detached(module))
    ours, theirs = family.loss(model, 0), family.loss(oracle, 0)
    assert torch.equal(ours, theirs)
    assert torch.equal(ours, family.loss(plain, 0))
    ours.backward()
    theirs.backward()
    inactive = [
        f"{part.name}.{unit}." for part in controller.parts for unit in range(part.units) if unit not in part.active
    ]
    expected = {at.replace(".inner.", "."): p.grad for at, p in oracle.named_parameters()}
    assert inactive
    for at, parameter in model.named_parameters():
        if at.startswith(tuple(inactive)) or expected[at] is None:
            assert parameter.grad is None, at
        else:
            assert torch.equal(parameter.grad, expected[at]), at


def test_a_layer_that_is_passed_by_keeps_no_activations():
    model = llama(layers=6)
    attach(model, adamw(model), **{**HALF, "schedule": ((0.0, 0.0),)}, score="random")
    seen = set()
    loss = loss_of(model)(0)
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions if following is not None]
    attentions = [node for node in seen if "ScaledDotProduct" in node.name()]
    assert len(attentions) == 1


def test_layers_rotate_and_return_with_gradients():
    model = llama(layers=6)
    optimizer = adamw(model)
    controller = attach(model, optimizer, 30, mode="backward_drop", interval=5, hysteresis=0.0)
    sets = set()
    for first in range(0, 30, 5):
        controller.begin_step(first)
        active = controller.parts[0].active
        sets.add(active)
        train(model, optimizer, controller, first, first + 5)
        for unit, layer in enumerate(model.model.layers):
            assert all((p.grad is not None) == (unit in active) for p in layer.parameters())
    assert len(sets) > 1
    sat.densify_(model)
    assert not any(module._forward_hooks for module in model.modules())
    loss_of(model)(0).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_reentrant_checkpoints_give_the_same_gradients():
    grads = []
    for kwargs in (None, {"use_reentrant": True}, {"use_reentrant": False}):
        model = llama(layers=4)
        if kwargs:
            model.gradient_checkpointing_enable(kwargs)
        attach(model, adamw(model), **HALF, score="random")
        loss_of(model)(0).backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for other in grads[1:]:
        assert other.keys() == grads[0].keys()
        for name, value in other.items():
            torch.testing.assert_close(value, grads[0][name], rtol=1e-5, atol=1e-7)
