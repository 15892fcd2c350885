"""The scenario file of a simulation: cards, their sensors and faults, and the load they carry.

::

    title: One H100 under a square wave
    load: {curve: [[0, 600], [0.06, 250]], repeat_s: 0.1}   # or power_w: 400
    arms: {sat: {power_w: 160}}         # other loads by arm: a planted saving
    idle: {power_w: 70}                 # while nothing is trained: the idle baseline
    cards:
      - name: NVIDIA H100 80GB HBM3
        gain: 1.05                      # readings are truth x gain + offset_w
        sensor: {period_s: 0.1, window_s: 0.025}
        counter: {of: sensor}           # or of: power, a counter that misses nothing
        faults:
          - {kind: missing, from_s: 3, until_s: 3.2}
          - {kind: lost, from_s: 8}

Every key has a default: an empty file is one H100 at rest. Times are seconds since the meter was opened.
``docs/simulated-card.md`` has every key.
"""

from __future__ import annotations

import os
import re
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from harness.meter.simulated.load import Load, Seconds, Watts
from harness.registry import did_you_mean
from harness.types import Frozen, UserError, digest

SHIPPED = Path(__file__).parent / "scenarios"

Positive = Annotated[float, Field(gt=0)]
Scope = Literal["gpu", "module", "memory"]
Reading = Literal["energy", "power", "power_mean", "throttle", "temperature", "power_limit", "processes", "fields"]
READINGS: tuple[Reading, ...] = tuple(name for name in get_args(Reading) if name != "fields")
"""What a fault spoils unless it says otherwise; ``fields``, the call for many readings at once, only if named."""


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
    scope: Literal["gpu", "module"] = "gpu"  # a GH200 counts the whole module
    period_s: Positive = 0.1  # of: power; a counter of looks steps with the sensor
    phase_s: Seconds = 0.0
    quantum_j: Positive = 1e-3
    start_j: Annotated[float, Field(ge=0)] = 1e6  # the card has worked since its driver was loaded


class FaultKind(StrEnum):
    """What can go wrong with a card or its readings."""

    MISSING = "missing"  # the read fails with an unknown error
    UNSUPPORTED = "unsupported"
    NO_FUNCTION = "no_function"  # the driver is older than the call
    DENIED = "denied"
    LOST = "lost"  # the whole card, for every call
    FROZEN = "frozen"  # readings stay what they last were
    RESET = "reset"  # the counter starts again at 0
    JUMP = "jump"  # the counter jumps by ``value`` joules
    NOT_AVAILABLE = "not_available"  # success, and all bits set
    ZERO = "zero"  # success, and 0: the commonest lie
    NEGATIVE = "negative"  # success, and a negative number
    POWER_LIMIT = "power_limit"  # it is ``value`` watts
    FOREIGN = "foreign"  # ``value`` processes of others on the card
    THROTTLE = "throttle"  # clocks are held back by heat
    POWER_CAP = "power_cap"  # clocks are held back at the power limit
    POWER_BRAKE = "power_brake"  # clocks are held back by the server's power brake
    CLOCK_STEP = "clock_step"  # the driver's timestamps are off by ``value`` seconds
    SLOW = "slow"  # each call takes ``value`` seconds
    CRASH = "crash"  # the library raises what it should never raise


_NEED_VALUE = {FaultKind.JUMP, FaultKind.POWER_LIMIT, FaultKind.FOREIGN, FaultKind.CLOCK_STEP, FaultKind.SLOW}
_AT_ONCE = {FaultKind.RESET, FaultKind.JUMP}
_NOT_NEGATIVE = {FaultKind.POWER_LIMIT, FaultKind.FOREIGN, FaultKind.SLOW}
ANSWERS_BADLY = {
    FaultKind.MISSING, FaultKind.UNSUPPORTED, FaultKind.NO_FUNCTION, FaultKind.DENIED, FaultKind.FROZEN,
    FaultKind.NOT_AVAILABLE, FaultKind.ZERO, FaultKind.NEGATIVE,
}  # fmt: skip
"""The kinds that spoil readings, and so can be told which."""


class Fault(Frozen):
    """One fault, from a time on, for a while or for good."""

    kind: FaultKind
    from_s: Seconds = 0.0
    until_s: Seconds | None = None
    readings: tuple[Reading, ...] = READINGS  # which of them, where the kind leaves a choice
    value: float | None = None

    @model_validator(mode="after")
    def _whole(self) -> Fault:
        kind = self.kind.value
        if (self.value is None) == (self.kind in _NEED_VALUE):
            raise ValueError(f"{kind} {'needs a' if self.kind in _NEED_VALUE else 'takes no'} value")
        if self.value is not None and self.value < 0 and self.kind in _NOT_NEGATIVE:
            raise ValueError(f"value of {kind} must not be negative")
        if self.kind is FaultKind.FOREIGN and self.value != int(self.value or 0):
            raise ValueError("value of foreign is a whole number of processes")
        if self.until_s is not None and self.kind in _AT_ONCE:
            raise ValueError(f"{kind} happens at once: it takes no until_s")
        if self.until_s is not None and self.until_s <= self.from_s:
            raise ValueError("until_s must be later than from_s")
        if "readings" in self.model_fields_set and self.kind not in ANSWERS_BADLY:
            raise ValueError(f"{kind} takes no readings")
        return self

    def holds(self, seconds: float) -> bool:
        """Whether it is on at a time."""
        return self.from_s <= seconds and (self.until_s is None or seconds < self.until_s)


class Part(Frozen):
    """What belongs to a card beside or inside the GPU: it draws ``share`` of the GPU's watts, and ``rest_w``."""

    share: Annotated[float, Field(ge=0)] = 1.0
    rest_w: Watts = 0.0


class Card(Frozen):
    """One card. Its share of the load is ``load_scale``."""

    name: str = "NVIDIA H100 80GB HBM3"
    architecture: Literal["pascal", "volta", "turing", "ampere", "ada", "hopper", "blackwell"] = "hopper"
    memory_gib: Positive = 80.0
    sensor: Sensor = Sensor()
    counter: Counter | None = Counter()  # null: none, as before Volta
    module: Part | None = None  # power of the whole module, e.g. of a GH200
    memory: Part | None = None  # power of the memory
    timestamps: Literal["refresh", "read"] = "refresh"  # what the driver's timestamp of a field tells
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

    @model_validator(mode="after")
    def _whole(self) -> Card:
        if self.counter is not None and self.counter.scope == "module" and self.module is None:
            raise ValueError("a counter of the module needs a module")
        return self


class Scenario(Frozen):
    """A whole scenario file."""

    title: str = ""
    load: Load = Load(power_w=0.0)
    arms: dict[str, Load] = Field(default_factory=dict)
    idle: Load | None = None  # while nothing is trained; the load itself if left out
    cards: Annotated[tuple[Card, ...], Field(min_length=1)] = (Card(),)
    driver: Annotated[str, Field(pattern=r"^\d+(\.\d+)*$")] = "580.95.05"  # an old one has fewer readings

    def load_of(self, arm: str | None) -> Load:
        """The load of an arm: its own, or that of all."""
        return self.arms.get(arm or "", self.load)

    @cached_property
    def identity(self) -> str:
        """Eight hex digits of all it says but its title: part of the cards' UUIDs, so that no two are mixed up."""
        return digest(self.model_dump(mode="json", exclude={"title"}), 8)


def shipped() -> dict[str, Path]:
    """Names and files of the scenarios that come with the harness, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def find(name: str) -> Path:
    """The file of a scenario: a shipped one by its name, or a path.

    Raises:
        UserError: neither.
    """
    known = shipped()
    if name in known:
        return known[name]
    if os.path.isfile(name):
        return Path(name)
    raise UserError(
        f"meter 'simulated': {name!r} is neither a file nor a shipped scenario{did_you_mean(name, known) or ';'} "
        f"shipped: {', '.join(known)}"
    )


def load_scenario(path: Path) -> Scenario:
    """Read and check a scenario file.

    Raises:
        UserError: naming the file and every key that is wrong.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        return Scenario.model_validate({} if content is None else content)
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {error}") from error
    except ValidationError as error:
        raise UserError(f"{path}: not a scenario: {'; '.join(map(_explained, error.errors()))}") from error


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice: the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, every key once."""
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
        return super().construct_mapping(node, deep)


def _explained(item: Any) -> str:
    """One mistake with its place, and the nearest key that would have been right."""
    where = ".".join(str(part) for part in item["loc"]) or "the whole"
    message = re.sub(r"^Value error, ", "", item["msg"])
    if item["type"] == "extra_forbidden":
        models = (Scenario, Card, Sensor, Counter, Fault, Load, Part)
        known = {key for model in models for key in model.model_fields}
        message = f"there is no such key{did_you_mean(str(item['loc'][-1]), sorted(known))}"
    return f"{where}: {message}"
