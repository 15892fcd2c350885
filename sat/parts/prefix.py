"""Depth, for fine-tuning: the lowest layers and all that is below them stop learning (``prefix``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sat.parts.layers import FrozenLayers, hidden_of
from sat.structure import Stack


class FrozenPrefix(FrozenLayers):
    """Mode ``prefix``: layers below a boundary, with the embeddings below them, have no backward pass at all.

    No parameter there asks for a gradient and the boundary layer's input is cut off, so autograd keeps nothing of
    the prefix's forward pass: neither weight nor input gradients are computed. A parameter that is also used above
    (an embedding tied to the head) is frozen with the prefix. Stacks that follow one another (the stages of a CNN)
    are one part, lowest layer first.

    Args:
        stacks: one, or several of which each reads what the one before has written.
        below: for each stack, the parameters outside the layers that its first layer reads from. They are frozen
            with that layer.
    """

    def __init__(self, stacks: Sequence[Stack], below: Sequence[Sequence[nn.Parameter]]) -> None:
        super().__init__(stacks[0] if len(stacks) == 1 else _joined(stacks))
        starts = [sum(len(stack.layers) for stack in stacks[:at]) for at in range(len(stacks))]
        self._below = [
            (start, parameter, parameter.requires_grad)
            for start, parameters in zip(starts, below, strict=True)
            for parameter in parameters
        ]
        self._entrances = [_Entrance() for _ in self._all]
        self._handles: list[RemovableHandle] = []

    @property
    def boundary(self) -> int:
        """Number of frozen layers; they are the lowest."""
        return self.units - len(self.active)

    @property
    def prefix(self) -> list[nn.Module]:
        """The frozen layers, lowest first."""
        return self._all[: self.boundary]

    @property
    def frozen_parameters(self) -> list[nn.Parameter]:
        """All parameters that the prefix reads, its embeddings included; none while it is empty."""
        below = [parameter for start, parameter, _ in self._below if self.boundary > start]
        return [*below, *(parameter for layer in self.prefix for parameter in layer.parameters())]

    def switch(self, active: tuple[int, ...], fresh: Sequence[int] = ()) -> None:
        """See :meth:`Part.switch`; ``active`` are the highest layers."""
        assert active == tuple(range(self.units - len(active), self.units))
        super().switch(active, fresh)
        for start, parameter, trainable in self._below:
            parameter.requires_grad_(trainable and self.boundary <= start)
            if self.boundary > start:
                parameter.grad = None
        if not self._handles:
            self._handles = [
                layer.register_forward_pre_hook(entrance, with_kwargs=True)
                for layer, entrance in zip(self._all, self._entrances, strict=True)
            ]
        self._cut()

    @contextmanager
    def full(self, *, states: bool = True, keep: bool = False) -> Iterator[None]:
        """See :meth:`Part.full`: gradients may reach the lowest layer (a probe asks for them)."""
        for entrance in self._entrances:
            entrance.cut = False
        try:
            yield
        finally:
            self._cut()

    def release(self) -> None:
        """See :meth:`Part.release`."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _cut(self) -> None:
        for unit, entrance in enumerate(self._entrances):
            entrance.cut = unit == self.boundary > 0


class _Entrance:
    """Forward pre-hook of every layer; the one at the boundary lets no gradient out.

    It stays there while SAT is on and looks at a flag, since code compiled before a hook came would not know it.
    """

    def __init__(self) -> None:
        self.cut = False

    def __call__(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self.cut:
            return None
        hidden = hidden_of(layer, args, kwargs).detach()
        if getattr(layer, "gradient_checkpointing", False) and layer.training:
            hidden.requires_grad_()  # reentrant checkpoints give no gradients where no input asks for one
        return replaced(args, kwargs, hidden)


def replaced(args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call with other hidden states; masks, rotations and the rest go on as they are."""
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})


def _joined(stacks: Sequence[Stack]) -> Stack:
    owner = nn.Module()
    owner.layers = nn.ModuleList([layer for stack in stacks for layer in stack.layers])
    return Stack(
        f"{stacks[0].name} to {stacks[-1].name}",
        owner,
        "layers",
        tuple(outputs for stack in stacks for outputs in stack.outputs),
        identity=all(stack.identity for stack in stacks),
    )
