"""Learning rates of their own for units that came in, and for those that were there."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from sat_models import adamw, attach, llama, tokens, train
from torch import nn

from sat.parts.blocks import gather
from sat.parts.slices import cut_slice
from sat.structure import Cut

OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.1),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=3e-2, momentum=0.9, weight_decay=0.1, nesterov=True),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3, momentum=0.5),
}


def backward(model, step):
    model.zero_grad()
    model(input_ids=tokens(step), labels=tokens(step)).loss.backward()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_layers_train_as_if_they_had_groups_with_learning_rates_of_their_own(kind):
    """Against a plain loop with one group a layer; the second expansion comes while the first still warms up."""
    model = llama().double()
    optimizer = OPTIMIZERS[kind](model.parameters())
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    controller = attach(
        model, optimizer, 20, entry="random", score="order", schedule=((0.0, 0.25), (0.2, 0.5), (0.3, 1.0)),
        rewarm_steps=5, protect_steps=3, protect=0.25,
    )  # fmt: skip

    plain = llama().double()
    whole = plain.model.layers
    groups = [{"params": list(layer.parameters())} for layer in whole]
    inside = {id(p) for group in groups for p in group["params"]}
    oracle = OPTIMIZERS[kind]([*groups, {"params": [p for p in plain.parameters() if id(p) not in inside]}])
    rate = oracle.param_groups[0]["lr"]

    for step in range(14):
        entered = [0, 4, 6, 6]  # at which step each layer comes in
        present = [layer for layer, at in zip(whole, entered, strict=True) if at <= step]
        plain.model.layers = torch.nn.ModuleList(present)
        for number, layer in enumerate(present):
            layer.self_attn.layer_idx = number
        plain.config.num_hidden_layers = len(present)
        expansion = max(at for at in entered if at <= step)
        for group, at in zip(oracle.param_groups, entered, strict=False):
            rising = min(1.0, (step - at + 1) / 5) if at else 1.0
            protected = 0.25 if 0 < expansion <= step < expansion + 3 and at < expansion else 1.0
            group["lr"] = rate * 0.9**step * min(rising, protected)
        oracle.param_groups[-1]["lr"] = rate * 0.9**step
        backward(plain, step)
        oracle.step()
        backward(model, step)
        optimizer.step()
        schedule.step()
        controller.step()
    for ours, theirs in zip(model.parameters(), llama_parameters(plain, whole), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def llama_parameters(model, layers):
    model.model.layers = layers
    return list(model.parameters())


def stepped(optimizer, kind, rates):
    """What a step with ``rates`` times the learning rate would make of every parameter; nothing is changed."""
    found = []
    for rate in rates:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        twins = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
        other = OPTIMIZERS[kind](twins)
        other.param_groups[0]["lr"] *= rate
        for twin, parameter in zip(twins, parameters, strict=True):
            twin.grad = None if parameter.grad is None else parameter.grad.clone()
            other.state[twin] = {key: v.clone() for key, v in optimizer.state[parameter].items()}
        other.step()
        found.append({id(p): twin.detach() for p, twin in zip(parameters, twins, strict=True)})
    return found


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
@pytest.mark.parametrize("regime", ["growing", "rotating", "persistent"])
def test_units_inside_a_tensor_take_their_own_share_of_each_step(kind, regime):
    model = llama(layers=2).double()
    optimizer = OPTIMIZERS[kind](model.parameters())
    shares = ((0.0, 0.25), (0.2, 0.5), (0.6, 1.0)) if regime == "growing" else ((0.0, 0.25), (0.2, 0.5))
    controller = attach(
        model, optimizer, 20, axis="width", score="random", regime=regime, schedule=shares, interval=6, swap_share=0.5,
        swap_until=None, rewarm_steps=4, protect_steps=2, protect=0.0,
    )  # fmt: skip
    since: dict[str, dict[int, int]] = {part.name: dict.fromkeys(part.active, -100) for part in controller.parts}
    expansion = -100
    moved = 0
    for step in range(14):
        backward(model, step)
        rates = sorted({0.0, 0.25, 0.5, 0.75, 1.0})
        outcomes = dict(zip(rates, stepped(optimizer, kind, rates), strict=True))
        optimizer.step()
        for part in controller.parts:
            for position, unit in enumerate(part.active):
                came = since[part.name][unit]
                rate = min(1.0, (step - came + 1) / 4)
                if came < expansion and step < expansion + 2:
                    rate = 0.0
                moved += 0 < rate < 1
                for parameter, cuts in part.cut_parameters():
                    at = torch.tensor([position])
                    ours, expected = (gather(t, cuts, at) for t in (parameter.detach(), outcomes[rate][id(parameter)]))
                    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
        switch = controller.step()
        if switch is not None and switch.entries + switch.returns:
            expansion = step + 1
            for part in controller.parts:
                held = since[part.name]
                since[part.name] = {unit: held.get(unit, step + 1) for unit in part.active}
    assert moved > 20


def cut(dim, size):
    return Cut("weight", nn.Module(), "weight", dim, size)


@pytest.mark.parametrize(
    ("shape", "cuts"),
    [
        ((12, 5), [cut(0, 3)]),
        ((5, 12), [cut(1, 3)]),
        ((5, 24), [cut(1, (4, 2))]),  # two runs of unequal size
        ((12, 8, 3, 3), [cut(0, 3), cut(1, 2)]),
    ],
)
@pytest.mark.parametrize("factors", [{2: 0.3}, {0: 0.3, 7: 0.9}, {0: 0.1, 2: 0.2, 5: 0.3, 7: 0.4}])
def test_every_weight_of_a_unit_takes_its_share_to_the_bit(shape, cuts, factors):
    """Oracle: weight by weight, in the order of operations that is documented."""
    torch.manual_seed(0)
    active = (0, 2, 5, 7)
    before, now = torch.randn(shape), torch.randn(shape)

    def unit(at, along):
        for size in along.sizes:
            if at < size * len(active):
                return active[at // size]
            at -= size * len(active)
        raise AssertionError

    expected = now.clone()
    for place in torch.cartesian_prod(*map(torch.arange, shape)).tolist():
        units = [unit(place[each.dim], each) for each in cuts]
        share = min(factors.get(each, 1.0) for each in units)
        if share != 1.0:
            old, new = before[tuple(place)], now[tuple(place)]
            expected[tuple(place)] = old + torch.tensor(share) * (new - old)
    parameter = before.clone()
    piece = cut_slice(parameter, cuts, active, factors)
    kept = piece.copy()
    parameter.copy_(now)
    piece.keep_share_(kept)
    touched = expected != now
    assert torch.equal(parameter[touched], expected[touched])
    torch.testing.assert_close(parameter[~touched], expected[~touched], rtol=0, atol=1e-6 if len(cuts) > 1 else 0)


def test_a_slice_is_laid_out_anew_only_when_its_units_change(monkeypatch):
    laid_out = []
    original = torch.Tensor.repeat_interleave
    monkeypatch.setattr(torch.Tensor, "repeat_interleave", lambda *a: laid_out.append(1) or original(*a))
    parameter, cuts = torch.randn(12, 5), [cut(0, 3)]
    for share in (0.25, 0.5, 0.75):  # a re-warm-up: the units stay, their shares rise
        piece = cut_slice(parameter, cuts, (0, 2, 5, 7), {2: share})
        assert float(piece.weight.max()) == share
    assert len(laid_out) == 1
    cut_slice(parameter, cuts, (0, 2, 5, 7), {5: 0.5})
    assert len(laid_out) == 2


def test_held_still_means_not_a_bit_moves_and_only_the_units_are():
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 20, entry="random", protect_steps=2, protect=0.0)
    train(model, optimizer, controller, 0, 16)
    trained = [p.detach().clone() for p in model.model.layers[0].parameters()]
    embedding = model.model.embed_tokens.weight.detach().clone()
    train(model, optimizer, controller, 16, 18)
    assert all(torch.equal(p, was) for p, was in zip(model.model.layers[0].parameters(), trained, strict=True))
    assert not torch.equal(model.model.embed_tokens.weight, embedding)
    train(model, optimizer, controller, 18, 19)
    assert not any(torch.equal(p, was) for p, was in zip(model.model.layers[0].parameters(), trained, strict=True))


def test_nothing_is_scaled_before_the_first_expansion_or_after_the_training():
    one, other = llama(), llama()
    a, b = adamw(one), adamw(other)
    warming = attach(one, a, 20, rewarm_steps=3, protect_steps=2, protect=0.5)
    plain = attach(other, b, 20)
    assert train(one, a, warming, 0, 16) == train(other, b, plain, 0, 16)
    warming.begin_step(16)
    warming.finish()
    before = [p.detach().clone() for p in one.parameters()]
    backward(one, 0)
    [whole] = stepped(a, "adamw", [1.0])
    a.step()
    assert all(torch.equal(p, whole[id(p)]) for p in one.parameters())
    assert not all(torch.equal(p, was) for p, was in zip(one.parameters(), before, strict=True))


def test_frozen_layers_that_train_again_warm_up():
    model = llama()
    optimizer = adamw(model)
    controller = attach(
        model, optimizer, 40, mode="freeze", score="random", schedule=((0.0, 0.5),), interval=4, rewarm_steps=4
    )
    seen = set()
    for step in range(12):
        train(model, optimizer, None, step, step + 1)
        part = controller.parts[0]
        seen |= set(controller.pace.factors(part).values())
        assert set(controller.pace.factors(part)) <= set(part.active)
        controller.step()
    assert seen == {0.25, 0.5, 0.75}
    assert all(a < b for a, b in pairwise(sorted(seen)))
