"""What lies below the layers: the parameters that a stack's first layer reads from, found by running the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from sat.distributed.shards import is_sharded, settle
from sat.parts.layers import hidden_of
from sat.score import Loss, apart
from sat.structure import Stack


def below(model: nn.Module, stacks: Sequence[Stack], loss: Loss) -> list[list[nn.Parameter]]:
    """For each stack, the parameters outside all layers on which its first layer's input depends.

    The forward pass of ``loss(0)`` runs as far as the last stack's first layer (under FSDP: to its end); generators
    and buffers continue as if it had not.

    Raises:
        ValueError: the stacks are no chain, each reading what the one before wrote, so "lowest" means nothing; or
            the loss does not run them.
    """
    places: dict[Tensor, tuple[nn.Module, str]] = {}
    leaves: dict[int, set[Tensor]] = {}
    sharded = is_sharded(model)

    def place(module: nn.Module, args: tuple[Any, ...]) -> None:
        places.update((parameter, (module, name)) for name, parameter in module.named_parameters(recurse=False))

    def watch(at: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            leaves.setdefault(at, _leaves(hidden_of(module, args, kwargs)))
            if len(leaves) == len(stacks) and not sharded:
                raise _EnoughSeen  # FSDP would take itself to be inside a forward pass ever after

        return hook

    for module in model.modules():
        place(module, ())
    hooks = [
        *(module.register_forward_pre_hook(place) for module in model.modules()),  # FSDP gathers other tensors by then
        *(stack.layers[0].register_forward_pre_hook(watch(at), with_kwargs=True) for at, stack in enumerate(stacks)),
    ]
    try:
        with apart(model, [], trainable=lambda _: True):
            loss(0)
    except _EnoughSeen:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    settle(model)
    reached = {at: {getattr(*places[leaf]) for leaf in found if leaf in places} for at, found in leaves.items()}
    _check(stacks, reached)
    inside = {parameter for stack in stacks for parameter in stack.layers.parameters()}
    return [[p for p in model.parameters() if p in reached[at] - inside] for at in range(len(stacks))]


def _check(stacks: Sequence[Stack], reached: dict[int, set[nn.Parameter]]) -> None:
    for at, stack in enumerate(stacks):
        if at not in reached:
            raise ValueError(f"mode 'prefix': loss(0) does not run {stack.name}; it must run the sparsified model")
        if at and not reached[at] & set(stacks[at - 1].layers.parameters()):
            raise ValueError(
                f"mode 'prefix' freezes the lowest layers, but {stack.name} does not read what {stacks[at - 1].name} "
                "writes (encoder and decoder, or two towers): there is no one lowest layer; use mode 'freeze' or "
                "'backward_drop', or name one of the stacks (structure=[sat.Layers(...)])"
            )


class _EnoughSeen(BaseException):
    """Ends the forward pass; no ``except Exception`` of the user's loss catches it."""


def _leaves(value: Tensor) -> set[Tensor]:
    """The leaf tensors that ``value`` is computed from."""
    if value.grad_fn is None:
        return {value}
    found, seen, waiting = set(), {value.grad_fn}, [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if hasattr(node, "variable"):  # the node that accumulates a leaf's gradient
            found.add(node.variable)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return found
