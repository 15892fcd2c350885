"""Importance of units, measured without changing the model, its gradients, the optimizer or any generator.

Cost per micro-batch, in products of a plain training step (forward : input gradient : weight gradient =
1 : 1 : 1): :func:`gate_probe` runs the full model forward and its input gradients, no weight gradient;
:func:`taylor_probe` is one whole forward and backward pass of the full model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sat.distributed.shards import is_sharded, sharded_gradients, whole
from sat.parts import FrozenLayers, Part

Loss = Callable[[int], Tensor]
Rows = Sequence[Sequence[Tensor]]  # by micro-batch and part
Mean = Callable[[Rows], Rows]  # over the processes of the training


@dataclass(frozen=True, eq=False)
class UnitScores:
    """Scores of one part's units over the micro-batches of a probe; all of shape (units,), fp32.

    ``gradient`` is the mean of dL/dgate (or of the sum of w x g, the same thing for an output projection);
    ``score`` the mean of its square, what units are ranked by.
    """

    gradient: Tensor
    score: Tensor


def gate_probe(
    model: nn.Module,
    parts: Sequence[Part],
    gates: Mapping[str, Sequence[float]],
    loss: Loss,
    batches: int,
    mean: Mean = lambda rows: rows,
) -> dict[str, UnitScores]:
    """Gradient of the loss with respect to every unit's gate, at the present operating point.

    The model is made full for the time of the probe. Gates are the only leaves: 1 where a unit is active, 0
    where it is not, so that dL/dgate of an inactive unit is the first-order change of the loss when it is
    switched on. A never-trained unit is probed with its initial, random output projection, although it will
    enter with a zero one: at zero its gate's gradient would be zero too. The sign says nothing then, hence
    the square as score.

    Args:
        model: the model whose ``parts`` these are.
        parts: the parts to score.
        gates: value of each unit's gate, by part name.
        loss: mean loss of probe micro-batch i, computed with ``model``.
        batches: number of micro-batches.
        mean: over the processes of a distributed training, of what each found.

    Raises:
        ValueError: the loss does not depend on the units, or reentrant checkpoints hide them.
    """
    device = next(model.parameters()).device
    leaves = {
        part.name: torch.tensor(gates[part.name], dtype=torch.float32, device=device, requires_grad=True)
        for part in parts
    }
    hooks: list[RemovableHandle] = []
    with apart(model, parts, trainable=lambda _: False):
        try:
            for part in parts:
                hooks += part.gated(leaves[part.name])
            rows = [_gradients(loss(index), list(leaves.values())) for index in range(batches)]
        finally:
            for hook in hooks:
                hook.remove()
    return _collect(list(leaves), mean(rows))


def taylor_probe(
    model: nn.Module,
    parts: Sequence[FrozenLayers],
    trainable: Callable[[nn.Parameter], bool],
    loss: Loss,
    batches: int,
    mean: Mean = lambda rows: rows,
) -> dict[str, UnitScores]:
    """Sum of weight x gradient of every layer, from a full backward pass: active and frozen on one footing.

    Args:
        model: the model.
        parts: its stacks of layers.
        trainable: whether a parameter takes part in training at all; exactly these get a gradient.
        loss: mean loss of probe micro-batch i.
        batches: number of micro-batches.
        mean: over the processes of a distributed training, of what each found.

    Raises:
        ValueError: the loss does not depend on the model.
    """
    stacks = [part.layer_parameters() for part in parts]
    with apart(model, parts, trainable=trainable):
        wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
        sharded = is_sharded(model)
        rows = []
        for index in range(batches):
            found = (sharded_gradients if sharded else _gradients)(loss(index), wanted)
            gradients = dict(zip(wanted, found, strict=True))
            rows.append([torch.stack([_products(layer, gradients) for layer in layers]) for layers in stacks])
    return _collect([part.name for part in parts], mean(rows))


def is_compiled(model: nn.Module) -> bool:
    """Whether any module of the model was compiled in place (``module.compile()``)."""
    return any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules())


def _products(layer: Sequence[nn.Parameter], gradients: Mapping[nn.Parameter, Tensor]) -> Tensor:
    pairs = [(weight, gradients[weight]) for weight in layer if weight in gradients]
    if not pairs:
        return torch.zeros((), device=layer[0].device)
    return torch.stack([whole((weight.detach().float() * gradient.float()).sum()) for weight, gradient in pairs]).sum()


def _gradients(value: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    if not getattr(value, "requires_grad", False):
        raise ValueError(
            "the probe loss has no gradient: loss(i) must run the sparsified model, outside torch.no_grad(), and "
            "return the loss as a scalar tensor"
        )
    found = torch.autograd.grad(value, leaves, allow_unused=True)
    if all(gradient is None for gradient in found):
        raise ValueError(
            "the probe loss depends on no unit: loss(i) must run the sparsified model, and gradient checkpoints must "
            "be non-reentrant (use_reentrant=False), since reentrant ones hide from a probe what runs inside"
        )
    return [torch.zeros_like(leaf) if own is None else own for leaf, own in zip(leaves, found, strict=True)]


def _collect(names: Sequence[str], rows: Sequence[Sequence[Tensor]]) -> dict[str, UnitScores]:
    found = {}
    for at, name in enumerate(names):
        stacked = torch.stack([row[at].float() for row in rows])
        found[name] = UnitScores(stacked.mean(0), stacked.square().mean(0))
    return found


@contextmanager
def apart(model: nn.Module, parts: Sequence[Part], trainable: Callable[[nn.Parameter], bool]) -> Iterator[None]:
    """A full model for a while, with its own gradient flags; generators and buffers (running statistics) continue as
    if nothing had happened."""
    device = next(model.parameters()).device
    with ExitStack() as stack:
        if is_compiled(model):  # compiled code was traced without the gates' hooks
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.enter_context(torch.enable_grad())
        for part in parts:
            stack.enter_context(part.full(states=False))
        flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        for parameter, _ in flags:
            parameter.requires_grad_(trainable(parameter))
        buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
        try:
            yield
        finally:
            for buffer, value in buffers:
                buffer.data.copy_(value)
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
