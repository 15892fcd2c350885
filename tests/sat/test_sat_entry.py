"""Layers that enter as shares of the layer below, and the optimizer state they enter with."""

from __future__ import annotations

import pytest
import torch
from sat_families import FAMILIES
from sat_models import adamw, attach, llama, tokens, train

SPLIT = {"entry": "split", "schedule": ((0.0, 0.5), (0.5, 1.0))}
OUTPUTS = ("o_proj.weight", "down_proj.weight")


def gentle(layers=4, effect=1.0):
    """A model in float64 whose layers write ``effect`` times as much into the residual stream."""
    model = llama(layers=layers).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(OUTPUTS):
                parameter.mul_(effect)
    return model


def logits(model):
    with torch.no_grad():
        return model(input_ids=tokens(3)).logits


def gradients(model):
    model.zero_grad()
    model(input_ids=tokens(7), labels=tokens(7)).loss.backward()
    return {id(parameter): parameter.grad.clone() for parameter in model.parameters()}


def jump(effect, **settings):
    """How far an expansion to all layers moves the logits."""
    model = gentle(effect=effect)
    controller = attach(model, adamw(model), 20, **settings)
    before = logits(model)
    controller.set_share(1.0)
    return (logits(model) - before).abs().max().item()


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_split_keeps_the_function_up_to_the_square_of_what_the_layers_do(share):
    settings = {"entry": "split", "schedule": ((0.0, share), (0.5, 1.0))}
    coarse, fine = jump(1e-2, **settings), jump(1e-3, **settings)
    assert fine < 1.5e-2 * coarse
    assert jump(1e-3, **{**settings, "entry": "interleaved"}) > 100 * fine


def test_layers_above_their_source_share_its_output_equally():
    model = llama(layers=3)
    optimizer = adamw(model)
    controller = attach(model, optimizer, 20, entry="split")
    train(model, optimizer, controller, 0, 16)
    source = {name: p.detach().clone() for name, p in model.model.layers[0].named_parameters()}
    controller.begin_step(16)
    for layer in model.model.layers:
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(parameter, source[name] / (3 if name.endswith(OUTPUTS) else 1))


@pytest.mark.parametrize("entry_state", ["fresh", "copied"])
def test_moments_follow_the_gradients_of_a_split(entry_state):
    """Where the layers change the stream little, gradients and moments after a split are in the same proportion."""
    model = gentle(effect=1e-4)
    optimizer = adamw(model)
    controller = attach(model, optimizer, 20, entry_state=entry_state, **SPLIT)
    train(model, optimizer, controller, 0, 1)
    with torch.no_grad():  # the step has moved the outputs by the learning rate, which is more than they were
        for name, parameter in model.named_parameters():
            if name.endswith(OUTPUTS):
                parameter.mul_(1e-3)
    sources = [dict(layer.named_parameters()) for layer in model.model.layers]
    was = {id(p): {key: v.clone() for key, v in optimizer.state[p].items()} for p in model.parameters()}
    grads_before = gradients(model)
    controller.set_share(1.0)
    grads_after = gradients(model)
    layers = [dict(layer.named_parameters()) for layer in model.model.layers]
    for source, ours, copy in zip(sources, layers[::2], layers[1::2], strict=True):
        for name in source:
            assert ours[name] is source[name]
            share = 1.0 if name.endswith(OUTPUTS) else 0.5
            expected = grads_before[id(ours[name])] * share
            scale = expected.abs().max().item()
            for parameter in (ours[name], copy[name]):
                torch.testing.assert_close(grads_after[id(parameter)], expected, rtol=0.05, atol=0.05 * scale)
            held = optimizer.state[ours[name]]
            assert torch.equal(held["exp_avg"], was[id(ours[name])]["exp_avg"] * share)
            assert torch.equal(held["exp_avg_sq"], was[id(ours[name])]["exp_avg_sq"] * share**2)
            if entry_state == "fresh":
                assert copy[name] not in optimizer.state
                continue
            theirs = optimizer.state[copy[name]]
            assert all(torch.equal(theirs[key], value) for key, value in held.items())
            assert all(theirs[key] is not value for key, value in held.items())


@pytest.mark.parametrize("entry", ["copy", "interleaved"])
def test_whole_copies_take_over_moments_as_they_are(entry):
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 20, entry=entry, entry_state="copied", schedule=((0.0, 0.25), (0.5, 1.0)))
    train(model, optimizer, controller, 0, 10)
    controller.begin_step(10)
    first, *others = [list(layer.parameters()) for layer in model.model.layers]
    for layer in others:
        for source, copy in zip(first, layer, strict=True):
            held, theirs = optimizer.state[source], optimizer.state[copy]
            assert theirs["step"].item() == 10
            assert all(torch.equal(theirs[key], value) for key, value in held.items())
    train(model, optimizer, controller, 10, 12)
    assert optimizer.state[others[0][0]]["step"].item() == 12


def test_a_split_needs_layers_that_can_be_the_identity():
    model = FAMILIES["bert"].build()
    with pytest.raises(ValueError, match="entry 'split' shares what a layer adds to the residual stream"):
        attach(model, adamw(model), **SPLIT)
