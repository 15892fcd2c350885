"""What lies below the layers: the parameters that a stack's first layer reads from, found by running the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from sat.parts.prefix import hidden_of
from sat.score import Loss, apart
from sat.structure import Stack


def below(model: nn.Module, stacks: Sequence[Stack], loss: Loss) -> list[list[nn.Parameter]]:
    """For each stack, the parameters outside all layers on which its first layer's input depends.

    The forward pass of ``loss(0)`` runs as far as the last stack's first layer; generators and buffers continue as if
    it had not.

    Raises:
        ValueError: the stacks are no chain, each reading what the one before wrote, so "lowest" means nothing; or
            the loss does not run them.
    """
    reached: dict[int, set[int]] = {}

    def watch(at: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            reached.setdefault(at, _leaves(hidden_of(args, kwargs)))
            if len(reached) == len(stacks):
                raise _EnoughSeen

        return hook

    hooks = [stack.layers[0].register_forward_pre_hook(watch(at), with_kwargs=True) for at, stack in enumerate(stacks)]
    try:
        with apart(model, [], trainable=lambda _: True):
            loss(0)
    except _EnoughSeen:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    _check(stacks, reached)
    inside = {id(parameter) for stack in stacks for parameter in stack.layers.parameters()}
    return [[p for p in model.parameters() if id(p) in reached[at] - inside] for at in range(len(stacks))]


def _check(stacks: Sequence[Stack], reached: dict[int, set[int]]) -> None:
    for at, stack in enumerate(stacks):
        if at not in reached:
            raise ValueError(f"mode 'prefix': loss(0) does not run {stack.name}; it must run the sparsified model")
        if at and not reached[at] & {id(parameter) for parameter in stacks[at - 1].layers.parameters()}:
            raise ValueError(
                f"mode 'prefix' freezes the lowest layers, but {stack.name} does not read what {stacks[at - 1].name} "
                "writes (encoder and decoder, or two towers): there is no one lowest layer; use mode 'freeze' or "
                "'backward_drop', or name one of the stacks (structure=[sat.Layers(...)])"
            )


class _EnoughSeen(BaseException):
    """Ends the forward pass; no ``except Exception`` of the user's loss catches it."""


def _leaves(value: Tensor) -> set[int]:
    """Ids of the leaf tensors that ``value`` is computed from."""
    if value.grad_fn is None:
        return {id(value)}
    found, seen, waiting = set(), {value.grad_fn}, [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if hasattr(node, "variable"):  # the node that accumulates a leaf's gradient
            found.add(id(node.variable))
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return found
