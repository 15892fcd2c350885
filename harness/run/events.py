"""What a worker says: typed JSON lines with monotonic time.

All ``*_ns`` are ``time.monotonic_ns()``, one clock for every process of a Linux machine.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from harness.types import Frozen


class WindowKind(StrEnum):
    """What a stretch of time was spent on. Headline energy is :data:`CHARGED` together."""

    IDLE = "idle"
    WARMUP = "warmup"
    TRAIN = "train"
    PROBE = "probe"  # importance scoring and switching
    EVALUATE = "evaluate"
    CHECKPOINT = "checkpoint"


CHARGED = frozenset({WindowKind.WARMUP, WindowKind.TRAIN, WindowKind.PROBE})
"""The kinds that a training is charged with. Evaluation is outside, for every arm alike."""


class Started(Frozen):
    """First line of a worker."""

    event: Literal["started"] = "started"
    at_ns: int
    pid: int
    wall_clock: str  # ISO 8601 with offset, the anchor of the run
    device: str  # "cpu" or the GPU's UUID
    parameters: int
    fingerprint: dict[str, Any] = Field(default_factory=dict)  # what only the worker can see (torch, threads)


class Window(Frozen):
    """A closed window, the device synchronised at both edges."""

    event: Literal["window"] = "window"
    kind: WindowKind
    start_ns: int
    end_ns: int
    phase: int = 0  # index into the spec's phases
    first_step: int = 0
    steps: int = 0  # optimizer steps inside


class Progress(Frozen):
    """For the live line only; nothing is computed from it."""

    event: Literal["progress"] = "progress"
    at_ns: int
    step: int
    steps: int
    loss: float | None = None


class Evaluated(Frozen):
    """A point of the learning curve (a small part of the held-out split), or the final quality (all of it)."""

    event: Literal["evaluated"] = "evaluated"
    at_ns: int
    step: int  # optimizer steps done
    examples: int  # tokens, images, pairs ... seen
    metrics: dict[str, float]
    standard_errors: dict[str, float] = Field(default_factory=dict)
    final: bool = False


class Activity(Frozen):
    """The active share after a switch."""

    event: Literal["activity"] = "activity"
    at_ns: int
    step: int
    active_units: float
    active_parameters: float
    entries: int = 0
    exits: int = 0
    returns: int = 0


class Counted(Frozen):
    """FLOPs counted on meta tensors; ``per_step`` has one number for each phase of the spec."""

    event: Literal["counted"] = "counted"
    per_step: tuple[float, ...]
    per_probe: tuple[float, ...]  # of one importance probe in that phase, 0 where there is none
    total: float


class Finished(Frozen):
    """Last line of a run that ended well."""

    event: Literal["finished"] = "finished"
    at_ns: int
    steps: int
    examples: int
    peak_memory_bytes: int | None = None
    notes: tuple[str, ...] = ()


class Failed(Frozen):
    """Last line of a run that raised."""

    event: Literal["failed"] = "failed"
    at_ns: int
    out_of_memory: bool
    error: str
    traceback: str


Event = Annotated[
    Started | Window | Progress | Evaluated | Activity | Counted | Finished | Failed,
    Field(discriminator="event"),
]
_adapter: TypeAdapter[Event] = TypeAdapter(Event)


def parse(line: str | bytes) -> Event:
    """One line to its event; raises ``pydantic.ValidationError``."""
    return _adapter.validate_json(line)
