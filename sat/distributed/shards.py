"""FSDP2 (``torch.distributed.fsdp.fully_shard``): parameters are DTensors, each rank holds its share.

Layers that are out of their list stay sharded, and nothing gathers them. Along the width a switch gathers one site at
a time, exchanges its units as on one process, and shards the result; the bank is sharded as the parameters are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from sat.config import SATConfig
from sat.optimizers import Reduced, described
from sat.parts import CompactSite
from sat.parts.blocks import sum_per_unit
from sat.structure import Site

Owners = dict[nn.Parameter, Any]
"""Which ``FSDPParam`` manages a sharded parameter."""


def is_sharded(model: nn.Module) -> bool:
    """Whether ``fully_shard`` was applied to the model or a part of it."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def whole(tensor: Tensor) -> Tensor:
    """A plain tensor of the global value; every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def settle(model: nn.Module) -> None:
    """Put the sharded parameters back in place where the last forward pass left gathered ones (``eval``)."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def prepare(model: nn.Module, optimizer: Optimizer | None, config: SATConfig) -> Owners:
    """Let FSDP see all layers before any is taken out, as its first forward pass would; who manages what.

    Empty for a model that is not sharded.

    Raises:
        ValueError: the model itself is no FSDP module, so what wraps its layers is not known; or a setting that
            sharded parameters can't follow.
    """
    if not is_sharded(model):
        return {}
    if not isinstance(model, FSDPModule):
        raise ValueError(
            f"fully_shard was applied to parts of {type(model).__name__} but not to the whole; call fully_shard(model) "
            "last, then build the optimizer, then sparsify_"
        )
    root = model._get_fsdp_state()
    root._lazy_init()
    owners: Owners = {}
    for state in root._state_ctx.all_states:
        for group in state._fsdp_param_groups:
            owners.update({param.sharded_param: param for param in group.fsdp_params})
    _check(owners, optimizer, config)
    return owners


def _check(owners: Owners, optimizer: Optimizer | None, config: SATConfig) -> None:
    if config.bank == "host":
        raise ValueError("bank 'host' moves whole tensors, and FSDP's are sharded over the ranks: use bank 'device'")
    if config.axis != "width":
        return
    if config.rewarm_steps or config.protect_steps:
        raise ValueError(
            "under FSDP with axis 'width' a unit's rows may lie on two ranks, so its updates can't be scaled alone: "
            "leave rewarm_steps and protect_steps at 0, or use axis 'depth'"
        )
    if optimizer is not None and any(isinstance(kind, Reduced) for kind in described(optimizer).values()):
        raise ValueError(
            f"{type(optimizer).__name__} keeps factored state, which FSDP with axis 'width' can't shard: use Adam, "
            "AdamW, SGD or RMSprop, or axis 'depth'"
        )
    for owner in owners.values():
        if owner.offload_to_cpu or owner.is_dtensor:
            what = "CPUOffloadPolicy" if owner.offload_to_cpu else "tensor parallelism"
            raise ValueError(f"FSDP with {what} and axis 'width': not supported; use axis 'depth', or leave it out")


def sharded_gradients(value: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Gradients of ``value``, mean over the ranks, by a backward pass: ``autograd.grad`` can't see through FSDP.

    Zero where there is none. The parameters' own gradients stay as they are.
    """
    kept = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        value.backward()  # type: ignore[no-untyped-call]
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    finally:
        for parameter, gradient in zip(parameters, kept, strict=True):
            parameter.grad = gradient


class ShardedSite(CompactSite):
    """A :class:`CompactSite` whose parameters, optimizer state and bank are sharded over the ranks.

    During a switch plain tensors stand in for the site's. The parameter objects stay the same (``swap_tensors``), so
    that the optimizer and FSDP keep finding them.
    """

    def __init__(self, site: Site, optimizer: Optimizer | None, owners: Owners, **more: Any) -> None:
        super().__init__(site, optimizer, **more)
        self._owners = {id(tensor): owners[tensor] for tensor, _ in self._parameters() if tensor in owners}

    @torch.no_grad()
    def switch(self, active: tuple[int, ...], fresh: Sequence[int] = ()) -> None:
        """See :meth:`Part.switch`."""
        if active == self.active and not fresh:
            return
        with self._gathered():
            super().switch(active, fresh)

    @contextmanager
    def full(self, *, states: bool = True, keep: bool = False) -> Iterator[None]:
        """See :meth:`Part.full`: there and back by two switches, with all state and all that is written."""
        active = self.active
        if len(active) == self.units:
            yield
            return
        gradients = [tensor.grad for tensor, _ in self._tensors]
        self.switch(tuple(range(self.units)))
        self.active = active
        try:
            yield
        finally:
            self.active = tuple(range(self.units))
            self.switch(active)
            for (tensor, _), gradient in zip(self._tensors, gradients, strict=True):
                tensor.grad = gradient

    @torch.no_grad()
    def magnitudes(self) -> Tensor:
        """See :meth:`Part.magnitudes`."""
        with self.full():
            sums = [sum_per_unit(whole(parameter.detach().square()), cuts) for parameter, cuts in self._parameters()]
        return torch.stack(sums).sum(0) / self._unit_parameters

    @torch.no_grad()
    def products(self) -> Tensor | None:
        """See :meth:`Part.products`."""
        sums = [
            sum_per_unit(whole(parameter.detach() * parameter.grad), cuts)
            for parameter, cuts in self._parameters()
            if parameter.grad is not None
        ]
        return torch.stack(sums).sum(0) if sums else None

    @torch.no_grad()
    def match_scale(self, fresh: Sequence[int], count: int) -> None:
        """See :meth:`CompactSite.match_scale`."""
        with self._gathered():
            super().match_scale(fresh, count)

    @torch.no_grad()
    def scale_outputs(self, units: Sequence[int], factor: float) -> None:
        """See :meth:`Part.scale_outputs`."""
        with self._gathered():
            super().scale_outputs(units, factor)

    @torch.no_grad()
    def start_state(self, entering: Sequence[int]) -> None:
        """See :meth:`CompactSite.start_state`."""
        with self._gathered():
            super().start_state(entering)

    @contextmanager
    def _gathered(self) -> Iterator[None]:
        """Plain tensors in place of shards for a while: parameters, their optimizer state, the bank."""
        sharded = self._tensors
        self._tensors = [(self._stand_in(tensor), cuts) for tensor, cuts in sharded]
        self._weights = [whole(weight) for weight in self._weights]
        self._states = [{key: whole(value) for key, value in held.items()} for held in self._states]
        yield  # what fails here, fails for good, as anything does between processes
        plain, self._tensors = self._tensors, sharded
        for at, ((parameter, _), (stand_in, _)) in enumerate(zip(sharded, plain, strict=True)):
            owner = self._owners.get(id(parameter))
            if owner is None:
                continue
            _shard_again(parameter, stand_in, owner)
            if self._optimizer is not None and stand_in in self._optimizer.state:
                held = self._optimizer.state.pop(stand_in)
                self._optimizer.state[parameter] = {
                    key: _shard(value, parameter) if _like(value, stand_in) else value for key, value in held.items()
                }
            if self._weights:
                self._weights[at] = _shard(self._weights[at], parameter)
                self._states[at] = {key: _shard(value, parameter) for key, value in self._states[at].items()}

    def _stand_in(self, tensor: Tensor) -> Tensor:
        """The whole of a sharded parameter as a plain one, which has its optimizer state; others as they are."""
        if id(tensor) not in self._owners:
            return tensor
        tensor.grad = None
        plain = nn.Parameter(whole(tensor.detach()).clone(), requires_grad=tensor.requires_grad)
        if self._optimizer is not None and tensor in self._optimizer.state:
            held = self._optimizer.state.pop(tensor)
            self._optimizer.state[plain] = {
                key: whole(value) if isinstance(value, Tensor) else value for key, value in held.items()
            }
        return plain


def _shard_again(parameter: Tensor, plain: Tensor, owner: Any) -> None:
    """FSDP's record of a parameter is made again for its new shape, as ``fully_shard`` made it; the object stays."""
    owner._init_sharded_param(plain, owner.device, lambda _: owner.fsdp_placement, owner.mesh_info)
    if owner.post_forward_mesh_info:
        owner._init_sharded_post_forward_param_metadata(plain)
    owner._init_extensions()
    owner.all_gather_outputs = []
    owner.unsharded_accumulated_grad = None
    if hasattr(owner, "_unsharded_param"):
        del owner._unsharded_param
    torch.utils.swap_tensors(parameter, owner.sharded_param)  # type: ignore[no-untyped-call]
    owner.sharded_param = parameter
    owner._setattr_on_modules(parameter)


def _like(value: Any, tensor: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == tensor.shape


def _shard(full: Tensor, like: Tensor) -> Tensor:
    """This rank's share of what every rank has, placed as ``like``; nothing is sent."""
    assert isinstance(like, DTensor)
    return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)
