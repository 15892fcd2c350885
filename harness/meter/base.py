"""The seam of metering: what a meter is, what it reads, what an energy is.

A meter is read by ``sampler.py`` in a process of its own. Its readings and the run's windows become
energies in ``energy.py``, which is pure. Missing is never zero: a reading has a status, an energy may
have no joules.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from harness.registry import Registry
from harness.types import Basis, Frozen, UserError


class ReadStatus(StrEnum):
    """What became of one read of one channel."""

    OK = "ok"
    MISSING = "missing"  # the sensor gave nothing this time
    UNSUPPORTED = "unsupported"
    DENIED = "denied"
    LOST = "lost"  # the device or the process is gone


class Quantity(StrEnum):
    """What a channel reports, with its unit."""

    ENERGY_J = "energy_j"  # cumulative; differences count
    POWER_W = "power_w"  # instantaneous
    POWER_MEAN_W = "power_mean_w"  # a mean over the sensor's own window: last resort
    CPU_S = "cpu_s"  # cumulative CPU seconds, times ``Channel.scale`` watts per core
    TEMPERATURE_C = "temperature_c"
    THROTTLE_NS = "throttle_ns"  # cumulative nanoseconds of a clock-event reason
    POWER_LIMIT_W = "power_limit_w"
    FOREIGN_PROCESSES = "foreign_processes"
    BUSY_CPU_S = "busy_cpu_s"  # cumulative CPU seconds of everything on the machine
    FOREIGN_CPU_S = "foreign_cpu_s"  # the same without the run's process tree and the sampler
    CLOCK_LAG_S = "clock_lag_s"  # arrival of a reading minus its own time, of a source with a clock of its own


class Channel(Frozen):
    """One stream of numbers from one device."""

    name: str  # unique within the meter, e.g. "gpu0/energy"
    quantity: Quantity
    device: str  # GPU UUID, RAPL domain, or "cpu"
    scope: str  # what the number covers: "gpu", "module", "board", "package-0", "process tree" ...
    basis: Basis
    scale: float = 1.0  # CPU_S: watts per core
    wrap_at: float | None = None  # cumulative counters: the value at which they start again
    quantum: float = 0.0  # smallest step of the number
    gain_error: float = 0.0  # relative, one standard deviation, not cancelled by differences


class ChannelCalibration(Frozen):
    """What polling one channel faster than it is refreshed has shown. ``None`` is not seen."""

    channel: str
    updates: int  # changes of the value that were seen
    period_s: float | None = None  # median time between two changes
    period_spread_s: float | None = None  # half the width of the middle 68 % of those times
    quantum: float | None = None  # smallest step between two values, in the channel's unit
    averaging_window_s: float | None = None  # over how much of the past a power is averaged


class Calibration(Frozen):
    """What a meter showed of itself just before it was used."""

    seconds: float  # how long it was polled
    poll_hz: float  # how often, as achieved
    read_s: float  # median time of one read of all channels
    read_cpu_s: float  # CPU time of one read, mean
    channels: tuple[ChannelCalibration, ...]


MARGIN_REFRESHES = 2.5
"""A counter's value at a window's edge lies between the refreshes on both sides of it."""
MAX_MARGIN_S = 0.5


class MeterInfo(Frozen):
    """What a record says of its meter."""

    name: str
    basis: Basis
    source: str  # for people: instrument, driver or table with its version
    channels: tuple[Channel, ...]
    assumptions: tuple[str, ...] = ()
    update_period_s: float | None = None  # of counter and sensor; the slower of the two
    look_s: float | None = None  # how long of each period the power sensor looks; None: not known
    sample_hz: float | None = None  # reads a second; where readings come from elsewhere, how often they do
    calibration: Calibration | None = None  # observed; without one ``update_period_s`` is assumed

    @property
    def margin_s(self) -> float:
        """To be read so long before and after a window, for the refreshes next to its edges."""
        return min(MARGIN_REFRESHES * (self.update_period_s or 0.0), MAX_MARGIN_S)


class Sample(NamedTuple):
    """One read of one channel. ``value`` is ``None`` unless ``status`` is OK.

    ``at_ns`` is ``time.monotonic_ns()`` at the read; ``sensor_ns`` the driver's own timestamp
    (another clock) where it gives one.
    """

    channel: int  # index into MeterInfo.channels
    at_ns: int
    status: ReadStatus
    value: float | None = None
    sensor_ns: int | None = None


COVERAGE_FACTOR = 2.0
"""Of an expanded uncertainty, for about 95 % (JCGM 100:2008 "GUM", 6.3.3)."""


class Energy(Frozen):
    """An amount of energy, or the statement that it is not known.

    ``uncertainty_j`` is one standard deviation, its parts in quadrature (``budget.py``); ``dominating`` names the
    largest part. ``coverage`` is the share of the window that was really observed.
    ``disagreement`` is (second channel - first) / first where two channels exist. ``parts`` is the
    uncertainty budget: one standard deviation of each part in joules, by name. ``seconds`` is the length
    of the window, so that ``joules / seconds`` is its mean power.
    """

    joules: float | None
    basis: Basis
    source: str
    scope: str
    coverage: float = 1.0
    uncertainty_j: float | None = None
    dominating: str = ""
    disagreement: float | None = None
    second_joules: float | None = None
    reason: str = ""  # why joules is None, or what was assumed
    parts: dict[str, float] = Field(default_factory=dict)
    seconds: float | None = None

    @property
    def known(self) -> bool:
        """Whether there is a number."""
        return self.joules is not None

    @property
    def expanded_j(self) -> float | None:
        """Half the width of the 95 % interval: twice the standard uncertainty (JCGM 100:2008, 6.3.3)."""
        return None if self.uncertainty_j is None else COVERAGE_FACTOR * self.uncertainty_j

    @property
    def interval_j(self) -> tuple[float, float] | None:
        """The 95 % interval; energy is never negative."""
        if self.joules is None or self.expanded_j is None:
            return None
        return max(0.0, self.joules - self.expanded_j), self.joules + self.expanded_j


class Meter(ABC):
    """One instrument. Subclasses open it in :meth:`open`, called inside the sampler's process.

    The order of a meter's life is ``available`` (parent), ``open``, ``read`` ..., ``close``.
    """

    name: str
    covers: ClassVar[frozenset[str]] = frozenset({"cpu", "cuda"})
    """Devices of a training that it may stand for: an instrument of the CPU tells nothing of a card."""
    basis: ClassVar[Basis] = Basis.MEASURED
    """What its energies are at best, known before it is opened; ``MeterInfo.basis`` is what they are."""
    argument: ClassVar[str] = ""
    """What follows the name in ``--meter NAME:ARGUMENT``, for people, e.g. ``FILE``; empty: nothing may."""
    calibrates: ClassVar[bool] = False
    """Whether it has a refresh of its own that fast polling can see: an instrument, neither model nor recording."""
    by_arm: ClassVar[bool] = False
    """Whether the constructor takes ``arm``: a made-up instrument may plant other watts for each arm."""

    @classmethod
    def cards(cls, options: dict[str, Any]) -> tuple[str, ...]:
        """Devices that it meters whatever a run is on, by UUID; empty where they are those of the run."""
        return ()

    @classmethod
    def options_of(cls, argument: str) -> dict[str, Any]:
        """The constructor's options for ``NAME:ARGUMENT``.

        Raises:
            UserError: an argument that is missing, not taken, or names nothing.
        """
        if argument:
            raise UserError(f"meter {cls.name!r} takes no argument, not {argument!r}")
        return {}

    @classmethod
    @abstractmethod
    def available(cls) -> str | None:
        """``None`` if this machine has it, else what is missing and how to get it."""

    @abstractmethod
    def open(self, pid: int | None, device: str | None) -> MeterInfo:
        """Start measuring; ``pid`` roots the process tree, ``device`` is a GPU UUID or ``None``."""

    @abstractmethod
    def read(self) -> list[Sample]:
        """One sample of every channel. Never raises for a sensor's failure: the status says it."""

    def read_last(self) -> list[Sample]:
        """The last read of a run. An instrument whose readings come late waits for them here, 20 s at most."""
        return self.read()

    def close(self) -> None:
        """Let go of the instrument."""
        return


METERS: Registry[type[Meter]] = Registry(
    "meter",
    {
        "nvml": "harness.meter.nvml:NvmlMeter",
        "rapl": "harness.meter.rapl:RaplMeter",
        "modelled": "harness.meter.modelled:ModelledCpuMeter",
        "replay": "harness.meter.replay:ReplayMeter",
        "simulated": "harness.meter.simulated.meter:SimulatedMeter",
        "external": "harness.meter.external.meter:ExternalMeter",
    },
)
