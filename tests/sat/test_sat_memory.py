"""What lies where: bytes on the device against the active share, and a bank that really is somewhere else."""

from __future__ import annotations

import pytest
import torch
from sat_models import adamw, attach, llama, loss_of, train

import sat
import sat.memory
from sat.parts.bank import Bank

ROTATING = {"regime": "rotating", "score": "random", "interval": 3, "schedule": ((0.0, 0.4), (0.5, 0.6))}
AXES = ["depth", "width"]


def trained_for_a_step(model, optimizer):
    loss_of(model)(0).backward()
    optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_with_the_bank_on_the_host_memory_follows_the_active_share(axis, share, fused):
    dense = llama(hidden=64, mlp=128, kv_heads=4)
    optimizer = adamw(dense, fused=fused)
    trained_for_a_step(dense, optimizer)
    full = sat.memory.memory(dense, optimizer, [], bank_on_host=True)
    weights = sum(p.nbytes for p in dense.parameters())
    assert full.gradients == weights
    assert 2 * weights < full.optimizer_state < 2.01 * weights  # two moments and the counters
    assert full.on_device < 4.05 * weights

    model = llama(hidden=64, mlp=128, kv_heads=4)
    optimizer = adamw(model, fused=fused)
    trained_for_a_step(model, optimizer)  # optimizer state of what will be out is there already
    controller = attach(model, optimizer, axis=axis, bank="host", schedule=((0.0, share), (0.5, 1.0)))
    optimizer.zero_grad()
    trained_for_a_step(model, optimizer)
    now, active = controller.memory(), controller.report().active_parameters
    assert active < 0.7
    for ours, theirs in (
        (now.parameters, full.parameters),
        (now.gradients, full.gradients),
        (now.optimizer_state, full.optimizer_state),
        (now.on_device, full.on_device),
    ):
        assert ours <= 1.02 * active * theirs
    assert now.bank > 0
    assert "on the host" in str(now)


@pytest.mark.parametrize("axis", AXES)
def test_a_bank_on_the_device_counts_there(axis):
    model = llama()
    optimizer = adamw(model)
    trained_for_a_step(model, optimizer)
    controller = attach(model, optimizer, axis=axis, schedule=((0.0, 0.5), (0.5, 1.0)))
    now = controller.memory()
    assert now.on_device == now.parameters + now.gradients + now.optimizer_state + now.bank
    sat.densify_(model)
    assert sat.memory.memory(model, optimizer, controller.parts, bank_on_host=False).bank == 0


def test_memory_is_counted_without_any_on_meta():
    with torch.device("meta"):
        model = llama()
    controller = attach(model, None, axis="width", bank="host", score="random", schedule=((0.0, 0.5), (0.5, 1.0)))
    tensors = [*model.parameters(), *model.buffers()]
    assert controller.memory().parameters == sum(tensor.nbytes for tensor in tensors) < 2 * controller.memory().bank


class Elsewhere:
    """Moves as to another device: copies, and leaves nothing that could be read by mistake."""

    def __init__(self):
        self.moves = 0

    def move(self, tensor):
        copy = tensor.clone()
        tensor.fill_(float("nan") if tensor.is_floating_point() else -1)
        self.moves += 1
        return copy


@pytest.mark.parametrize("axis", AXES)
def test_a_bank_that_is_somewhere_else_gives_the_same_training(axis, monkeypatch):
    """There is no second device here: a move is a copy that ruins what it leaves behind."""
    runs = []
    for elsewhere in (None, Elsewhere()):
        if elsewhere is not None:
            monkeypatch.setattr(Bank, "away", lambda self, tensor, other=elsewhere: other.move(tensor))
            # what comes back is a copy too, but the bank of a width site stays as it is
            monkeypatch.setattr(Bank, "back", lambda self, tensor, device: tensor.clone())
        model = llama()
        optimizer = adamw(model)
        score = "gate_probe" if axis == "width" else "random"
        controller = attach(model, optimizer, 16, axis=axis, bank="host", **ROTATING | {"score": score})
        losses = train(model, optimizer, controller, 0, 8)
        state = controller.state_dict()
        losses += train(model, optimizer, controller, 8, 16)
        runs.append((losses, state["model"], sat.densify_(model).state_dict()))
    assert runs[0][0] == runs[1][0]
    for ours, theirs in zip(runs[0][1:], runs[1][1:], strict=True):
        assert all(torch.equal(theirs[name], value) for name, value in ours.items())
    assert elsewhere.moves > 20


@pytest.mark.parametrize("axis", AXES)
def test_a_resume_with_the_bank_on_the_host_is_exact(axis):
    runs = []
    for stop in (False, True):
        model = llama()
        optimizer = adamw(model)
        settings = ROTATING | {"axis": axis, "bank": "host"}
        controller = attach(model, optimizer, 12, **settings)
        losses = train(model, optimizer, controller, 0, 7)
        if stop:
            state = controller.state_dict()
            model = llama(seed=5)
            optimizer = adamw(model)
            controller = attach(model, optimizer, 12, **settings)
            controller.load_state_dict(state)
        runs.append(losses + train(model, optimizer, controller, 7, 12))
    assert runs[0] == runs[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA card")
@pytest.mark.parametrize("axis", AXES)
def test_the_card_agrees(axis):
    """Allocated bytes fall by what the accounting says, and the bank is pinned on the host."""
    torch.cuda.empty_cache()
    base = torch.cuda.memory_allocated()
    model = llama(hidden=512, mlp=2048, kv_heads=4).cuda()
    optimizer = adamw(model, fused=True)
    ids = torch.randint(0, 50, (2, 8), device="cuda")
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    full = torch.cuda.memory_allocated() - base
    config = sat.SATConfig(axis=axis, bank="host", score="order" if axis == "depth" else "random",
                           schedule=((0.0, 0.25), (0.5, 1.0)))  # fmt: skip
    controller = sat.sparsify_(model, optimizer, config, total_steps=40)
    optimizer.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    now = torch.cuda.memory_allocated() - base
    assert now == pytest.approx(controller.memory().on_device, rel=0.05)
    assert now <= 1.1 * controller.report().active_parameters * full
    assert all(tensor.is_pinned() for part in controller.parts for tensor in part.banked() if tensor.numel() > 1)
