"""A learning rate that follows the share of the model at work."""

from __future__ import annotations

import pytest
import torch
from sat_models import attach, llama, tokens

import sat

GROWING = {"entry": "random", "score": "order", "schedule": ((0.0, 0.5), (0.5, 1.0)), "rate_exponent": 0.5}


def backward(model, step):
    model.zero_grad()
    model(input_ids=tokens(step), labels=tokens(step)).loss.backward()


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_the_shallow_phase_trains_as_a_shallow_model_at_the_larger_rate(kind):
    model, shallow = llama().double(), llama().double()
    optimizer = kind(model.parameters(), lr=1e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    attach(model, optimizer, 8, **GROWING)
    shallow.model.layers = shallow.model.layers[:2]
    shallow.config.num_hidden_layers = 2
    oracle = kind(shallow.parameters(), lr=1e-3, weight_decay=0.1)
    for step in range(4):
        oracle.param_groups[0]["lr"] = 1e-3 * 0.9**step * 2**0.5
        for net, stepper in ((shallow, oracle), (model, optimizer)):
            backward(net, step)
            stepper.step()
        schedule.step()
    for mine, theirs in zip(model.model.layers, shallow.model.layers, strict=False):
        for (name, one), (_, other) in zip(mine.named_parameters(), theirs.named_parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14, msg=name)


def test_the_full_model_trains_at_the_rate_of_its_optimizer():
    model, whole = llama(), llama()
    optimizer, oracle = (torch.optim.AdamW(net.parameters(), lr=1e-3) for net in (model, whole))
    attach(model, optimizer, 8, **{**GROWING, "schedule": ((0.0, 1.0),)})
    for net, stepper in ((model, optimizer), (whole, oracle)):
        backward(net, 0)
        stepper.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole.parameters(), strict=True))


@pytest.mark.parametrize("rate", [1e-3, torch.tensor(1e-3)])
def test_scheduler_and_checkpoint_see_the_rate_of_the_full_model(rate):
    model = llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    attach(model, optimizer, 8, **GROWING)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(float(optimizer.param_groups[0]["lr"])))
    backward(model, 0)
    optimizer.step()
    assert seen == [pytest.approx(1e-3 * 2**0.5)]
    assert float(optimizer.state_dict()["param_groups"][0]["lr"]) == pytest.approx(1e-3, rel=1e-7)
    assert optimizer.param_groups[0]["lr"] is rate  # a captured graph reads the tensor


def test_a_step_that_fails_does_not_raise_the_rate_for_good():
    model = llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    attach(model, optimizer, 8, **GROWING)

    def failing():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        optimizer.step(failing)
    backward(model, 0)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 1e-3


def test_the_plain_model_has_the_rate_of_its_optimizer():
    model = llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    attach(model, optimizer, 8, **GROWING)
    sat.densify_(model)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_a_whole_forward_pass_has_no_smaller_size_to_follow():
    with pytest.raises(ValueError, match="leaves all of it at work; leave rate_exponent out"):
        sat.SATConfig(mode="freeze", rate_exponent=0.5)
