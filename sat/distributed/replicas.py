"""``DistributedDataParallel`` around a model whose parameters come, go and change their shape.

DDP's reducer fixes at its construction which parameters it waits for, and their sizes. After a switch it is built
anew, in the same DDP object, as DDP itself does when it is unpickled. The model notices by itself that it runs inside
a DDP, so the user wraps it as always, before or after ``sparsify_``.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

if TYPE_CHECKING:
    from sat.controller import Controller

Signature = list[tuple[int, torch.Size]]


class Replicas:
    """The DDP objects that run a controller's model, each kept in step with its switches."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._sharded = isinstance(controller.model, FSDPModule)
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        """A copy of the model is run by nobody yet."""
        return {"_controller": self._controller, "_sharded": self._sharded}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._hooks: list[RemovableHandle] = []
        self._known: weakref.WeakKeyDictionary[DistributedDataParallel, tuple[object, Signature]] = (
            weakref.WeakKeyDictionary()
        )
        self._quiet: dict[DistributedDataParallel, tuple[bool, bool]] | None = None  # flags before a probe

    def install(self) -> None:
        """Watch the model from now on, if there are several processes."""
        if not self._hooks and dist.is_available() and dist.is_initialized():
            self._hooks.append(self._controller.model.register_forward_pre_hook(self._inside))

    def remove(self) -> None:
        """The model is full and stays so: reducers are built for it a last time."""
        for ddp in list(self._known):
            self._follow(ddp)
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._known = [], weakref.WeakKeyDictionary()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """For a probe, whose loss may run the DDP object: no gradient is reduced meanwhile."""
        watching = bool(self._hooks)
        self.install()
        self._quiet = {}
        try:
            yield
        finally:
            for ddp, (gradients, buffers) in self._quiet.items():
                ddp.require_backward_grad_sync, ddp.require_forward_param_sync = gradients, buffers
                if ddp in self._known:
                    self._known[ddp] = (None, [])  # its buckets may have been laid out for the full model
            self._quiet = None
            if not watching:
                for hook in self._hooks:
                    hook.remove()
                self._hooks = []

    def _inside(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Before the model's forward pass.

        Raises:
            ValueError: the parameters that the controller and the optimizer hold are the model's no more.
        """
        if isinstance(module, FSDPModule) and not self._sharded:
            raise ValueError(
                "fully_shard was applied to a model that is sparsified already, and replaced its parameters; call "
                "fully_shard first, then build the optimizer, then sparsify_"
            )
        ddp = DistributedDataParallel._active_ddp_module
        if ddp is None:
            return
        if self._quiet is not None:
            self._silence(ddp)
        elif ddp not in self._known:
            self._adopt(ddp)

    def _outside(self, ddp: nn.Module, args: tuple[Any, ...]) -> None:
        """Before the forward pass of a DDP object that is known."""
        assert isinstance(ddp, DistributedDataParallel)
        if self._quiet is not None:
            self._silence(ddp)
        else:
            self._follow(ddp)

    def _silence(self, ddp: DistributedDataParallel) -> None:
        assert self._quiet is not None
        if ddp not in self._quiet:
            self._quiet[ddp] = (ddp.require_backward_grad_sync, ddp.require_forward_param_sync)
            ddp.require_backward_grad_sync = False

    def _adopt(self, ddp: DistributedDataParallel) -> None:
        """First forward pass under a DDP object: units that are out get rank 0's weights too, as the others have.

        Raises:
            ValueError: the DDP object reduces in a way that can't follow a change of parameters.
        """
        if ddp.mixed_precision is not None or ddp._delay_all_reduce_params:
            raise ValueError(
                "DistributedDataParallel with mixed_precision or delay_all_reduce_named_params keeps parameters of "
                "its own and can't follow a switch of units; leave these options out (autocast works)"
            )
        controller = self._controller
        controller.check_ranks()
        broadcast_all(controller, ddp.process_group)
        self._known[ddp] = (None, [])
        self._follow(ddp)
        self._hooks.append(ddp.register_forward_pre_hook(self._outside))

    def _follow(self, ddp: DistributedDataParallel) -> None:
        state, signature = self._known[ddp]
        now = tuple(part.active for part in self._controller.parts)
        if now == state:
            return
        wanted = [(id(p), p.shape) for p in ddp.module.parameters() if p.requires_grad]
        if wanted != signature:
            rebuild(ddp)
        self._known[ddp] = (now, wanted)


def rebuild(ddp: Any) -> None:
    """A new reducer for the parameters that the module has now and that require a gradient.

    The steps of ``DistributedDataParallel.__setstate__``, and what a first construction adds to them.
    """
    ddp.logger = None  # it holds the reducer, whose end takes its hooks off the parameters
    ddp.reducer = None
    parameters, sparse = ddp._build_params_for_reducer()
    ddp._module_parameters = [p for n, p in ddp.module.named_parameters() if n not in ddp.parameters_to_ignore]
    names = ddp._build_debug_param_to_name_mapping(parameters)
    ddp._ddp_init_helper(parameters, sparse, names, ddp.static_graph)
    ddp._has_rebuilt_buckets = False
    if ddp.static_graph:
        ddp._static_graph_delay_allreduce_enqueued = False
        ddp.reducer._set_static_graph()
        ddp.logger._set_static_graph()
    hooks, ddp._comm_hooks = ddp._comm_hooks, []
    for hook, state in hooks:
        ddp.register_comm_hook(state, hook)


@torch.no_grad()
def broadcast_all(controller: Controller, group: dist.ProcessGroup | None) -> None:
    """Rank 0's parameters and buffers on every rank, and all that is kept of units that are out."""
    if dist.get_world_size(group) == 1:
        return
    device = next(controller.model.parameters()).device
    banked = (tensor for part in controller.parts for tensor in part.banked())
    source = dist.get_global_rank(group, 0) if group is not None else 0
    for tensor in (*controller.model.parameters(), *controller.model.buffers(), *banked):
        travels = tensor.detach().to(device).contiguous()  # what lies on the host goes by way of the device
        dist.broadcast(travels, source, group=group)
        if travels.data_ptr() != tensor.data_ptr():
            tensor.detach().copy_(travels)
