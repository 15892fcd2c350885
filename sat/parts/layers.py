"""Depth: whole residual layers leave the stack (``skip``), or stay in it without weight gradients (``freeze``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sat.parts.base import Part
from sat.structure import TRAINING_FLOPS_PER_WEIGHT, Stack


class _Layers(Part):
    """What both modes share: units are the stack's layers."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.name = stack.name
        self._all = list(stack.layers)
        self.units = len(self._all)
        self.active = tuple(range(self.units))
        self._numbers = [_layer_numbers(layer) for layer in self._all]
        weights = [p.numel() for layer in self._all for p in layer.parameters() if p.dim() > 1]
        self.unit_flops = TRAINING_FLOPS_PER_WEIGHT * sum(weights) / self.units

    def gated(self, gates: Tensor) -> list[RemovableHandle]:
        """See :meth:`Part.gated`: a layer's result is what it adds to the residual stream."""

        def hook(position: int) -> Any:
            def mix(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
                before = args[0] if args else kwargs["hidden_states"]
                after = result[0] if isinstance(result, tuple) else result
                mixed = before + gates[position].to(after.dtype) * (after - before)
                return (mixed, *result[1:]) if isinstance(result, tuple) else mixed

            return mix

        present = list(self.stack.layers)
        return [layer.register_forward_hook(hook(i), with_kwargs=True) for i, layer in enumerate(present)]

    @torch.no_grad()
    def magnitudes(self) -> Tensor:
        """See :meth:`Part.magnitudes`."""
        means = [
            torch.stack([p.float().square().sum() for p in layer.parameters()]).sum()
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

    @torch.no_grad()
    def copy_unit(self, source: int, target: int) -> None:
        """See :meth:`Part.copy_unit`: parameters and buffers; the copy's optimizer state starts fresh."""
        taken = self._all[source]
        given = self._all[target]
        for mine, theirs in zip(_tensors(given), _tensors(taken), strict=True):
            mine.copy_(theirs)

    def layer_parameters(self) -> list[list[nn.Parameter]]:
        """Parameters of every layer, active or not."""
        return [list(layer.parameters()) for layer in self._all]


class SkippedLayers(_Layers):
    """Mode ``skip``: the owner holds the active layers only, renumbered from 0, so that caches stay consistent.

    The others keep their weights here; they stay in the optimizer's groups without gradients, so neither a
    step nor weight decay moves them, and they have no optimizer state before they have been trained.
    """

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self._whole = stack.layers
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
        self._install(active)

    @contextmanager
    def full(self) -> Iterator[None]:
        """See :meth:`Part.full`."""
        self._install(tuple(range(self.units)))
        try:
            yield
        finally:
            self._install(self.active)

    def _install(self, active: tuple[int, ...]) -> None:
        whole = len(active) == self.units
        layers = self._whole if whole else nn.ModuleList(self._all[unit] for unit in active)
        layers.train(self.stack.owner.training)  # train() and eval() have not reached layers that were out
        setattr(self.stack.owner, self.stack.attribute, layers)
        for position, unit in enumerate(active):
            for module, attribute in self._numbers[unit]:
                setattr(module, attribute, position)
        config = self.stack.config
        if config is not None and hasattr(config, "num_hidden_layers"):
            config.num_hidden_layers = len(active)
            if self._types:
                config.layer_types = [self._types[unit] for unit in active]  # type: ignore[attr-defined]


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
    def full(self) -> Iterator[None]:
        """See :meth:`Part.full`: the forward pass is whole at all times."""
        yield


def _tensors(layer: nn.Module) -> list[Tensor]:
    return [*layer.parameters(), *layer.buffers()]


def _layer_numbers(layer: nn.Module) -> list[tuple[nn.Module, str]]:
    """Places inside a layer that hold its number in the stack (key-value caches are indexed by it)."""
    return [(module, "layer_idx") for module in layer.modules() if isinstance(getattr(module, "layer_idx", None), int)]
