"""Optimizers under SAT: state cut as it follows its parameter, and everything that stands between loss and step."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from sat_models import adamw, attach, llama, tokens, train
from torch import nn
from torch.optim import Optimizer
from transformers.optimization import Adafactor

import sat
from sat.naming import MLP
from sat.optimizers import described
from sat.parts import CompactSite

UNITS, SIZE, WIDTH = 6, 8, 12
HIDDEN = UNITS * SIZE
VISITS = [(0, 2, 5), (1, 2, 5), (0, 1, 2, 3, 5), (4, 5), (0, 1, 2, 3, 4, 5), (3,)]


class Homemade(Optimizer):
    """State of every kind: a momentum, an average over rows whose dimension is gone, a count of steps."""

    def __init__(self, params, lr=1e-2):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                if not state:
                    state.update(velocity=torch.zeros_like(p), rows=torch.zeros(p.shape[:-1]), count=torch.zeros(3))
                state["velocity"].lerp_(p.grad, 0.1)
                state["count"] += 1
                scale = 1.0
                if p.dim() > 1:
                    state["rows"].lerp_(p.grad.square().mean(-1), 0.1)
                    scale = state["rows"].sqrt().unsqueeze(-1) + state["count"][0]
                else:
                    state.pop("rows", None)
                p.sub_(group["lr"] * state["velocity"] / scale)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """What a test registers, others don't see."""
    monkeypatch.setattr("sat.optimizers._KNOWN", {**sat.optimizers._KNOWN})


def register_homemade():
    sat.register_optimizer(Homemade, {"velocity": sat.Elementwise(), "rows": sat.Reduced(-1), "count": sat.PerTensor()})


def mlp():
    torch.manual_seed(0)
    return nn.ModuleDict({"up": nn.Linear(WIDTH, HIDDEN), "down": nn.Linear(HIDDEN, WIDTH, bias=False)})


def taken(full, rows):
    """By explicit indexing: whichever dimension has the length of the hidden channels is that of the units."""
    for dim in (dim for dim, length in enumerate(full.shape) if length == HIDDEN):
        full = full.movedim(dim, 0)[rows].movedim(0, dim)
    return full.clone(memory_format=torch.contiguous_format)


def put(full, compact, rows):
    for dim in (dim for dim, length in enumerate(full.shape) if length == HIDDEN):
        full.movedim(dim, 0)[rows] = compact.movedim(dim, 0)
        return
    full.copy_(compact)


def groups(module):
    matrices, vectors = (
        [p for p in module.parameters() if p.dim() > 1],
        [p for p in module.parameters() if p.dim() == 1],
    )
    return [{"params": matrices}, {"params": vectors, "lr": 3e-3}]


MAKES = {
    "adamw-fused": lambda g: torch.optim.AdamW(g, lr=1e-2, fused=True),
    "adamw-foreach": lambda g: torch.optim.AdamW(g, lr=1e-2, foreach=True),
    "adamw-loop": lambda g: torch.optim.AdamW(g, lr=1e-2, foreach=False),
    "adam-amsgrad": lambda g: torch.optim.Adam(g, lr=1e-2, amsgrad=True, weight_decay=0.1),
    "sgd": lambda g: torch.optim.SGD(g, lr=1e-2),
    "sgd-momentum": lambda g: torch.optim.SGD(g, lr=1e-2, momentum=0.9, nesterov=True),
    "rmsprop": lambda g: torch.optim.RMSprop(g, lr=1e-3, momentum=0.9, centered=True),
    "adafactor": lambda g: torch.optim.Adafactor(g, lr=1e-2, weight_decay=0.1),
    "adafactor-foreach": lambda g: torch.optim.Adafactor(g, lr=1e-2, foreach=True),
    "adafactor-of-transformers": lambda g: Adafactor(g, lr=1e-2, scale_parameter=False, relative_step=False, beta1=0.9),
    "adafactor-of-transformers-relative": lambda g: Adafactor(g, weight_decay=0.1),
    "homemade": Homemade,
}


def fill_with_means(full, active, before):
    """Units that come in with nothing but zeros get the mean of those that were there."""
    dim = full.shape.index(HIDDEN)
    units = full.movedim(dim, 0).unflatten(0, (UNITS, SIZE))
    for unit in set(active) - set(before):
        if not units[unit].any():
            units[unit] = units[list(before)].mean(0)


FACTORED = {"row_var", "col_var", "variance", "exp_avg_sq_row", "exp_avg_sq_col"}
SQUARED = {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "rows"} | FACTORED


@pytest.mark.parametrize("entry_moment", ["mean", "zero"])
@pytest.mark.parametrize("kind", MAKES)
def test_every_visit_is_a_plain_training_of_the_compact_shapes(kind, entry_moment):
    """Oracle: at each visit a new optimizer of the kind, on plain parameters taken by index from full tensors."""
    register_homemade()
    make = MAKES[kind]
    means = SQUARED if entry_moment == "mean" or "transformers" in kind else FACTORED
    module = mlp()
    optimizer = make(groups(module))
    site = MLP(inputs=["up"], output="down").site(module, "mlp")
    part = CompactSite(site, optimizer, entry_moment=entry_moment)
    weights = {name: p.detach().clone() for name, p in module.named_parameters()}
    states: dict[str, dict[str, torch.Tensor]] = {name: {} for name in weights}
    noise = torch.Generator().manual_seed(1)
    before: tuple[int, ...] = ()
    for active in VISITS:
        part.start_state(sorted(set(active) - set(before)) if before else ())
        part.switch(active)
        rows = torch.tensor([unit * SIZE + row for unit in active for row in range(SIZE)])
        plain = mlp()
        for name, full in weights.items():
            plain.get_parameter(name).data = taken(full, rows)
        theirs = make(groups(plain))
        for name, p in plain.named_parameters():
            for key, full in states[name].items():
                if key in means and HIDDEN in full.shape:
                    fill_with_means(full, active, before)
                theirs.state[p][key] = taken(full, rows) if isinstance(full, torch.Tensor) else full
        for _ in range(3):
            for name, p in plain.named_parameters():
                p.grad = taken(torch.randn(weights[name].shape, generator=noise), rows)
                module.get_parameter(name).grad = p.grad.clone()
            optimizer.step()
            theirs.step()
        for name, p in plain.named_parameters():
            torch.testing.assert_close(module.get_parameter(name), p, rtol=1e-5, atol=1e-7)  # means round
            put(weights[name], p.detach(), rows)
            ours = optimizer.state[module.get_parameter(name)]
            for key, value in theirs.state[p].items():
                torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-7, check_dtype=False)
                if not isinstance(value, torch.Tensor) or value.dim() == 0:  # of the tensor as a whole
                    states[name][key] = copy.deepcopy(value)
                    continue
                shape = [HIDDEN if length == len(rows) else length for length in value.shape]
                put(states[name].setdefault(key, torch.zeros(shape)), value, rows)
        before = active


@pytest.mark.parametrize("axis", ["depth", "width"])
@pytest.mark.parametrize("name", ["adafactor", "sgd-momentum", "rmsprop", "adafactor-of-transformers"])
def test_other_optimizers_train_both_axes_to_the_end(axis, name):
    model = llama()
    optimizer = MAKES[name](model.parameters())
    controller = attach(model, optimizer, 12, axis=axis, schedule=((0.0, 0.3), (0.5, 1.0)))
    losses = train(model, optimizer, controller, 0, 12)
    assert controller.report().active_units == 1.0
    assert max(losses) < 6
    sat.densify_(model)
    assert train(model, optimizer, None, 12, 14)


def test_an_unknown_optimizer_is_named_with_the_way_to_register_it():
    model = llama(layers=2)
    before = dict(model.named_parameters())
    for axis in ("depth", "width"):
        with pytest.raises(ValueError, match=r"optimizer Homemade: .*sat\.register_optimizer\(Homemade, "):
            attach(model, Homemade(model.parameters()), axis=axis)
    assert all(p is before[name] for name, p in model.named_parameters())
    register_homemade()
    attach(model, Homemade(model.parameters()), axis="depth")


def test_the_error_names_the_modules_of_optimizers_that_are_called_alike():
    class Adafactor(Homemade):
        pass

    known = r"Adam, AdamW, SGD, RMSprop, torch\.optim\.Adafactor, transformers\.optimization\.Adafactor, and not"
    with pytest.raises(ValueError, match=rf"optimizer {__name__}\..*Adafactor: SAT knows {known}"):
        described(Adafactor([nn.Parameter(torch.zeros(1))]))


def test_subclasses_are_known_by_their_base():
    class Mine(torch.optim.AdamW):
        pass

    assert described(Mine([nn.Parameter(torch.zeros(1))])) == described(adamw(nn.Linear(1, 1)))


def test_several_optimizers_are_refused():
    model = llama(layers=2)
    with pytest.raises(ValueError, match=r"takes one torch\.optim\.Optimizer, not list; .* groups"):
        attach(model, [adamw(model)])


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (
            {"velocity": sat.Elementwise(), "rows": sat.Elementwise(), "count": sat.PerTensor()},
            r"'rows' of .*up.weight",
        ),
        ({"velocity": sat.Elementwise(), "rows": sat.Reduced(-1)}, r"'count' of .*its description is None"),
    ],
)
def test_state_that_contradicts_its_description_is_an_error(description, message):
    sat.register_optimizer(Homemade, description)
    module = mlp()
    optimizer = Homemade(module.parameters())
    part = CompactSite(MLP(inputs=["up"], output="down").site(module, "mlp"), optimizer)
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    with pytest.raises(ValueError, match=message):
        part.switch((0, 1))


def test_descriptions_are_checked():
    with pytest.raises(ValueError, match="no class derived from torch"):
        sat.register_optimizer(nn.Linear, {})
    with pytest.raises(ValueError, match="'velocity' of Homemade must be described by"):
        sat.register_optimizer(Homemade, {"velocity": "elementwise"})


def plain_loop(model, optimizer, controller, batches, *, accumulate=1, every_batch=False):
    """Losses of optimizer steps of ``accumulate`` micro-batches each."""
    losses, total = [], 0.0
    for index, ids in enumerate(batches):
        loss = model(input_ids=ids, labels=ids).loss / accumulate
        loss.backward()
        total += loss.item()
        last = (index + 1) % accumulate == 0
        if last:
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(total)
            total = 0.0
        if last or every_batch:
            controller.step()
    return losses


GROWING = {"schedule": ((0.0, 0.3), (0.5, 0.6), (0.75, 1.0))}


@pytest.mark.parametrize("axis", ["depth", "width"])
@pytest.mark.parametrize("every_batch", [False, True])
def test_accumulated_gradients_train_as_one_large_batch_does(axis, every_batch):
    """Switches come at optimizer steps only, whether or not ``controller.step`` is called for every micro-batch."""
    large = [tokens(step, batch=4) for step in range(8)]
    small = [half for batch in large for half in batch.split(2)]
    runs = []
    for batches, accumulate in ((large, 1), (small, 2)):
        model = llama()
        optimizer = adamw(model)
        controller = attach(model, optimizer, 8, axis=axis, **GROWING)
        runs.append(plain_loop(model, optimizer, controller, batches, accumulate=accumulate, every_batch=every_batch))
        assert controller.report().steps == 8
        assert controller.report().switches == 3
    assert runs[0] == pytest.approx(runs[1], rel=1e-4)


@pytest.mark.parametrize("axis", ["depth", "width"])
def test_the_norm_that_clips_is_that_of_what_is_active(axis):
    model = llama()
    optimizer = adamw(model)
    attach(model, optimizer, 8, axis=axis, schedule=((0.0, 0.5), (0.5, 1.0)))
    model(input_ids=tokens(0), labels=tokens(0)).loss.backward()
    expected = sum(p.grad.square().sum() for p in model.parameters()).sqrt()
    held = [p for group in optimizer.param_groups for p in group["params"]]
    torch.testing.assert_close(nn.utils.clip_grad_norm_(held, 0.5), expected)
    clipped = sum(p.grad.square().sum() for p in model.parameters()).sqrt()
    torch.testing.assert_close(clipped, torch.tensor(0.5), rtol=1e-4, atol=0)


@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_a_gradient_scaler_leaves_out_do_not_count(fused):
    """The scaler calls a fused optimizer always, and another one only if nothing overflowed."""
    model = llama(layers=2)
    optimizer = adamw(model, fused=fused)
    controller = attach(model, optimizer, 6, axis="width", schedule=((0.0, 0.3), (0.5, 1.0)))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    positions = []
    for batch in range(8):
        loss = model(input_ids=tokens(batch), labels=tokens(batch)).loss
        scaler.scale(loss * (float("inf") if batch in {1, 4} else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        controller.step()
        optimizer.zero_grad()
        positions.append(controller.position)
    assert positions == [1, 1, 2, 3, 3, 4, 5, 6]
    assert controller.report().steps == 6
    assert all(p.isfinite().all() for p in model.parameters())
    steps = {int(state["step"]) for state in optimizer.state.values()}
    assert steps == {6}


@pytest.mark.parametrize("fused", [False, True])
def test_taylor_scores_are_of_unscaled_gradients(fused):
    """A fused optimizer gets scaled gradients, and those of steps that overflowed too."""
    scores = []
    for scale in (1.0, 64.0):
        model = llama(layers=2)
        optimizer = adamw(model, fused=fused)
        controller = attach(model, optimizer, 8, axis="width", score="taylor", observe_every=1, schedule=((0.0, 1.0),))
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale != 1.0)
        for batch in (0, 1, 2):
            loss = model(input_ids=tokens(batch), labels=tokens(batch)).loss
            if scale != 1.0 and batch == 1:
                scaler.scale(loss * float("inf")).backward()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                loss = model(input_ids=tokens(batch), labels=tokens(batch)).loss
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            controller.step()
            optimizer.zero_grad()
        scores.append([part["score"] for part in controller.progress()["parts"].values()])
    for plain, scaled in zip(*scores, strict=True):
        assert scaled == pytest.approx(plain, rel=1e-3)


def test_a_learning_rate_schedule_reaches_parameters_that_changed_shape():
    runs = []
    for by_hand in (False, True):
        model = llama()
        optimizer = adamw(model)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
        rates = []
        controller = attach(model, optimizer, 10, axis="width", **GROWING)
        for step in range(10):
            if by_hand:
                for group in optimizer.param_groups:
                    group["lr"] = runs[0][1][step]
            rates.append(optimizer.param_groups[0]["lr"])
            model(input_ids=tokens(step), labels=tokens(step)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if not by_hand:
                scheduler.step()
            controller.step()
        runs.append((sat.state_dict(model), rates))
    assert len(set(runs[0][1])) == 10
    assert all(torch.equal(runs[1][0][name], value) for name, value in runs[0][0].items())


@pytest.mark.parametrize("fused", [False, True])
def test_addresses_stay_while_the_count_does(fused):
    """A captured CUDA graph goes on reading and writing where it was captured."""
    model = llama()
    optimizer = adamw(model, fused=fused)
    settings = {"regime": "rotating", "interval": 2, "score": "random", "ramp_steps": 0, "explore": 0.0}
    controller = attach(model, optimizer, 8, axis="width", schedule=((0.0, 0.5),), **settings)
    seen = []
    for step in range(8):
        model(input_ids=tokens(step), labels=tokens(step)).loss.backward()
        optimizer.step()
        controller.step()
        optimizer.zero_grad(set_to_none=False)
        states = itertools.chain.from_iterable(state.values() for state in optimizer.state.values())
        tensors = [*model.parameters(), *(p.grad for p in model.parameters()), *states]
        seen.append([tensor.data_ptr() for tensor in tensors])
    assert controller.report().swaps > 0
    assert all(addresses == seen[0] for addresses in seen)
