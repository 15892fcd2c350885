"""A learning rate that follows the depth or width at work: (active share) to the power of minus an exponent.

Smaller models take larger steps well. Under Depth-muP the rate of Adam is proportional to depth to the power of -1/2
(Yang et al. 2023, arXiv 2310.02244), under muP that of hidden weights to one over the width (Yang et al. 2022,
arXiv 2203.03466). The optimizer's own rate, which a scheduler sets and a checkpoint keeps, is the full model's; it is
multiplied only while the optimizer steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


class Rate:
    """Multiplies every group's learning rate by ``factor()`` for the time of the optimizer's step."""

    def __init__(self, factor: Callable[[], float]) -> None:
        self._factor = factor
        self._own: list[Any] | None = None  # the groups' own rates, while a step is under way
        self._hooks: list[Any] = []

    def attach(self, optimizer: Optimizer) -> None:
        """Hook into the optimizer's step."""
        self._hooks = [
            optimizer.register_step_pre_hook(self._raise),
            optimizer.register_step_post_hook(self._restore),
        ]

    def stop(self) -> None:
        """The optimizer's own rate from now on."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _raise(self, optimizer: Optimizer, *_: Any) -> None:
        if self._own is not None:  # an error ended the last step in the middle
            self._restore(optimizer)
        factor = self._factor()
        self._own = [_value(group["lr"]) for group in optimizer.param_groups]
        for group, own in zip(optimizer.param_groups, self._own, strict=True):
            _set(group, own * factor)

    def _restore(self, optimizer: Optimizer, *_: Any) -> None:
        if self._own is not None:
            for group, own in zip(optimizer.param_groups, self._own, strict=True):
                _set(group, own)
        self._own = None


def _value(rate: Any) -> Any:
    return rate.clone() if isinstance(rate, Tensor) else rate


def _set(group: dict[str, Any], rate: Any) -> None:
    """In place where the rate is a tensor: a captured graph reads it there."""
    if isinstance(group["lr"], Tensor):
        group["lr"].copy_(rate)
    else:
        group["lr"] = rate
