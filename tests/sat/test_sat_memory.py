"""What lies where: bytes on the device against the active share, and a bank that really is somewhere else."""

from __future__ import annotations

import gc

import pytest
import sat_memory
import torch
from sat_models import adamw, attach, llama, loss_of, train
from torch import Tensor

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
    assert elsewhere.moves > 10


class Separate:
    """A host beside a device, both made of copies: counts what is on the device, and what came there from the bank."""

    def __init__(self, monkeypatch):
        self.host = {}  # by storage; kept, so that no other storage is taken for one of them
        self.brought = self.written = 0
        self.counts = None  # of bytes on the device after each move to it, where wanted
        monkeypatch.setattr(Bank, "away", lambda _, tensor: self.away(tensor))
        monkeypatch.setattr(Bank, "back", lambda _, tensor, device: self.back(tensor))
        monkeypatch.setattr(Bank, "keep", lambda _, home, used: self.keep(home, used))

    def away(self, tensor):
        if not self.is_away(tensor):
            tensor = tensor.clone()
            self.host[storage(tensor)] = tensor
        return tensor

    def back(self, tensor):
        if self.is_away(tensor):
            self.brought += tensor.nbytes
            tensor = tensor.clone()
            if self.counts is not None:
                self.counts.append(self.on_device())
        return tensor

    def keep(self, home, used):
        self.written += used.nbytes
        home.copy_(used)

    def is_away(self, tensor):
        return storage(tensor) in self.host

    def on_device(self):
        found = {storage(tensor): tensor.untyped_storage().nbytes() for tensor in tensors()}
        return sum(size for where, size in found.items() if where not in self.host)


def tensors():
    """All that came after gc.freeze()."""
    gc.collect()
    for each in gc.get_objects():
        if issubclass(type(each), Tensor) and each.device.type == "cpu":
            yield each
            if each.is_leaf and each.grad is not None:
                yield each.grad


def storage(tensor):
    return tensor.untyped_storage()._cdata


SMALL = 20_000  # bytes: gates, generators' states, copies of buffers


@pytest.fixture(params=AXES)
def away(request, monkeypatch):
    """Half a training on the device, the other half, with its optimizer state, in a bank on the host."""
    gc.collect()
    gc.freeze()
    separate = Separate(monkeypatch)
    model = llama(layers=2, hidden=64, mlp=256, kv_heads=4)
    optimizer = adamw(model)
    trained_for_a_step(model, optimizer)
    schedule = ((0.0, 0.5), (0.9, 1.0))
    controller = attach(model, optimizer, axis=request.param, bank="host", score="gate_probe", schedule=schedule)
    trained_for_a_step(model, optimizer)
    separate.brought = 0
    yield separate, model, controller
    gc.unfreeze()


def test_a_gate_probe_brings_the_weights_and_no_optimizer_state(away):
    separate, model, controller = away
    memory, seen = controller.memory(), []
    controller._loss = lambda index: seen.append(separate.on_device()) or loss_of(model)(index)
    assert separate.on_device() == pytest.approx(memory.on_device, abs=SMALL)
    controller.probe()
    assert max(seen) == pytest.approx(memory.in_probe, abs=SMALL)
    assert memory.in_probe > memory.on_device + 10 * SMALL
    assert separate.on_device() == pytest.approx(memory.on_device, abs=SMALL)


def test_a_gate_probe_leaves_the_bank_as_it_is(away):
    """What is there need not be pinned again, nor sent back."""
    separate, _, controller = away
    before, homes = [tensor.data_ptr() for part in controller.parts for tensor in part.banked()], len(separate.host)
    controller.probe()
    assert [tensor.data_ptr() for part in controller.parts for tensor in part.banked()] == before
    assert (len(separate.host), separate.written) == (homes, 0)


def test_magnitudes_bring_one_tensor_after_the_other(away):
    separate, _, controller = away
    separate.counts = []
    found = {part.name: part.magnitudes() for part in controller.parts}
    largest = max(tensor.nbytes for part in controller.parts for tensor in part.lent())
    assert max(separate.counts) <= controller.memory().on_device + largest + SMALL
    controller.withdraw()
    for part in controller.parts:
        torch.testing.assert_close(found[part.name], part.magnitudes())


SAVES = {
    "weights": lambda model, controller, path: sat.state_dict(model),
    "pretrained": lambda model, controller, path: model.save_pretrained(path),
    "resume": lambda model, controller, path: controller.state_dict(),
}


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_a_save_brings_the_weights_only(away, save, tmp_path):
    separate, model, controller = away
    lent = controller.memory().lent
    save(model, controller, tmp_path)
    assert (separate.brought, separate.written) == (lent, 0)


def test_the_plain_model_needs_what_a_probe_needs(away):
    separate, model, controller = away
    memory = controller.memory()
    with sat.plain(model):
        assert separate.on_device() == pytest.approx(memory.in_probe, abs=SMALL)


def test_what_is_written_to_the_plain_model_stays(away):
    _, model, controller = away
    before = sat.state_dict(model)
    with sat.plain(model), torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    after = sat.state_dict(model)
    with sat.plain(model):
        names = [name for name, _ in model.named_parameters()]
    assert all(torch.equal(after[name], before[name] + 1.0) for name in names)
    controller.withdraw()  # as the weights are, without an entry
    assert all(torch.equal(parameter, before[name] + 1.0) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("axis", AXES)
def test_the_study_counts_a_probe_as_the_whole_bank_of_weights(axis):
    """Nothing has trained yet that is out, so there is nothing but weights in the bank."""
    row = sat_memory.row("0.1M", axis, 0.25)
    assert row.probe_bytes == row.device_bytes + row.host_bytes > row.device_bytes
    full = sat_memory.row("0.1M", axis, 1.0)
    assert full.probe_bytes == full.device_bytes


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
