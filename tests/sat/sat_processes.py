"""What the two processes of ``test_sat_distributed.py`` run: cases by name, in one process group."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from sat_conformance import MODES, cells
from sat_families import FAMILIES
from sat_models import adamw, llama, steep, tokens
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import sat
import sat.distributed

STEPS = 8
ARMS: dict[str, dict[str, Any]] = {
    "depth": {"entry": "zero", "schedule": ((0.0, 0.25), (0.3, 0.5), (0.6, 1.0))},
    "depth, interleaved": {"entry": "interleaved", "schedule": ((0.0, 0.25), (0.3, 0.5), (0.6, 1.0))},
    "depth, rotating": {
        "regime": "rotating", "score": "gate_probe", "schedule": ((0.0, 0.5),), "interval": 2, "probe_batches": 1,
        "hysteresis": 0.0, "swap_share": 1.0, "swap_until": None, "ramp_steps": 3,
    },
    "width": {"axis": "width", "schedule": ((0.0, 0.3), (0.4, 0.6), (0.7, 1.0)), "probe_batches": 2},
    "width, rotating": {
        "axis": "width", "regime": "rotating", "score": "taylor", "observe_every": 1, "schedule": ((0.0, 0.4),),
        "interval": 2, "hysteresis": 0.0, "swap_share": 1.0, "swap_until": None, "ramp_steps": 3,
    },
    "width, magnitude": {"axis": "width", "score": "magnitude", "schedule": ((0.0, 0.4), (0.5, 1.0))},
    "freeze": {"mode": "freeze", "interval": 2, "schedule": ((0.0, 0.5),), "probe_batches": 1},
    "freeze, gate_probe": {
        "mode": "freeze", "score": "gate_probe", "interval": 2, "schedule": ((0.0, 0.5),), "probe_batches": 1,
    },
    "backward_drop": {"mode": "backward_drop", "interval": 2, "schedule": ((0.0, 0.5),), "probe_batches": 1},
    "prefix": {"mode": "prefix", "interval": 2, "schedule": ((0.0, 0.75), (0.5, 0.5)), "probe_batches": 1},
}  # fmt: skip


class Training:
    """A tiny Llama in one process, or in two that see half of each batch; the same run in either."""

    def __init__(self, wrap: str, arm: str, rank: int, world: int, *, seed: int = 0, before: bool = False, **more: Any):
        self.rank, self.world = rank, world
        self.model = llama(seed, layers=2 if arm.startswith("width") else 4)
        if wrap == "fsdp":
            for layer in self.model.model.layers:
                fully_shard(layer)
            fully_shard(self.model)
        self.running: torch.nn.Module = self.model
        if wrap == "ddp" and before:
            self.running = DistributedDataParallel(self.model, **more)
        self.optimizer = adamw(self.model)
        self.controller = sat.sparsify_(
            self.model, self.optimizer, sat.SATConfig(**ARMS[arm]), total_steps=STEPS, loss=self.probe_loss
        )
        if wrap == "ddp" and not before:
            self.running = DistributedDataParallel(self.model, **more)

    def batch(self, index: int, size: int = 4) -> torch.Tensor:
        return tokens(index, batch=size).chunk(self.world)[self.rank]

    def probe_loss(self, index: int) -> torch.Tensor:
        ids = self.batch(1000 + index)
        return self.running(input_ids=ids, labels=ids).loss  # after the wrapping this is the DDP object, as in loops

    def run(self, first: int = 0, last: int = STEPS) -> list[float]:
        losses = []
        for step in range(first, last):
            ids = self.batch(step)
            loss = self.running(input_ids=ids, labels=ids).loss
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.controller.step()
            losses.append(mean(loss.detach(), self.world))
        return losses

    def active(self) -> dict[str, tuple[int, ...]]:
        return dict(self.controller.report().active)


def mean(loss: torch.Tensor, world: int) -> float:
    if world > 1:
        dist.all_reduce(loss)
    return float(loss) / world


def trained(wrap: str, arm: str, rank: int, world: int, **more: Any) -> dict[str, Any]:
    training = Training(wrap, arm, rank, world, **more)
    return {"losses": training.run(), "active": training.active(), "exits": training.controller.report().exits}


def family_trained(wrap: str, name: str, mode: str, rank: int, world: int) -> dict[str, Any]:
    """Each process has a micro-batch of its own; one process takes both and their mean."""
    family = FAMILIES[name]
    model = family.make()
    if wrap == "FSDP2":
        if name == "clip":  # FSDP shards no scalars
            model.logit_scale = torch.nn.Parameter(model.logit_scale.detach().reshape(1))
        for stack in family.stacks:
            for layer in model.get_submodule(stack):
                fully_shard(layer)
        fully_shard(model)
    optimizer = adamw(model)
    micro = (rank,) if world > 1 else (0, 1)

    def loss_of(running: torch.nn.Module, index: int) -> torch.Tensor:
        return torch.stack([family.loss(running, 2 * index + at) for at in micro]).mean()

    controller = sat.sparsify_(
        model, optimizer, steep(**MODES[mode]), total_steps=4, loss=lambda i: loss_of(model, 500 + i)
    )
    running = DistributedDataParallel(model) if wrap == "DDP" else model
    losses = []
    for step in range(4):
        loss = loss_of(running, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        controller.step()
        losses.append(mean(loss.detach(), world))
    return {"losses": losses, "active": dict(controller.report().active)}


def accumulated(rank: int, world: int) -> dict[str, Any]:
    """Two backward passes a step, the first without communication; then a plain model under the same DDP."""
    training = Training("ddp" if world > 1 else "none", "width", rank, world)
    losses = []
    for step in range(STEPS + 2):
        if step == STEPS - 3:
            sat.densify_(training.model)
        training.optimizer.zero_grad()
        for at in range(2):
            ids = training.batch(2 * step + at)
            quiet = world > 1 and at == 0
            if quiet:
                with training.running.no_sync():
                    (training.running(input_ids=ids, labels=ids).loss / 2).backward()
                continue
            loss = training.running(input_ids=ids, labels=ids).loss
            (loss / 2).backward()
        training.optimizer.step()
        if step < STEPS - 3:
            training.controller.step()
        losses.append(mean(loss.detach(), world))
    return {"losses": losses, "active": None}


def resumed_from_state(rank: int, world: int) -> dict[str, Any]:
    first = Training("ddp", "width, rotating", rank, world)
    first.run(0, 5)
    state = first.controller.state_dict()
    expected = first.run(5)
    second = Training("ddp", "width, rotating", rank, world, seed=7)
    second.controller.load_state_dict(state)
    return {"expected": expected, "losses": second.run(5)}


def saved_and_loaded(wrap: str, arm: str, directory: Path, rank: int, world: int) -> dict[str, Any]:
    first = Training(wrap, arm, rank, world)
    first.run(0, 3)
    sat.distributed.save(first.controller, directory)
    expected = first.run(3)
    second = Training(wrap, arm, rank, world, seed=7)
    sat.distributed.load(second.controller, directory)
    return {"expected": expected, "losses": second.run(3), "same": second.active() == first.active()}


def other_scores(rank: int, world: int) -> dict[str, Any]:
    """Rank 1 thinks differently of every unit."""
    training = Training("ddp", "width, rotating", rank, world)
    training.run(0, 1)
    if rank == 1:
        for history in training.controller._choice.histories.values():
            history.score = [10.0 * value for value in reversed(history.score)]
    training.run(1, 3)
    masks = training.controller.ranks.gather(training.active())
    return {
        "equal": masks[0] == masks[1],
        "scored": sum(map(sum, (h.score for h in training.controller._choice.histories.values()))),
    }


def fault(change: Callable[[Training], None], rank: int, world: int) -> dict[str, Any]:
    training = Training("ddp", "width, rotating", rank, world)
    training.run(0, 1)
    if rank == 1:
        change(training)
    try:
        training.controller.begin_step(2)
    except ValueError as error:
        return {"error": str(error)}
    return {"error": None}


def exchange_units(training: Training) -> None:
    part = training.controller.parts[1]
    outside = [unit for unit in range(part.units) if unit not in part.active]
    part.switch(tuple(sorted({*part.active[1:], outside[0]})))


def nudge_a_weight(training: Training) -> None:
    with torch.no_grad():
        training.model.model.norm.weight[3] += 1e-3


def other_settings(rank: int, world: int) -> dict[str, Any]:
    model = llama()
    try:
        sat.sparsify_(model, adamw(model), sat.SATConfig(seed=rank), total_steps=4)
    except ValueError as error:
        return {"error": str(error)}
    return {"error": None}


def wrong_order(rank: int, world: int) -> dict[str, Any]:
    found = {}
    wrapped = DistributedDataParallel(llama())
    model = llama()
    for layer in model.model.layers:
        fully_shard(layer)
    late = llama()
    optimizer = adamw(late)
    for name, attempt in {
        "ddp": lambda: sat.sparsify_(wrapped, adamw(wrapped), sat.SATConfig(), total_steps=4),
        "fsdp without a root": lambda: sat.sparsify_(model, adamw(model), sat.SATConfig(), total_steps=4),
        "fsdp afterwards": lambda: shard_late(late, optimizer),
    }.items():
        try:
            attempt()
            found[name] = None
        except ValueError as error:
            found[name] = str(error)
    return found


def shard_late(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    sat.sparsify_(model, optimizer, sat.SATConfig(), total_steps=4)
    fully_shard(model)
    model(input_ids=tokens(0))


def cases(directory: Path) -> dict[str, Callable[[int, int], dict[str, Any]]]:
    found: dict[str, Callable[[int, int], dict[str, Any]]] = {}
    for wrap in ("ddp", "fsdp"):
        for arm in ARMS:
            found[f"{wrap}, {arm}"] = lambda r, w, wrap=wrap, arm=arm: trained(wrap, arm, r, w)
        for arm in ("depth", "width", "freeze"):
            path = directory / f"{wrap}-{arm}"
            found[f"saved, {wrap}, {arm}"] = lambda r, w, a=(wrap, arm, path): saved_and_loaded(*a, r, w)
    for wrap in ("DDP", "FSDP2"):
        for cell in cells(wrap):
            found[", ".join((wrap, *cell))] = lambda r, w, how=(wrap, *cell): family_trained(*how, r, w)
    for option in ("find_unused_parameters", "gradient_as_bucket_view", "static_graph"):
        for arm in ("width", "depth"):
            found[f"{option}, {arm}"] = lambda r, w, o=option, arm=arm: trained("ddp", arm, r, w, **{o: True})
    found["wrapped before"] = lambda r, w: trained("ddp", "width", r, w, before=True)
    found["other weights on rank 1"] = lambda r, w: trained("ddp", "depth", r, w, seed=r)
    found["accumulated"] = accumulated
    found["resumed"] = resumed_from_state
    found["other scores"] = other_scores
    found["exchanged units"] = lambda r, w: fault(exchange_units, r, w)
    found["nudged weight"] = lambda r, w: fault(nudge_a_weight, r, w)
    found["other settings"] = other_settings
    found["wrong order"] = wrong_order
    return found


def documented() -> dict[str, Any]:
    """The script of docs/distributed.md, in an environment as torchrun makes it."""
    text = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text()
    script = text.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(script, names)
    return {"active": names["controller"].report().active_units, "plain": names["model"].module.state_dict()}


def main(rank: int, directory: Path, port: int) -> None:
    """Run every case; a case that fails on one rank may leave the other waiting, so the first failure ends it all."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    results: dict[str, Any] = {"documented": documented()}
    dist.init_process_group("gloo", init_method=f"file://{directory}/meeting", rank=rank, world_size=2)
    for name, case in cases(directory).items():
        try:
            results[name] = case(rank, 2)
        except Exception:
            results[name] = {"failed": traceback.format_exc()}
        (directory / f"rank{rank}").write_bytes(pickle.dumps(results))
        if "failed" in results[name]:
            break
    dist.destroy_process_group()
