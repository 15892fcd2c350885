"""The seam of second opinions: another tool's meter over the same window, its figure as it gives it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar

from harness.registry import Registry
from harness.types import Basis, Frozen


class Part(StrEnum):
    """What kind of thing a figure covers; only figures of the same part can be compared."""

    GPU = "gpu"
    CPU = "cpu"
    MEMORY = "memory"
    SOC = "soc"  # a rail or the whole of a system on a chip


class SecondOpinion(Frozen):
    """What another tool says of a window. ``joules`` is ``None`` where it says nothing, never 0."""

    tool: str  # name and version
    joules: float | None
    basis: Basis
    covers: str  # what its number covers, e.g. "1 GPU", "CPU and memory of the machine"
    seconds: float | None = None  # the window as the tool saw it
    reason: str = ""  # why there is no number, or what it rests on
    part: Part | None = None  # ``None`` where there is no number


class Opinion(ABC):
    """Another tool, started and stopped with our window, in the process that calls.

    :meth:`prepare` is the slow half (imports, search for devices); without it :meth:`start` does it first.
    No failure of a tool is ever raised: :meth:`stop` gives it as a reason.
    """

    name: ClassVar[str]
    title: ClassVar[str]

    def __init__(self) -> None:
        self._prepared = False
        self._failure = ""

    @classmethod
    @abstractmethod
    def available(cls) -> str | None:
        """``None`` if it can be used, else what is missing and how to get it."""

    def prepare(self, devices: Sequence[str]) -> None:
        """Do what takes long, ahead of the window on the GPUs with these UUIDs; none means the CPU."""
        if self._prepared:
            return
        self._prepared = True
        try:
            self._prepare(devices)
        except Exception as error:
            self._failed("could not be set up", error)

    def start(self, devices: Sequence[str]) -> None:
        """Begin the window on the GPUs with these UUIDs; none means the CPU."""
        self.prepare(devices)
        if self._failure:
            return
        try:
            self._start()
        except Exception as error:
            self._failed("could not begin the window", error)

    def stop(self) -> list[SecondOpinion]:
        """End the window: a figure for each thing covered. A failure of the tool is a reason, never raised."""
        opinions: list[SecondOpinion] = []
        if not self._failure:
            try:
                opinions = self._stop()
            except Exception as error:
                self._failed("could not end the window", error)
        self._release()
        return opinions if not self._failure else [self._nothing(self._failure)]

    @abstractmethod
    def _prepare(self, devices: Sequence[str]) -> None:
        """May raise."""

    @abstractmethod
    def _start(self) -> None:
        """May raise."""

    @abstractmethod
    def _stop(self) -> list[SecondOpinion]:
        """May raise."""

    @abstractmethod
    def _release(self) -> None:
        """Undo what was changed in this process (loggers); never raises."""

    @abstractmethod
    def _tool(self) -> str:
        """Name and version."""

    def _nothing(self, reason: str) -> SecondOpinion:
        return SecondOpinion(tool=self._tool(), joules=None, basis=Basis.MEASURED, covers="nothing", reason=reason)

    def _failed(self, what: str, error: Exception) -> None:
        text = " ".join(str(error).split())
        self._failure = f"{self.title} {what}: {type(error).__name__}{f': {text}' if text else ''}"


OPINIONS: Registry[type[Opinion]] = Registry(
    "opinion",
    {
        "zeus": "harness.meter.opinions.zeus:ZeusOpinion",
        "codecarbon": "harness.meter.opinions.codecarbon:CodeCarbonOpinion",
    },
)
