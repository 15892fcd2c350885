"""Moving average of the weights, against a plain loop over full tensors."""

from __future__ import annotations

import pytest
import torch
from sat_families import FAMILIES
from sat_models import adamw, attach, llama, loss_of, tokens

import sat
from sat.parts.bank import Bank

DECAY = 0.8
RUNS = {
    "depth-growing": {"axis": "depth", "schedule": ((0.0, 0.25), (0.4, 0.5), (0.7, 1.0))},
    "depth-copies": {"axis": "depth", "entry": "copy", "schedule": ((0.0, 0.25), (0.5, 1.0))},
    "width-growing": {"axis": "width", "schedule": ((0.0, 0.3), (0.4, 0.5), (0.7, 1.0))},
    "width-rotating": {"axis": "width", "schedule": ((0.0, 0.4),), "regime": "rotating", "interval": 2},
    "depth-rotating": {
        "axis": "depth", "schedule": ((0.0, 0.5),), "regime": "rotating", "interval": 2, "score": "random",
        "swap_share": 1.0,
    },
    "freeze": {"mode": "freeze", "interval": 2},
}  # fmt: skip


def train(model, optimizer, controller, first, last, after, loss=loss_of):
    """``after`` each optimizer step, before the controller's."""
    for step in range(first, last):
        loss(model)(step).backward()
        optimizer.step()
        optimizer.zero_grad()
        after()
        controller.step()


class PlainLoop:
    """The same average over full tensors: every number whose unit is in, one mask per parameter."""

    def __init__(self, model, controller):
        self.model, self.controller = model, controller
        self.average = sat.state_dict(model)
        self.begun = {name: torch.zeros_like(value, dtype=torch.bool) for name, value in self.average.items()}

    def inside(self, name, full):
        mask = torch.ones_like(full, dtype=torch.bool)
        for part in self.controller.parts:
            out = sorted(set(range(part.units)) - set(part.active))
            if self.controller.config.axis == "depth" and name.startswith(part.name):
                unit = int(name.removeprefix(part.name + ".").split(".")[0])
                mask &= unit not in out or self.controller.config.mode == "freeze"
            for cut in getattr(getattr(part, "site", None), "cuts", ()):
                if cut.name == name:
                    rows = [unit * cut.size + row for unit in out for row in range(cut.size)]  # one run each
                    mask.index_fill_(cut.dim, torch.tensor(rows, dtype=torch.long), False)
        return mask

    def shown(self):
        """What has not been averaged is as it is in the model."""
        weights = sat.state_dict(self.model)
        return {name: torch.where(self.begun[name], self.average[name], weights[name]) for name in self.average}

    def update(self):
        for name, weight in sat.state_dict(self.model).items():
            inside, average = self.inside(name, weight), self.average[name]
            start = torch.where(inside & ~self.begun[name], weight, average)
            self.average[name] = torch.where(inside, DECAY * start + (1 - DECAY) * weight, start)
            self.begun[name] |= inside


@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS)
def test_the_average_is_that_of_a_plain_loop_over_full_tensors(settings):
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 12, **settings)
    ema, loop = sat.EMA(model, DECAY), PlainLoop(model, controller)
    for step in range(12):
        train(model, optimizer, controller, step, step + 1, lambda: (ema.update(), loop.update()))
        with ema.applied():  # may be looked at on either side of a switch
            pass
        averages, expected = ema.averages(), loop.shown()
        for name, average in averages.items():
            torch.testing.assert_close(average, expected[name], rtol=1e-5, atol=1e-7)
    assert controller.report().switches > 1


def test_weights_cut_along_two_dimensions_are_averaged_by_both():
    """The middle convolution of a bottleneck; an entry begins when the second of its two units comes in."""
    family = FAMILIES["resnet"]
    model = family.make()
    optimizer = adamw(model)
    config = sat.SATConfig(axis="width", score="random", regime="rotating", interval=2, schedule=((0.0, 0.4),))
    controller = sat.sparsify_(model, optimizer, config, total_steps=6)
    ema, loop = sat.EMA(model, DECAY), PlainLoop(model, controller)
    for step in range(6):
        train(
            model,
            optimizer,
            controller,
            step,
            step + 1,
            lambda: (ema.update(), loop.update()),
            lambda m: lambda i: family.loss(m, i),
        )
    expected = loop.shown()
    for name, average in ema.averages().items():
        torch.testing.assert_close(average, expected[name], rtol=1e-5, atol=1e-7)


def test_evaluation_sees_the_averages_and_leaves_the_weights():
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 8, **RUNS["width-growing"])
    ema = sat.EMA(model, DECAY)
    train(model, optimizer, controller, 0, 2, ema.update)
    own, averages = sat.state_dict(model), ema.averages()
    with ema.applied() as averaged:
        part = controller.parts[1]
        cut = part.site.cuts[0]
        rows = [unit * cut.size + row for unit in part.active for row in range(cut.size)]
        assert averaged is model
        assert torch.equal(cut.tensor, averages[cut.name][rows])
        assert not torch.equal(cut.tensor, own[cut.name][rows])
    assert all(torch.equal(value, own[name]) for name, value in sat.state_dict(model).items())


@pytest.mark.parametrize("bank", ["device", "host"])
@pytest.mark.parametrize("name", ["depth-growing", "depth-rotating", "width-rotating"])
def test_averages_become_the_weights_before_the_model_is_made_plain(name, bank, monkeypatch):
    if bank == "host":  # somewhere else, really
        monkeypatch.setattr(Bank, "away", lambda self, tensor: tensor.clone())
        monkeypatch.setattr(Bank, "back", lambda self, tensor, device: tensor.clone())
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 8, bank=bank, **RUNS[name])
    ema = sat.EMA(model, DECAY)
    train(model, optimizer, controller, 0, 7, ema.update)
    averages = ema.averages()
    ema.apply_()
    now = sat.state_dict(model)
    assert all(torch.equal(now[name], value) for name, value in averages.items())
    sat.densify_(model)
    if name == "depth-growing":
        assert all(torch.equal(p, averages[name]) for name, p in model.named_parameters())


def test_a_resumed_average_goes_on_exactly():
    settings = RUNS["width-rotating"]
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 12, **settings)
    ema = sat.EMA(model, DECAY)
    train(model, optimizer, controller, 0, 5, ema.update)
    saved = controller.state_dict(), ema.state_dict()
    train(model, optimizer, controller, 5, 12, ema.update)

    again = llama(seed=3)
    optimizer = adamw(again)
    controller = attach(again, optimizer, 12, **settings)
    other = sat.EMA(again, 0.5)
    controller.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    train(again, optimizer, controller, 5, 12, other.update)
    expected = ema.averages()
    assert all(torch.equal(value, expected[name]) for name, value in other.averages().items())
    with pytest.raises(ValueError, match=r"of another model: .*layers\.2.* is missing there"):
        sat.EMA(llama(layers=3)).load_state_dict(sat.EMA(llama(layers=2)).state_dict())


def test_an_average_begun_on_the_plain_model_goes_on_after_sparsify():
    model = llama(layers=2)
    optimizer = adamw(model)
    ema = sat.EMA(model, DECAY)
    expected = None
    for step in range(3):
        model(input_ids=tokens(step), labels=tokens(step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update()
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        expected = weights if step == 0 else {n: DECAY * expected[n] + (1 - DECAY) * w for n, w in weights.items()}
    controller = attach(model, optimizer, 8, **RUNS["width-growing"])
    train(model, optimizer, controller, 0, 1, ema.update)
    part = controller.parts[1]
    cut = part.site.cuts[0]
    rows = [unit * cut.size + row for unit in part.active for row in range(cut.size)]
    now = DECAY * expected[cut.name][rows] + (1 - DECAY) * cut.tensor
    torch.testing.assert_close(ema.averages()[cut.name][rows], now, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("early", [False, True], ids=["complete", "early"])
def test_an_average_goes_on_over_a_second_sparsify(early):
    model = llama()
    optimizer = adamw(model)
    average = sat.EMA(model, DECAY)
    controller = attach(model, optimizer, 6, axis="width", score="random", schedule=((0.0, 0.3), (0.5, 1.0)))
    train(model, optimizer, controller, 0, 2 if early else 6, average.update)
    sat.densify_(model)
    before = average.averages()
    attach(model, optimizer, 6, axis="depth", schedule=((0.0, 0.5), (0.5, 1.0)))
    after = average.averages()
    assert all(torch.equal(before[name], after[name]) for name in before)
    average.update()
    moved = average.averages()
    embedding = "model.embed_tokens.weight"
    expected = DECAY * before[embedding] + (1 - DECAY) * model.model.embed_tokens.weight
    torch.testing.assert_close(moved[embedding], expected)
    projection = "model.layers.0.mlp.down_proj.weight"
    expected = DECAY * before[projection] + (1 - DECAY) * model.model.layers[0].mlp.down_proj.weight
    torch.testing.assert_close(moved[projection], expected)


SCALING = {
    "split": {"axis": "depth", "entry": "split", "schedule": ((0.0, 0.25), (0.4, 0.5), (0.7, 1.0))},
    "random": {"axis": "width", "entry": "random", "schedule": ((0.0, 0.3), (0.4, 0.5), (0.7, 1.0))},
    "depth at the end": RUNS["depth-rotating"],
    "width at the end": RUNS["width-rotating"],
}


@pytest.mark.parametrize("settings", SCALING.values(), ids=SCALING)
def test_averages_are_multiplied_with_their_weights(settings):
    """At a learning rate of 0 an average that equals its weights goes on to do so, whatever SAT does to them."""
    model = llama()
    optimizer = adamw(model)
    ema = sat.EMA(model, 0.0)
    controller = attach(model, optimizer, 12, **settings)
    train(model, optimizer, controller, 0, 2, ema.update)
    ema.decay = DECAY
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for step in range(2, 12):
        train(model, optimizer, controller, step, step + 1, ema.update)
        weights = sat.state_dict(model)
        assert all(torch.equal(average, weights[name]) for name, average in ema.averages().items())
    sat.densify_(model)
    averages = ema.averages()
    assert all(torch.equal(parameter, averages[name]) for name, parameter in model.named_parameters())
    assert any(part.scaled for part in controller.parts)


def test_an_update_after_the_switch_is_refused():
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 12, **RUNS["width-growing"])
    ema = sat.EMA(model, DECAY)

    def steps():
        for step in range(12):
            loss_of(model)(step).backward()
            optimizer.step()
            controller.step()
            ema.update()

    with pytest.raises(ValueError, match=r"call ema\.update\(\) before controller\.step\(\)"):
        steps()
    assert controller.position == 5  # the first step after which more units come in


def batchwise(model, optimizer, controller, ema):
    for batch in range(24):  # two batches a step
        loss_of(model)(batch).backward()
        if batch % 2:
            optimizer.step()
        ema.update()
        controller.step()


def by_hand(model, optimizer, controller, ema):
    for step in range(12):
        controller.begin_step(step)
        loss_of(model)(step).backward()
        controller.before_optimizer(step)
        optimizer.step()
        controller.end_step(step)
        ema.update()


def now_and_then(model, optimizer, controller, ema):
    train(model, optimizer, controller, 0, 12, lambda: ema.update() if controller.position % 3 == 1 else None)


@pytest.mark.parametrize("loop", [batchwise, by_hand, now_and_then])
def test_loops_that_update_in_time_are_let_through(loop):
    model = llama()
    optimizer = adamw(model)
    controller = attach(model, optimizer, 12, **RUNS["width-growing"])
    loop(model, optimizer, controller, sat.EMA(model, DECAY))
    assert controller.report().switches > 1


def test_a_decay_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"decay must be between 0 and 1, not 1\.5"):
        sat.EMA(llama(layers=1), 1.5)
