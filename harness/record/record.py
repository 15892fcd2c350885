"""The record of one run: everything the judge and the page need, and nothing derived twice."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field

from harness.meter.base import Energy, MeterInfo
from harness.run.events import CHARGED, WindowKind
from harness.suite.spec import RunSpec
from harness.types import Frozen

SCHEMA = 1


class Status(StrEnum):
    """How a run ended."""

    OK = "ok"
    FAILED = "failed"  # raised, was killed, or timed out; the reason says which
    OUT_OF_MEMORY = "out_of_memory"
    INVALID = "invalid"  # it ended well but a validity gate says its energy can't be trusted
    SKIPPED = "skipped"  # never started; the reason says why


class WindowEnergy(Frozen):
    """One window and what it took."""

    kind: WindowKind
    start_s: float  # since the run's Started event
    end_s: float
    phase: int
    first_step: int
    steps: int
    energy: Energy

    @property
    def seconds(self) -> float:
        """Length of the window."""
        return self.end_s - self.start_s

    @property
    def charged(self) -> bool:
        """Whether it belongs to the headline."""
        return self.kind in CHARGED


class CurvePoint(Frozen):
    """Metrics on a small held-out part after so many steps, examples and charged joules.

    The whole held-out split is ``Record.quality``; the two are not on the same text.
    """

    step: int
    examples: int
    energy_j: float | None
    seconds: float  # charged time so far
    flops: float | None
    metrics: dict[str, float]
    standard_errors: dict[str, float] = Field(default_factory=dict)


class ActivityPoint(Frozen):
    """The active share from ``step`` on."""

    step: int
    active_units: float
    active_parameters: float
    entries: int = 0
    exits: int = 0
    returns: int = 0


class Flops(Frozen):
    """Counted matmul FLOPs. ``total`` includes probes."""

    total: float
    per_step: tuple[float, ...]
    per_probe: tuple[float, ...]
    source: str = "torch FlopCounterMode on meta tensors"


class SamplesFile(Frozen):
    """Where the raw samples lie, relative to the result set, and their SHA-256."""

    path: str
    sha256: str
    count: int


class Ended(Frozen):
    """How an attempt ended before any gate looked at it.

    With the raw files this is all that ``assemble`` is given beside the specification, so that the audit can put
    the record together again.
    """

    status: Status  # as the process ended
    reason: str = ""
    meter_problem: str = ""  # the sampler's own failure


class IdleBaseline(Frozen):
    """The raw samples behind ``idle_power_w``, and the window that was taken of them."""

    samples: SamplesFile
    start_ns: int
    end_ns: int


class Record(Frozen):
    """One attempt at one run."""

    record_schema: int = SCHEMA
    run_id: str
    block_id: str
    spec: RunSpec
    attempt: int = 1
    status: Status
    reason: str = ""
    position: int = 0  # place in its block's order, 0-based
    wall_clock: str = ""
    fingerprint: dict[str, Any] = Field(default_factory=dict)
    fingerprint_id: str = ""
    device_id: str = ""  # "cpu" or the GPU's UUID; pairs need the same one
    meter: MeterInfo | None = None
    parameters: int | None = None
    windows: tuple[WindowEnergy, ...] = ()
    energy: Energy | None = None  # charged windows together: the headline, gross
    energy_per_step: Energy | None = None  # steady protocol: phases weighted by the schedule
    seconds: float | None = None  # charged time
    seconds_per_step: float | None = None  # steady protocol: likewise weighted
    idle_power_w: float | None = None
    flops: Flops | None = None
    steps: int = 0
    examples: int = 0
    peak_memory_bytes: int | None = None
    curve: tuple[CurvePoint, ...] = ()
    quality: dict[str, float] = Field(default_factory=dict)
    quality_errors: dict[str, float] = Field(default_factory=dict)  # standard errors over held-out documents
    activity: tuple[ActivityPoint, ...] = ()
    conditions: dict[str, Any] = Field(default_factory=dict)  # temperature, throttling, foreign processes ...
    warnings: tuple[str, ...] = ()
    samples: SamplesFile | None = None
    events: SamplesFile | None = None
    ended: Ended | None = None  # None: recorded before it was kept; the record can't be put together again
    idle: IdleBaseline | None = None
    calibration: SamplesFile | None = None  # the fast polls behind ``meter.calibration``

    @property
    def files(self) -> tuple[SamplesFile, ...]:
        """Every raw file it refers to."""
        idle = self.idle.samples if self.idle is not None else None
        return tuple(file for file in (self.samples, self.events, idle, self.calibration) if file is not None)

    @property
    def ok(self) -> bool:
        """Whether it may enter a comparison."""
        return self.status is Status.OK
