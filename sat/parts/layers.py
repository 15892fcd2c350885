"""Depth: whole residual layers leave the stack (``skip``), or stay in it without weight gradients (``freeze``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sat.parts.bank import Bank
from sat.parts.base import Part, Scaled
from sat.parts.slices import Slice
from sat.structure import Stack, layer_flops


class _Layers(Part):
    """What both modes share: units are the stack's layers."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.name = stack.name
        self._all = list(stack.layers)
        self.units = len(self._all)
        self.active = tuple(range(self.units))
        self._numbers = [_layer_numbers(layer) for layer in self._all]
        self.unit_flops = layer_flops(self._all) / self.units
        self.floor = stack.floor
        self.scaled: list[Scaled] = []

    @property
    def gated_modules(self) -> list[nn.Module]:
        """See :meth:`Part.gated_modules`."""
        pinned = [module for unit in self.stack.pinned for module in self.stack.outputs[unit]]
        return [*self.stack.layers, *pinned]

    def gated(self, gates: Tensor) -> list[RemovableHandle]:
        """See :meth:`Part.gated`: a layer's result is what it adds to the residual stream.

        What a pinned layer adds can't be told from outside (its input may have another shape), so its gate
        multiplies what its output modules write.
        """

        hooks = []
        for position, layer in enumerate(self.stack.layers):
            unit = self._all.index(layer)
            if unit in self.stack.pinned:
                multiply = partial(_multiply, gates, position)
                hooks += [module.register_forward_hook(multiply) for module in self.stack.outputs[unit]]
            else:
                hooks.append(layer.register_forward_hook(partial(_mix, gates, position), with_kwargs=True))
        return hooks

    @torch.no_grad()
    def magnitudes(self) -> Tensor:
        """See :meth:`Part.magnitudes`."""
        means = [
            torch.stack([self._near(p.detach()).float().square().sum() for p in layer.parameters()]).sum()
            / sum(p.numel() for p in layer.parameters())
            for layer in self._all
        ]
        return torch.stack(means)

    @torch.no_grad()
    def products(self) -> Tensor | None:
        """See :meth:`Part.products`."""
        sums = []
        for layer in (self._all[unit] for unit in self.active):
            parts = [(p.float() * p.grad.float()).sum() for p in layer.parameters() if p.grad is not None]
            if not parts:
                return None
            sums.append(torch.stack(parts).sum())
        return torch.stack(sums)

    @torch.no_grad()
    def scale_outputs(self, units: Sequence[int], factor: float) -> None:
        """See :meth:`Part.scale_outputs`: weights and biases of the layer's output projections."""
        for unit in units:
            for module in self.stack.outputs[unit]:
                for parameter in module.parameters(recurse=False):
                    parameter.mul_(factor)
                    self.scaled.append(Scaled(parameter, factor))

    def fits(self, source: int, target: int) -> bool:
        """See :meth:`Part.fits`: the source has all that the target has, in the same shapes."""
        given = _tensors(self._all[source])
        return all(
            name in given and given[name].shape == own.shape for name, own in _tensors(self._all[target]).items()
        )

    @torch.no_grad()
    def copy_unit(self, source: int, target: int) -> None:
        """See :meth:`Part.copy_unit`: parameters and buffers; the copy's optimizer state starts fresh."""
        given = _tensors(self._all[source])
        for name, own in _tensors(self._all[target]).items():
            own.copy_(given[name])

    def pairs(self, source: int, target: int) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Parameters of layer ``source`` with those of ``target`` that are copies of them."""
        given = dict(self._all[source].named_parameters())
        return [(given[name], own) for name, own in self._all[target].named_parameters()]

    def output_parameters(self, unit: int) -> list[nn.Parameter]:
        """Parameters of the modules by which a layer writes into the residual stream."""
        return [p for module in self.stack.outputs[unit] for p in module.parameters(recurse=False)]

    @property
    def modules(self) -> Iterator[nn.Module]:
        """See :meth:`Part.modules`: all inside the layers."""
        return (module for layer in self._all for module in layer.modules())

    def slices(self, factors: Mapping[int, float]) -> Iterator[Slice]:
        """See :meth:`Part.slices`: every parameter of the layers."""
        for unit, factor in factors.items():
            for parameter in self._all[unit].parameters():
                if parameter.requires_grad:
                    yield Slice(parameter, factor)

    def layer_parameters(self) -> list[list[nn.Parameter]]:
        """Parameters of every layer, active or not."""
        return [list(layer.parameters()) for layer in self._all]

    def _near(self, tensor: Tensor) -> Tensor:
        """A layer's tensor on the device that trains."""
        return tensor


class SkippedLayers(_Layers):
    """Mode ``skip``: the owner holds the active layers only, renumbered from 0, so that caches stay consistent.

    The others keep their weights here; they stay in the optimizer's groups without gradients, so neither a
    step nor weight decay moves them, and they have no optimizer state before they have been trained. With the bank on
    the host, their weights, buffers and optimizer state lie there while they are out.
    """

    def __init__(self, stack: Stack, optimizer: Optimizer | None = None, host_bank: bool = False) -> None:
        super().__init__(stack)
        self.bank = Bank(host_bank)
        self._optimizer = optimizer
        self._device = next(self._all[0].parameters()).device
        self._out: set[int] = set()  # units in the bank
        self._left: dict[int, bool] = {}  # of units that are out: whether the owner was training when they left
        if host_bank and any(hasattr(p, "to_local") for layer in self._all for p in layer.parameters()):
            raise ValueError(
                f"bank 'host': the parameters of {stack.name} are sharded, and FSDP must find every shard on its "
                "device; use bank 'device', which then holds this rank's shards only"
            )
        self.pinned = stack.pinned
        self.enters_at_zero = stack.identity
        self._whole = stack.layers
        fields = stack.config_fields  # those that hold the number; a configuration may serve other stacks too
        self._fields = [field for field in fields if getattr(stack.config, field, None) == self.units]
        self._types = list(getattr(stack.config, "layer_types", None) or [])

    def switch(self, active: tuple[int, ...], fresh: Sequence[int] = ()) -> None:
        """See :meth:`Part.switch`."""
        for unit in set(range(self.units)) - set(active):
            for parameter in self._all[unit].parameters():
                parameter.grad = None
        if fresh:
            with torch.no_grad():
                for module in (module for unit in fresh for module in self.stack.outputs[unit]):
                    for parameter in module.parameters(recurse=False):
                        parameter.zero_()
        self.active = active
        self._keep(set(range(self.units)) - set(active))
        self._arrange(active)

    @contextmanager
    def full(self, *, states: bool = True, keep: bool = False) -> Iterator[None]:
        """See :meth:`Part.full`: the bank's tensors stay where they are and are found there again."""
        homes = [(tensor, tensor.data) for tensor in self.lent()]
        try:
            for tensor, home in homes:
                tensor.data = self._near(home)
            self._arrange(tuple(range(self.units)))
            yield
        finally:
            for tensor, home in homes:
                if keep:
                    self.bank.keep(home, tensor.data)
                tensor.grad = None
                tensor.data = home
            self._arrange(self.active)

    def banked(self) -> Iterator[Tensor]:
        """See :meth:`Part.banked`."""
        yield from self.lent()
        for unit in self._out:
            for _, _, value in self._states(unit):
                yield value

    def lent(self) -> Iterator[Tensor]:
        """See :meth:`Part.lent`: parameters and buffers of the layers that are out."""
        for unit in self._out:
            yield from _tensors(self._all[unit]).values()

    def whole_parameters(self, unit: int) -> Iterator[nn.Parameter]:
        """See :meth:`Part.whole_parameters`."""
        return self._all[unit].parameters()

    @torch.no_grad()
    def _keep(self, out: set[int]) -> None:
        """Units ``out`` lie in the bank from now on, the others on the device."""
        for unit in out - self._out:
            for tensor in _tensors(self._all[unit]).values():
                tensor.data = self.bank.away(tensor.data)
            for held, key, value in self._states(unit):
                held[key] = self.bank.away(value)
        for unit in self._out - out:
            for tensor in _tensors(self._all[unit]).values():
                tensor.data = self._near(tensor.data)
            for held, key, value in self._states(unit):
                held[key] = self._near(value)
        self._out = out

    def _near(self, tensor: Tensor) -> Tensor:
        return self.bank.back(tensor, self._device)

    def _states(self, unit: int) -> list[tuple[dict[str, Any], str, Tensor]]:
        """Optimizer state of a unit: where it is held, and what; counters stay where their optimizer wants them."""
        if self._optimizer is None:
            return []
        held = [self._optimizer.state[p] for p in self._all[unit].parameters() if p in self._optimizer.state]
        return [
            (state, key, v) for state in held for key, v in state.items() if isinstance(v, Tensor) and v.numel() > 1
        ]

    def _arrange(self, active: tuple[int, ...]) -> None:
        """Let the owner hold the layers ``active``, numbered from 0."""
        whole = len(active) == self.units
        layers = self._whole if whole else self._list([self._all[unit] for unit in active])
        self._follow_mode(layers, active)
        setattr(self.stack.owner, self.stack.attribute, layers)
        for position, unit in enumerate(active):
            for module, attribute in self._numbers[unit]:
                setattr(module, attribute, position)
        for field in self._fields:
            setattr(self.stack.config, field, len(active))
        if self._fields and len(self._types) == self.units:
            setattr(self.stack.config, "layer_types", [self._types[unit] for unit in active])  # noqa: B010 (any object)

    def _follow_mode(self, layers: nn.Module, active: tuple[int, ...]) -> None:
        """Bring ``train()`` and ``eval()`` to layers that were out; where neither came, modules keep their own mode."""
        training = self.stack.owner.training
        layers.training = training
        for unit, layer in enumerate(self._all):
            if unit not in active:
                self._left.setdefault(unit, training)
            elif self._left.pop(unit, training) != training:
                layer.train(training)

    def _list(self, layers: list[nn.Module]) -> nn.ModuleList | nn.Sequential:
        return nn.Sequential(*layers) if isinstance(self._whole, nn.Sequential) else nn.ModuleList(layers)


class FrozenLayers(_Layers):
    """Mode ``freeze``: every layer runs, active ones have weight gradients. Parameters that came frozen stay so."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self._trainable = [[p.requires_grad for p in layer.parameters()] for layer in self._all]

    def switch(self, active: tuple[int, ...], fresh: Sequence[int] = ()) -> None:
        """See :meth:`Part.switch`; entering changes nothing in the forward pass, so ``fresh`` is not needed."""
        self.active = active
        for unit, layer in enumerate(self._all):
            for parameter, trainable in zip(layer.parameters(), self._trainable[unit], strict=True):
                parameter.requires_grad_(trainable and unit in active)
                if unit not in active:
                    parameter.grad = None

    @contextmanager
    def full(self, *, states: bool = True, keep: bool = False) -> Iterator[None]:
        """See :meth:`Part.full`: the forward pass is whole at all times."""
        yield


def _mix(
    gates: Tensor, position: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
) -> Any:
    before = hidden_of(layer, args, kwargs)
    after = result[0] if isinstance(result, tuple) else result
    mixed = before + gates[position].to(after.dtype) * (after - before)
    return (mixed, *result[1:]) if isinstance(result, tuple) else mixed


def _multiply(gates: Tensor, position: int, module: nn.Module, args: tuple[Any, ...], result: Tensor) -> Tensor:
    return result * gates[position].to(result.dtype)


def hidden_of(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states that a layer was called with.

    Raises:
        ValueError: they are neither its first argument nor called ``hidden_states``.
    """
    found = args[0] if args else kwargs.get("hidden_states")
    if not isinstance(found, Tensor):
        raise ValueError(
            f"{type(layer).__name__} must be called with its hidden states, a tensor, as first argument or as "
            f"hidden_states=; it was called with {', '.join(kwargs) or 'none'} by name"
        )
    return found


def _tensors(layer: nn.Module) -> dict[str, Tensor]:
    return {**dict(layer.named_parameters()), **dict(layer.named_buffers())}


def _layer_numbers(layer: nn.Module) -> list[tuple[nn.Module, str]]:
    """Places inside a layer that hold its number in the stack (key-value caches are indexed by it)."""
    return [(module, "layer_idx") for module in layer.modules() if isinstance(getattr(module, "layer_idx", None), int)]
