"""Checkpoints of several processes, by ``torch.distributed.checkpoint``: each rank writes and reads its share.

Model and optimizer state are kept under the plain model's names and in its full shapes, so a checkpoint can be read by
any number of processes, sharded or not. ``get_optimizer_state_dict`` is not used: on loading it drops the state of
parameters that are frozen at that moment, and it invents one for layers that have not trained yet.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from sat.checkpoint import check, load_progress, save_progress
from sat.distributed.shards import settle

if TYPE_CHECKING:
    from sat.controller import Controller

MODEL, OPTIMIZER, SAT = "model", "optimizer", "sat"


def save(controller: Controller, directory: str | Path) -> None:
    """Write all that a resume needs into ``directory``. Every rank calls it.

    Under ``model.*`` lies the plain model's state, which ``torch.distributed.checkpoint`` reads without SAT too; under
    ``optimizer.*`` the optimizer's tensors by parameter name.

    Raises:
        ValueError: the optimizer holds a parameter that is not the model's.
    """
    with controller.plain():
        tensors: dict[str, Any] = {f"{MODEL}.{name}": value for name, value in controller.model.state_dict().items()}
        rest: dict[str, Any] = {"groups": None, "values": {}}
        optimizer = controller.optimizer
        if optimizer is not None:
            names = _names(controller)
            for parameter, held in optimizer.state.items():
                for key, value in held.items():
                    if isinstance(value, Tensor):
                        tensors[f"{OPTIMIZER}.{names[parameter]}.{key}"] = value
                    else:
                        rest["values"].setdefault(names[parameter], {})[key] = value
            rest["groups"] = [
                {**group, "params": [names[parameter] for parameter in group["params"]]}
                for group in optimizer.param_groups
            ]
        tensors[SAT] = _packed({**save_progress(controller), "rest": rest})
        dcp_save(tensors, checkpoint_id=directory, process_group=controller.ranks.group, no_dist=_alone())


def load(controller: Controller, directory: str | Path) -> None:
    """Continue where :func:`save` wrote ``directory``, with any number of processes. Every rank calls it.

    The model must have been sparsified with the same configuration, and the optimizer be of the same class with the
    same groups. Learning-rate schedule and torch's generators are the loop's.

    Raises:
        ValueError: the checkpoint is of another configuration, length, structure or optimizer.
    """
    group = controller.ranks.group
    saved = FileSystemReader(directory).read_metadata()
    packed = torch.empty(_size(saved, SAT), dtype=torch.uint8)
    dcp_load({SAT: packed}, checkpoint_id=directory, process_group=group, no_dist=_alone())
    progress = torch.load(io.BytesIO(packed.numpy().tobytes()), weights_only=True)
    rest = progress.pop("rest")
    optimizer = controller.optimizer
    if (rest["groups"] is None) != (optimizer is None):
        raise ValueError(f"{directory}: the checkpoint and the controller must both have an optimizer, or neither")
    check(controller, progress)
    settle(controller.model)
    controller.ramp.stop()
    for part in controller.parts:
        part.switch(tuple(range(part.units)))
    model = controller.model.state_dict()
    tensors: dict[str, Any] = {f"{MODEL}.{name}": value for name, value in model.items()}
    states: dict[str, dict[str, Any]] = {}
    names = _names(controller)
    parameters = {name: parameter for parameter, name in names.items()}
    for path, storage in saved.state_dict_metadata.items():
        if path.startswith(f"{OPTIMIZER}.") and isinstance(storage, TensorStorageMetadata):
            name, _, key = path.removeprefix(f"{OPTIMIZER}.").rpartition(".")
            if name not in parameters:
                raise ValueError(f"{directory}: it has optimizer state of {name!r}, which the model has not")
            tensors[path] = states.setdefault(name, {})[key] = _empty(storage, parameters[name], key)
    dcp_load(tensors, checkpoint_id=directory, process_group=group, no_dist=_alone())
    controller.model.load_state_dict(model)
    if optimizer is not None:
        _take_over(controller, names, rest, states, directory)
    load_progress(controller, progress)


def _alone() -> bool:
    """Whether this is an ordinary process; torch would warn of it."""
    return not (dist.is_available() and dist.is_initialized())


def _take_over(
    controller: Controller,
    names: dict[Tensor, str],
    rest: dict[str, Any],
    states: dict[str, dict[str, Any]],
    directory: str | Path,
) -> None:
    assert controller.optimizer is not None
    groups = controller.optimizer.param_groups
    ours = [[names[parameter] for parameter in group["params"]] for group in groups]
    if ours != [group["params"] for group in rest["groups"]]:
        raise ValueError(f"{directory}: the optimizer's groups hold other parameters there than here")
    for group, theirs in zip(groups, rest["groups"], strict=True):
        group.update({key: value for key, value in theirs.items() if key != "params"})
    controller.optimizer.state.clear()
    for parameter, name in names.items():
        held = {**states.get(name, {}), **rest["values"].get(name, {})}
        if held:
            controller.optimizer.state[parameter] = held


def _names(controller: Controller) -> dict[Tensor, str]:
    """Of the model's parameters in the plain model. Call in its full shape."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in controller.model.named_parameters()}
    for group in controller.optimizer.param_groups if controller.optimizer is not None else ():
        for at, parameter in enumerate(group["params"]):
            if parameter not in names:
                raise ValueError(
                    f"parameter {at} of an optimizer group is not one of the model's (shape {tuple(parameter.shape)}): "
                    "sat.distributed saves one model with its own optimizer"
                )
    return names


def _empty(storage: TensorStorageMetadata, parameter: Tensor, key: str) -> Tensor:
    """Where a saved optimizer tensor is read to: laid out as its parameter, if it has its shape."""
    dtype = storage.properties.dtype
    if storage.size == parameter.shape:
        return torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
    device = torch.device("cpu") if key == "step" else parameter.device
    return torch.empty(storage.size, dtype=dtype, device=device)


def _size(saved: Metadata, path: str) -> torch.Size:
    storage = saved.state_dict_metadata.get(path)
    if not isinstance(storage, TensorStorageMetadata):
        raise ValueError("this checkpoint was not written by sat.distributed.save: it has no entry 'sat'")
    return storage.size


def _packed(value: dict[str, Any]) -> Tensor:
    file = io.BytesIO()
    torch.save(value, file)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
