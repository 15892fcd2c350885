"""What ``measure`` keeps of each command it ran, and what it makes of it.

:class:`Run` holds raw facts only and goes to disk as one line; :class:`Figure`, :class:`Saving` and
:class:`Document` follow from runs and their samples alone and can be derived again at any time.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from harness.judge.types import Estimate
from harness.meter.base import Energy
from harness.meter.opinions.base import SecondOpinion
from harness.meter.opinions.compare import Row
from harness.record.record import SamplesFile
from harness.types import Basis, Frozen

VERSION = 1
"""Of the documents and of the folder; a change of any key raises it."""


class Role(StrEnum):
    """What a run is for."""

    ONCE = "once"
    WARM_UP = "warm-up"  # recorded, in no pair
    PAIR = "pair"


class Survivor(Frozen):
    """A process of the command's tree that lived on after the command."""

    pid: int
    name: str


class Window(Frozen):
    """A samples file and the stretch of it that counts, by ``time.monotonic_ns()``."""

    samples: SamplesFile
    start_ns: int
    end_ns: int


class MeterRun(Frozen):
    """What one meter left of one run."""

    meter: str  # unique among the meters of a plan
    samples: SamplesFile | None = None
    idle: Window | None = None  # at rest, before the run or before its pair
    problem: str = ""  # the meter's own failure; the run's joules are then not known
    cpu_share: float | None = None  # of one core, taken by the sampling


class Run(Frozen):
    """One execution of one command: facts, no figures."""

    key: str  # unique in its folder, names its files
    role: Role
    arm: str  # "a" or "b"
    pair: int = 0  # from 1; 0 outside pairs
    attempt: int = 1  # of the pair
    position: int = 0  # 0 first of its pair, 1 second
    wall_clock: str
    start_ns: int | None = None  # just before the exec; None if there was none
    end_ns: int | None = None  # when its end was seen
    exit_code: int  # as shells give it
    signal: int | None = None
    error: str = ""  # why it could not be started
    interrupted: bool = False  # a signal asked for an end while it ran
    cpu_s: float = 0.0  # of the command and all it waited for (wait4)
    peak_memory_bytes: int | None = None  # of its largest process (wait4); None: less than we had ourselves
    survivors: tuple[Survivor, ...] = ()
    meters: tuple[MeterRun, ...] = ()
    opinions: tuple[SecondOpinion, ...] = ()

    @property
    def seconds(self) -> float | None:
        """From exec to exit."""
        return None if self.start_ns is None or self.end_ns is None else (self.end_ns - self.start_ns) / 1e9

    @property
    def ok(self) -> bool:
        """Whether the command ended well."""
        return self.exit_code == 0 and not self.error


class MeterPlan(Frozen):
    """One meter to be used, and why."""

    label: str  # unique among those of one plan
    name: str  # in METERS
    options: dict[str, Any] = Field(default_factory=dict)
    device: str | None = None  # UUIDs of cards, comma-separated; None: all, or the CPU
    why: str
    asked: bool  # by name: then it is an error that it can't be opened


class Plan(Frozen):
    """Everything that is fixed before the first command starts. A folder goes on only under the same plan."""

    version: int = VERSION
    kind: Literal["once", "pairs"]
    argv: dict[str, tuple[str, ...]]  # by arm
    shell: bool = False
    label: str = ""
    directory: str  # where the commands run
    meters: tuple[MeterPlan, ...]
    machine: dict[str, Any]
    sample_hz: float
    idle_s: float
    step_s: float | None = None  # period of the command's repeated work, for the aliasing check
    opinions: tuple[str, ...] = ()
    pairs: int = 0
    why_pairs: str = ""
    warmups: int = 0
    cooldown_c: float | None = None
    allow_failures: bool = False
    seed: int = 0
    first: tuple[str, ...] = ()  # arm that goes first in each pair


class Net(Frozen):
    """Energy less what the same window would have taken at rest."""

    joules: float
    uncertainty_j: float  # one standard deviation
    idle_power_w: float


class Figure(Frozen):
    """One meter's energy of one run, with all that has to be known of it."""

    meter: str
    energy: Energy
    kwh: float | None
    uncertainty_95_j: float | None
    mean_power_w: float | None
    net: Net | None
    no_net: str = ""  # why there is none
    other_scopes: tuple[Energy, ...] = ()  # of the same meter; never added to ``energy``
    invalid: tuple[str, ...] = ()  # why it can't be trusted
    cautions: tuple[str, ...] = ()
    conditions: dict[str, Any] = Field(default_factory=dict)
    assumptions: tuple[str, ...] = ()
    sample_hz: float | None = None
    sampling_cpu_share: float | None = None
    samples: SamplesFile | None = None

    @property
    def sound(self) -> bool:
        """Whether it is a number that nothing speaks against."""
        return self.energy.known and not self.invalid


class Opined(Frozen):
    """A second opinion's row beside the figure of ours that is nearest to it in what it covers."""

    meter: str  # of ours
    row: Row


class RunFigures(Frozen):
    """A run and what it took."""

    run: Run
    seconds: float | None
    figures: tuple[Figure, ...]
    opinions: tuple[Opined, ...] = ()


class PairRow(Frozen):
    """One pair for one meter."""

    pair: int
    first: str  # arm
    joules_a: float | None
    joules_b: float | None
    seconds_a: float
    seconds_b: float
    log_energy_ratio: float | None  # ln(b / a)
    log_time_ratio: float
    left_out: str = ""  # why it does not count


class Saving(Frozen):
    """What ``b`` saves against ``a`` by one meter. Estimates are ``None`` where no pair counts."""

    meter: str
    scope: str
    basis: Basis
    source: str
    pairs: tuple[PairRow, ...]
    used: int
    energy: Estimate | None
    time: Estimate | None
    power: Estimate | None
    net: Estimate | None  # the same of energy net of idle
    order_effect: Estimate | None  # ln of second over first of a pair, arms aside; needs both orders
    mean_joules_a: float | None
    mean_joules_b: float | None
    cautions: tuple[str, ...] = ()


class OpinionSaving(Frozen):
    """The saving by another tool's figures of the same pairs."""

    tool: str
    covers: str
    used: int
    energy: Estimate | None


class Document(Frozen):
    """The whole answer; ``--json`` prints it."""

    document: Literal["harness-measure"] = "harness-measure"
    version: int = VERSION
    plan: Plan
    runs: tuple[RunFigures, ...]
    savings: tuple[Saving, ...] = ()
    opinion_savings: tuple[OpinionSaving, ...] = ()
    done_pairs: int = 0
    wasted_j: dict[str, float] = Field(default_factory=dict)  # by meter: warm-ups, failed and unfinished pairs
    notes: tuple[str, ...] = ()
    exit_code: int
    kept: str = ""  # folder with the raw samples, if they are kept
