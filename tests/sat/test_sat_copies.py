"""A copy of a sparsified model is a sparsified model, with an optimizer and a controller of its own."""

from __future__ import annotations

import copy

import pytest
from sat_models import adamw, attach, llama, loss_of, tokens

WIDTH = {"axis": "width", "schedule": ((0.0, 0.3), (0.6, 1.0))}
ROTATING = {"axis": "width", "schedule": ((0.0, 0.5),), "regime": "rotating", "interval": 2, "swap_until": 1.0}


def steps(model, controller, first, last):
    losses = []
    for step in range(first, last):
        loss = model(input_ids=tokens(step), labels=tokens(step)).loss
        loss.backward()
        controller.optimizer.step()
        controller.step()
        controller.optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    "settings",
    [
        {"axis": "depth", "schedule": ((0.0, 0.3), (0.6, 1.0)), "rate_exponent": 0.5, "rewarm_steps": 3},
        {**WIDTH, "score": "taylor", "observe_every": 1},
        {**ROTATING, "score": "random", "swap_share": 1.0, "ramp_steps": 6},
        {"mode": "backward_drop", "score": "random", "interval": 2},
    ],
    ids=["depth", "width", "ramp", "backward_drop"],
)
def test_a_copy_trains_as_the_original_does(settings):
    model = llama()
    controller = attach(model, adamw(model), 12, **settings)
    steps(model, controller, 0, 5)
    other = copy.deepcopy(model)
    theirs = steps(other, other._sat_controller, 5, 12)  # alone: nothing of the original moves meanwhile
    assert theirs == steps(model, controller, 5, 12)
    assert other._sat_controller.report() == controller.report()


def test_a_copy_can_not_probe_with_the_loss_of_the_original():
    model = llama()
    attach(model, adamw(model), 12, **WIDTH)
    other = copy.deepcopy(model)
    with pytest.raises(ValueError, match="the probe loss depends on no unit"):
        other._sat_controller.probe()
    other._sat_controller._loss = loss_of(other)
    assert other._sat_controller.probe()
