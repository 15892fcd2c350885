"""What the controller asks of a part of the model whose units it switches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager

from torch import Tensor
from torch.utils.hooks import RemovableHandle


class Part(ABC):
    """A set of units with an active subset. It starts fully active."""

    name: str
    units: int
    unit_flops: float  # training FLOPs per token of one unit
    active: tuple[int, ...]  # rising
    floor: int = 1  # fewest active units
    pinned: tuple[int, ...] = ()  # units that are always active
    enters_at_zero: bool = True  # whether zero output projections make a new unit change nothing

    @abstractmethod
    def switch(self, active: tuple[int, ...], fresh: Sequence[int] = ()) -> None:
        """Make ``active`` (rising) the active set. Units in ``fresh`` enter with a zero output projection."""

    @abstractmethod
    def full(self) -> AbstractContextManager[None]:
        """The plain, full part (weights, optimizer state) for a while; afterwards all is as before."""

    @abstractmethod
    def gated(self, gates: Tensor) -> list[RemovableHandle]:
        """Hooks that multiply each unit's result by its gate; ``gates`` has one number per present unit."""

    @abstractmethod
    def magnitudes(self) -> Tensor:
        """Mean squared weight of every unit, shape (units,). Call inside :meth:`full`."""

    @abstractmethod
    def products(self) -> Tensor | None:
        """Sum of weight x gradient of each active unit, shape (active,); ``None`` without gradients."""

    @abstractmethod
    def scale_outputs(self, units: Sequence[int], factor: float) -> None:
        """Multiply the output projections of ``units`` in place. The part must be fully active."""

    def fits(self, source: int, target: int) -> bool:
        """Whether ``target`` can be a copy of ``source``."""
        return False

    def copy_unit(self, source: int, target: int) -> None:
        """Give unit ``target`` the weights of ``source``; only where units are alike (layers)."""
        raise NotImplementedError(f"units of {self.name} can't be copied")
