"""Layers that enter as shares of the layer below, and the optimizer state they enter with."""

from __future__ import annotations

import warnings

import pytest
import torch
from sat_families import FAMILIES
from sat_models import adamw, attach, llama, tokens, train

import sat
from sat.parts.blocks import gather

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


def noisy_step(model, optimizer, seed):
    """A step on gradients of one size everywhere."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    optimizer.step()


def moves(model, optimizer, controller, fresh, seed):
    """Root mean square of a step of the units that are new, as a multiple of that of the others."""
    held = [(part, p, cuts, p.detach().clone()) for part in controller.parts for p, cuts in part.cut_parameters()]
    noisy_step(model, optimizer, seed)
    squares = {True: [], False: []}
    for part, parameter, cuts, before in held:
        for at, unit in enumerate(part.active):
            moved = gather(parameter.detach() - before, cuts, torch.tensor([at]))
            squares[unit in fresh[part.name]].append(moved.square().mean())
    return (torch.stack(squares[True]).mean() / torch.stack(squares[False]).mean()).sqrt().item()


def expanded(share=1.0, *, beta2=0.999, steps=200, **settings):
    """A model whose width has grown from a half to ``share`` after ``steps`` steps, and its new units by part."""
    model = llama(layers=1, mlp=128)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, betas=(0.9, beta2))
    schedule = ((0.0, 0.5), (0.5, 1.0))
    controller = attach(model, optimizer, 20, axis="width", score="random", schedule=schedule, **settings)
    for step in range(steps):
        noisy_step(model, optimizer, step)
    before = {part.name: part.active for part in controller.parts}
    controller.set_share(share)
    fresh = {part.name: set(part.active) - set(before[part.name]) for part in controller.parts}
    return model, optimizer, controller, fresh


@pytest.mark.parametrize("beta2", [0.95, 0.999])
def test_the_first_updates_of_new_width_have_the_size_of_the_others(beta2):
    model, optimizer, controller, fresh = expanded(beta2=beta2, entry_moment="mean")
    sizes = [moves(model, optimizer, controller, fresh, 900 + step) for step in range(40)]
    assert sizes[0] > 0.35  # from a first moment of zero: (1 - b1) against sqrt((1 - b1) / (1 + b1)), .44
    assert min(sizes[12:]) > 0.9
    assert max(sizes) < 1.15


def test_without_a_second_moment_the_first_updates_are_too_large():
    model, optimizer, controller, fresh = expanded(entry_moment="zero")
    assert moves(model, optimizer, controller, fresh, 900) > 5


@pytest.mark.parametrize("share", [0.75, 1.0])
def test_random_width_keeps_the_sum_of_squares_of_what_a_site_writes(share):
    """So that the variance of the site's result stays, where the units' contributions are uncorrelated."""
    before, after = (expanded(at, entry="random", steps=30) for at in (0.5, share))
    (small, small_optimizer, _, _), (large, optimizer, controller, fresh) = before, after
    for site in ("mlp.down_proj", "self_attn.o_proj"):
        ours, theirs = (model.model.layers[0].get_submodule(site).weight for model in (large, small))
        torch.testing.assert_close(ours.square().sum(), theirs.square().sum())
    up, was = (model.model.layers[0].mlp.up_proj.weight for model in (large, small))
    [(part, cuts)] = [(part, cuts) for part in controller.parts for p, cuts in part.cut_parameters() if p is up]
    old = [at for at, unit in enumerate(part.active) if unit not in fresh[part.name]]
    assert 0 < len(old) < len(part.active)
    for key, power in (("exp_avg", 1), ("exp_avg_sq", 2)):
        share_kept = (len(old) / len(part.active)) ** (power / 2)
        expected = small_optimizer.state[was][key] * share_kept
        torch.testing.assert_close(gather(optimizer.state[up][key], cuts, torch.tensor(old)), expected)


def test_random_width_that_replaces_does_not_shrink_what_stays():
    model = llama(layers=1, mlp=128)
    settings = {"regime": "persistent", "score": "random", "swap_share": 0.5, "swap_until": None, "interval": 1}
    controller = attach(model, adamw(model), 20, axis="width", entry="random", schedule=((0.0, 0.5),), **settings)
    before = sat.state_dict(model)["model.layers.0.mlp.down_proj.weight"].unflatten(1, (8, -1))
    part = controller.parts[1]
    kept = set(part.active)
    switch = controller.begin_step(1)
    kept &= set(part.active)
    after = sat.state_dict(model)["model.layers.0.mlp.down_proj.weight"].unflatten(1, (8, -1))
    assert switch.entries > 0
    assert part.units == 8
    for unit in kept:
        assert torch.equal(before[:, unit], after[:, unit])


def test_a_model_that_was_trained_before_is_warned_of():
    """Its layers count as new: their copies and zeros take the place of what they had learned."""
    model = llama()
    optimizer = adamw(model)
    train(model, optimizer, None, 0, 2)
    with pytest.warns(UserWarning, match="come in by entry 'copy', and what they had learned is lost"):
        sat.sparsify_(model, optimizer, sat.SATConfig(), total_steps=4)


def test_units_that_never_trained_in_the_final_model_are_warned_of():
    model = llama()
    sat.sparsify_(model, adamw(model), sat.SATConfig(), total_steps=10)
    with pytest.warns(UserWarning, match="2 of 4 units have never trained, and do nothing"):
        sat.densify_(model)


@pytest.mark.parametrize("entry", ["copy", "interleaved", "random", "split", "zero"])
def test_a_training_that_ends_early_leaves_what_it_had(entry):
    """However units would have come in: what was evaluated last is what is delivered."""
    model = llama()
    sat.sparsify_(model, adamw(model), sat.SATConfig(entry=entry), total_steps=10)
    before = model(tokens(0)).logits
    with pytest.warns(UserWarning, match="have never trained"):
        sat.densify_(model)
    torch.testing.assert_close(model(tokens(0)).logits, before, rtol=0, atol=1e-6)


def test_first_updates_of_several_times_the_rate_are_warned_of():
    model = llama()
    settings = {"axis": "width", "score": "random"}
    with pytest.warns(UserWarning, match=r"3\.2 times the learning rate; entry_moment='mean'"):
        attach(model, torch.optim.AdamW(model.parameters()), **settings)
    sat.densify_(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(model, torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95)), **settings)
