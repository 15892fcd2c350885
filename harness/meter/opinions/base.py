"""The seam of second opinions: another tool's meter over the same window, its figure as it gives it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from harness.registry import Registry
from harness.types import Basis, Frozen


class SecondOpinion(Frozen):
    """What another tool says of a window. ``joules`` is ``None`` where it says nothing, never 0."""

    tool: str  # name and version
    joules: float | None
    basis: Basis
    covers: str  # what its number covers, e.g. "1 GPU", "CPU and memory of the machine"
    seconds: float | None = None  # the window as the tool saw it
    reason: str = ""  # why there is no number, or what it rests on


class Opinion(ABC):
    """Another tool, started and stopped with our window, in the process that calls."""

    name: str

    @classmethod
    @abstractmethod
    def available(cls) -> str | None:
        """``None`` if it can be used, else what is missing and how to get it."""

    @abstractmethod
    def start(self, devices: Sequence[str]) -> None:
        """Begin the window on the GPUs with these UUIDs; none means the CPU."""

    @abstractmethod
    def stop(self) -> list[SecondOpinion]:
        """End the window: a figure for each thing covered. A failure of the tool is a reason, never raised."""


OPINIONS: Registry[type[Opinion]] = Registry(
    "opinion",
    {
        "zeus": "harness.meter.opinions.zeus:ZeusOpinion",
        "codecarbon": "harness.meter.opinions.codecarbon:CodeCarbonOpinion",
    },
)
