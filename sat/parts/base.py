"""What the controller asks of a part of the model whose units it switches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sat.parts.slices import Slice
from sat.structure import Cut


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

    @property
    @abstractmethod
    def gated_modules(self) -> list[nn.Module]:
        """The modules on which the hooks of :meth:`gated` are."""

    def banked(self) -> Iterable[Tensor]:
        """The tensors kept of units that are out (weights, buffers, optimizer state)."""
        return ()

    def cut_parameters(self) -> Iterable[tuple[nn.Parameter, tuple[Cut, ...]]]:
        """Parameters that hold the active units only, with the places of the units in them."""
        return ()

    def whole_parameters(self, unit: int) -> Iterable[nn.Parameter]:
        """Parameters that are one unit's alone, and leave the model with it."""
        return ()

    def release(self) -> None:  # noqa: B027 (most parts leave nothing behind)
        """Take off what the part has put on the model's modules. Called once, when the part is fully active."""

    @property
    @abstractmethod
    def modules(self) -> Iterable[nn.Module]:
        """The modules whose parameters belong to the units."""

    def slices(self, factors: Mapping[int, float]) -> Iterable[Slice]:
        """What of the parameters belongs to active units whose updates are scaled by ``factors``."""
        raise ValueError(f"rewarm_steps and protect_steps: the updates of {self.name} can't be scaled unit by unit")

    def fits(self, source: int, target: int) -> bool:
        """Whether ``target`` can be a copy of ``source``."""
        return False

    def copy_unit(self, source: int, target: int) -> None:
        """Give unit ``target`` the weights of ``source``; only where units are alike (layers)."""
        raise NotImplementedError(f"units of {self.name} can't be copied")
