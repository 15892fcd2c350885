"""A resume restores weights, bank, masks, scores, schedule and ramps exactly."""

from __future__ import annotations

import io

import pytest
import torch
from sat_models import adamw, attach, llama, train

import sat

ARMS = {
    "depth": {},
    "depth, interleaved": {"entry": "interleaved", "schedule": ((0.0, 0.25), (0.3, 0.5), (0.6, 1.0))},
    "depth, split": {
        "entry": "split", "entry_state": "copied", "schedule": ((0.0, 0.25), (0.3, 0.5), (0.6, 1.0)),
        "rewarm_steps": 5, "protect_steps": 4, "protect": 0.3,
    },
    "width": {"axis": "width"},
    "width, random": {"axis": "width", "score": "random"},
    "width, taylor": {"axis": "width", "score": "taylor", "observe_every": 2},
    "width, rotating": {
        "axis": "width", "regime": "rotating", "schedule": ((0.0, 0.4),), "interval": 3, "ramp_steps": 5,
        "hysteresis": 0.0, "swap_share": 1.0, "swap_until": None, "explore": 0.3,
        "rewarm_steps": 4, "protect_steps": 2, "protect": 0.5,
    },
    "freeze": {"mode": "freeze", "interval": 4, "schedule": ((0.0, 0.5),)},
}  # fmt: skip


def model_of(arm, seed=0):
    return llama(seed, layers=2 if arm.startswith("width") else 4)


def through_disk(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    ("arm", "stop"), [*[(arm, 9) for arm in ARMS], ("depth, split", 12), ("width", 15), ("width, rotating", 4)]
)
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(arm, stop):
    steps = 16
    whole = model_of(arm)
    whole_optimizer = adamw(whole)
    whole_controller = attach(whole, whole_optimizer, steps, start=False, **ARMS[arm])
    expected = train(whole, whole_optimizer, whole_controller, 0, steps)

    first = model_of(arm)
    optimizer = adamw(first)
    controller = attach(first, optimizer, steps, start=False, **ARMS[arm])
    losses = train(first, optimizer, controller, 0, stop)
    state = through_disk(controller.state_dict())

    second = model_of(arm, seed=9)  # other weights: all must come from the state
    optimizer = adamw(second)
    controller = attach(second, optimizer, steps, start=False, **ARMS[arm])
    controller.load_state_dict(state)
    losses += train(second, optimizer, controller, stop, steps)

    assert losses == expected
    assert controller.progress() == whole_controller.progress()
    assert controller.report() == whole_controller.report()
    ours, theirs = sat.state_dict(second), sat.state_dict(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ours, theirs = sat.densify_(second).state_dict(), sat.densify_(whole).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("arm", ["depth", "width", "freeze"])
def test_equal_seeds_give_equal_trainings(arm):
    runs = []
    for _ in range(2):
        model = model_of(arm)
        optimizer = adamw(model)
        controller = attach(model, optimizer, 16, **ARMS[arm])
        runs.append((train(model, optimizer, controller, 0, 16), controller.report()))
    assert runs[0] == runs[1]


def test_random_masks_follow_the_seed_and_not_torchs_generator():
    def active(seed, noise):
        model = llama(layers=2)
        torch.manual_seed(noise)
        return attach(model, adamw(model), axis="width", score="random", seed=seed).report().active

    assert active(1, 0) == active(1, 5)
    assert active(1, 0) != active(2, 0)


@pytest.mark.parametrize("arm", ["depth", "width", "freeze"])
def test_the_plain_state_has_the_plain_models_names_and_shapes(arm):
    plain = {name: value.shape for name, value in llama().state_dict().items()}
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 24, **ARMS[arm])
    train(model, optimizer, controller, 0, 5)
    kept = [p.shape for p in model.parameters()]
    assert {name: value.shape for name, value in sat.state_dict(model).items()} == plain
    assert [p.shape for p in model.parameters()] == kept
    state = controller.state_dict()
    fresh = llama(seed=3)
    other = adamw(fresh)
    fresh.load_state_dict(state["model"])
    other.load_state_dict(state["optimizer"])  # a dense training can take it from here
    assert train(fresh, other, None, 5, 8)
    for parameter, held in other.state.items():
        assert held["exp_avg"].shape == parameter.shape


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"total_steps": 25}, "its total_steps is 24, ours 25"),
        ({"seed": 1}, "its config is"),
        ({"layers": 3}, "this SAT state is of another model"),
    ],
)
def test_a_state_of_something_else_is_refused(change, text):
    model = llama()
    state = attach(model, adamw(model), 24, axis="width").state_dict()
    other = llama(layers=change.get("layers", 4))
    controller = attach(other, adamw(other), change.get("total_steps", 24), axis="width", seed=change.get("seed", 0))
    with pytest.raises(ValueError, match=text):
        controller.load_state_dict(state)


def test_a_plain_loop_needs_only_step():
    """``controller.step()`` after ``optimizer.step()`` trains exactly as the calls one by one do."""
    for arm in ("width, taylor", "freeze"):
        one, other = model_of(arm), model_of(arm)
        a, b = adamw(one), adamw(other)
        first, second = attach(one, a, 16, **ARMS[arm]), attach(other, b, 16, **ARMS[arm])
        expected = train(one, a, first, 0, 16)
        losses = []
        for step in range(16):
            losses += train(other, b, None, step, step + 1)
            second.step()
        assert losses == expected
        assert first.report() == second.report()
