"""What the controller asks of a part of the model whose units it switches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sat.parts.slices import Slice
from sat.structure import Cut


@dataclass(frozen=True, eq=False)
class Scaled:
    """Weights that were multiplied by ``factor``: a whole parameter, or what ``units`` have along all of ``cuts``."""

    parameter: Tensor
    factor: float
    cuts: tuple[Cut, ...] = ()
    units: tuple[int, ...] = ()


class Part(ABC):
    """A set of units with an active subset. It starts fully active."""

    name: str
    units: int
    unit_flops: float  # training FLOPs per token of one unit
    active: tuple[int, ...]  # rising
    floor: int = 1  # fewest active units
    pinned: tuple[int, ...] = ()  # units that are always active
    enters_at_zero: bool = True  # whether zero output projections make a new unit change nothing
    scaled: list[Scaled]  # all that was multiplied so far, in order; whoever keeps averages must follow

    @abstractmethod
    def switch(self, active: tuple[int, ...], fresh: Sequence[int] = ()) -> None:
        """Make ``active`` (rising) the active set. Units in ``fresh`` enter with a zero output projection."""

    @abstractmethod
    def full(self, *, states: bool = True, keep: bool = False) -> AbstractContextManager[None]:
        """The plain, full part for a while; afterwards all is as before.

        Only weights come to the device. Optimizer state of units that are out stays in the bank, since nothing
        computes with it.

        Args:
            states: let the optimizer show its full state too; a probe needs none.
            keep: what is written to the weights meanwhile stays.
        """

    @abstractmethod
    def gated(self, gates: Tensor) -> list[RemovableHandle]:
        """Hooks that multiply each unit's result by its gate; ``gates`` has one number per present unit."""

    @abstractmethod
    def magnitudes(self) -> Tensor:
        """Mean squared weight of every unit, shape (units,). What is out comes to the device tensor by tensor."""

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

    def lent(self) -> Iterable[Tensor]:
        """Those of the bank's tensors that :meth:`full` brings to the device."""
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
