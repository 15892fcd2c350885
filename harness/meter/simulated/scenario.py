"""The scenario file of a simulation: cards, their sensors and faults, and the load they carry.

::

    title: One H100 under a square wave
    load: {curve: [[0, 600], [0.06, 250]], repeat_s: 0.1}   # or power_w: 400
    arms: {sat: {power_w: 160}}         # other loads by arm: a planted saving
    cards:
      - name: NVIDIA H100 80GB HBM3
        gain: 1.05                      # readings are truth x gain + offset_w
        sensor: {period_s: 0.1, window_s: 0.025}
        counter: {of: sensor}           # or of: power, a counter that misses nothing
        faults:
          - {kind: missing, from_s: 3, until_s: 3.2}
          - {kind: lost, from_s: 8}

Every key has a default: an empty file is one H100 at rest. Times are seconds since the meter was opened.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from harness.meter.simulated.load import Load, Seconds, Watts
from harness.types import Frozen, UserError

SHIPPED = Path(__file__).parent / "scenarios"

Positive = Annotated[float, Field(gt=0)]
Reading = Literal["energy", "power", "power_mean", "throttle", "temperature", "power_limit", "processes"]
READINGS: tuple[Reading, ...] = ("energy", "power", "power_mean", "throttle", "temperature", "power_limit", "processes")


class Sensor(Frozen):
    """A power sensor that looks ``window_s`` long at every ``period_s`` (SC24: 25 of 100 ms on A100 and H100)."""

    period_s: Positive = 0.1
    window_s: Positive = 0.025
    phase_s: Seconds = 0.0  # its first look ends so long after the meter was opened
    mean_window_s: Positive = 1.0  # of the reading that is called average
    noise_w: Watts = 0.0  # of one look, one standard deviation
    quantum_w: Positive = 1e-3


class Counter(Frozen):
    """An energy counter, in steps.

    ``of: sensor`` adds up the sensor's looks, so it shares what the sensor misses; ``of: power`` integrates
    the truth. Which of the two an A100 or H100 has is not known in public.
    """

    of: Literal["sensor", "power"] = "sensor"
    period_s: Positive = 0.1  # of: power; a counter of looks steps with the sensor
    phase_s: Seconds = 0.0
    quantum_j: Positive = 1e-3
    start_j: Annotated[float, Field(ge=0)] = 1e6  # the card has worked since its driver was loaded


class FaultKind(StrEnum):
    """What can go wrong with a card or its readings."""

    MISSING = "missing"  # the read fails with an unknown error
    UNSUPPORTED = "unsupported"
    DENIED = "denied"
    LOST = "lost"  # the whole card, for every call
    FROZEN = "frozen"  # readings stay what they were
    RESET = "reset"  # the counter starts again at 0
    JUMP = "jump"  # the counter jumps by ``value`` joules
    NOT_AVAILABLE = "not_available"  # success, and all bits set
    ZERO = "zero"  # success, and 0: the commonest lie
    NEGATIVE = "negative"  # success, and a negative number
    POWER_LIMIT = "power_limit"  # it is ``value`` watts
    FOREIGN = "foreign"  # ``value`` processes of others on the card
    THROTTLE = "throttle"  # clocks are held back by heat
    CLOCK_STEP = "clock_step"  # the driver's timestamps jump by ``value`` seconds
    SLOW = "slow"  # each read of fields takes ``value`` seconds
    CRASH = "crash"  # the library raises what it should never raise


_NEED_VALUE = {FaultKind.JUMP, FaultKind.POWER_LIMIT, FaultKind.FOREIGN, FaultKind.CLOCK_STEP, FaultKind.SLOW}


class Fault(Frozen):
    """One fault, from a time on, for a while or for good."""

    kind: FaultKind
    from_s: Seconds = 0.0
    until_s: Seconds | None = None
    readings: tuple[Reading, ...] = READINGS  # which of them, where the kind leaves a choice
    value: float | None = None

    @model_validator(mode="after")
    def _whole(self) -> Fault:
        if (self.value is None) == (self.kind in _NEED_VALUE):
            raise ValueError(f"{self.kind.value} {'needs a' if self.kind in _NEED_VALUE else 'takes no'} value")
        if self.until_s is not None and self.until_s <= self.from_s:
            raise ValueError("until_s must be later than from_s")
        return self

    def holds(self, seconds: float) -> bool:
        """Whether it is on at a time."""
        return self.from_s <= seconds and (self.until_s is None or seconds < self.until_s)


class Card(Frozen):
    """One card. Its share of the load is ``load_scale``."""

    name: str = "NVIDIA H100 80GB HBM3"
    sensor: Sensor = Sensor()
    counter: Counter = Counter()
    gain: Positive = 1.0
    offset_w: float = 0.0
    load_scale: Positive = 1.0
    power_limit_w: Positive = 700.0
    temperature_c: float = 40.0
    heating_c_per_w: Annotated[float, Field(ge=0)] = 0.05  # over ``temperature_c``, by the mean power of 30 s
    mig: bool = False  # an instance of a card that is cut in parts
    vgpu: bool = False
    seed: int = 0  # of the sensor's noise
    faults: tuple[Fault, ...] = ()


class Scenario(Frozen):
    """A whole scenario file."""

    title: str = ""
    load: Load = Load(power_w=0.0)
    arms: dict[str, Load] = Field(default_factory=dict)
    cards: Annotated[tuple[Card, ...], Field(min_length=1)] = (Card(),)
    driver: str = "580.65.06"

    def load_of(self, arm: str | None) -> Load:
        """The load of an arm: its own, or that of all."""
        return self.arms.get(arm or "", self.load)


def shipped() -> list[str]:
    """Names of the scenarios that come with the harness."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def find(name: str) -> Path:
    """The file of a scenario: a path, or the name of a shipped one.

    Raises:
        UserError: neither.
    """
    for path in (Path(name), SHIPPED / f"{name}.yaml"):
        if path.is_file():
            return path
    raise UserError(f"meter 'simulated': {name!r} is neither a file nor a shipped scenario ({', '.join(shipped())})")


def load_scenario(path: Path) -> Scenario:
    """Read and check a scenario file.

    Raises:
        UserError: naming the file and every key that is wrong.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Scenario.model_validate({} if content is None else content)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'the whole'}: {item['msg']}" for item in error.errors()
        )
        raise UserError(f"{path}: not a scenario: {wrong}") from error
