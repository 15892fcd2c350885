"""What the user says of an external meter: ``--meter external:FILE.csv``, ``:URL`` or ``:FILE.yaml``.

::

    source: plug.csv                # beside this file, or http://127.0.0.1:9100/metrics
    title: Shelly Plug S at the node's socket
    scope: wall socket              # what the number covers
    accuracy_percent: 1             # limit of error by the maker; or gain_error: one standard deviation, relative
    update_period_s: 1
    clock_offset_s: 0.2             # source's clock minus this machine's; or auto
    channels:
      - {column: apower, unit: W}
      - {column: aenergy.total, unit: Wh}
"""

from __future__ import annotations

import ipaddress
import math
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from harness.meter.base import Quantity
from harness.meter.external.units import KNOWN, Unit, unit_of
from harness.types import Frozen, UserError

Positive = Annotated[float, Field(gt=0)]
DEFAULT_GAIN_ERROR = 0.05
"""Relative, one standard deviation, where nothing is said of the instrument: that of a recent card's sensor
(Yang, Adamek and Armour, SC24), worse than any metering plug of class 2."""
LATE_S = 60.0
"""A reading that arrives so long after its own time has a wrong clock rather than a slow logger."""

QUANTITIES = {"energy": Quantity.ENERGY_J, "power": Quantity.POWER_W, "mean_power": Quantity.POWER_MEAN_W}


class Wanted(Frozen):
    """One stream of numbers: a column of a table or a metric with labels."""

    column: str | None = None
    metric: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    sum: bool = False  # add up all series that fit, instead of refusing more than one
    unit: str | None = None
    quantity: Literal["energy", "power", "mean_power"] | None = None  # energy is a counter
    scope: str | None = None
    device: str | None = None
    resolution: Positive | None = None  # smallest step, in the unit

    @field_validator("unit")
    @classmethod
    def _known(cls, unit: str | None) -> str | None:
        if unit is not None and unit_of(unit) is None:
            raise ValueError(f"unknown unit {unit!r}; known: {KNOWN}")
        return unit

    @model_validator(mode="after")
    def _whole(self) -> Wanted:
        if (self.column is None) == (self.metric is None):
            raise ValueError("a channel is either a column or a metric")
        unit = unit_of(self.unit) if self.unit else None
        if unit and self.quantity and (unit.quantity is Quantity.ENERGY_J) != (self.quantity == "energy"):
            raise ValueError(f"{self.unit} is no unit of {self.quantity}")
        return self

    def resolved(self, named: Unit | None) -> Unit | None:
        """Quantity and factor: as said here, else as the name says."""
        unit = unit_of(self.unit) if self.unit else named
        if unit is None or self.quantity is None:
            return unit
        return Unit(QUANTITIES[self.quantity], unit.factor)


class TimeColumn(Frozen):
    """Where a table keeps its times. ``iso`` is ISO 8601; without a unit the size of the numbers tells."""

    column: str
    unit: Literal["s", "ms", "us", "ns", "iso"] | None = None


class Options(Frozen):
    """A whole options file; the path or URL alone is all defaults."""

    source: str
    title: str = ""
    scope: str | None = None
    device: str | None = None
    channels: tuple[Wanted, ...] = ()
    time: TimeColumn | None = None
    timezone: str | None = None  # of times without one, e.g. Europe/Berlin
    accuracy_percent: Positive | None = None
    gain_error: Annotated[float, Field(ge=0)] | None = None
    update_period_s: Positive | None = None
    clock_offset_s: float | Literal["auto"] | None = None
    late_s: Positive = LATE_S
    stale_s: Positive | None = None  # an unstamped value that stands still so long is not believed
    wait_s: Annotated[float, Field(gt=0, le=20)] | None = None  # for late readings, at the end of a run

    @field_validator("timezone")
    @classmethod
    def _zone(cls, zone: str | None) -> str | None:
        if zone is not None:
            try:
                ZoneInfo(zone)
            except (OSError, ValueError, ZoneInfoNotFoundError) as error:
                raise ValueError(f"unknown time zone {zone!r}") from error
        return zone

    @model_validator(mode="after")
    def _whole(self) -> Options:
        if self.accuracy_percent is not None and self.gain_error is not None:
            raise ValueError("give accuracy_percent or gain_error, not both")
        wrong = "column" if self.is_url else "metric"
        if any(getattr(wanted, wrong) is not None for wanted in self.channels):
            raise ValueError(f"source {self.source!r} has no {wrong}s")
        return self

    @property
    def is_url(self) -> bool:
        """Whether it is an endpoint rather than a file."""
        return "://" in self.source

    @property
    def gain_sd(self) -> float:
        """Relative error, one standard deviation; an accuracy is the half width of a uniform distribution."""
        if self.accuracy_percent is not None:
            return self.accuracy_percent / 100 / math.sqrt(3)
        return DEFAULT_GAIN_ERROR if self.gain_error is None else self.gain_error

    @property
    def gain_source(self) -> str:
        """Where that error comes from, for people."""
        if self.accuracy_percent is not None:
            return f"accuracy ±{self.accuracy_percent:g} % as stated in the options, taken as uniform"
        if self.gain_error is not None:
            return f"gain error {self.gain_error:.2%} (one standard deviation) as stated in the options"
        return (
            f"gain error assumed to be {DEFAULT_GAIN_ERROR:.0%} (one standard deviation): "
            "state accuracy_percent or gain_error of the instrument in an options file"
        )


def load(argument: str) -> Options:
    """Options of an argument: a URL, a table, or an options file that names one of them.

    Raises:
        UserError: nothing there, not YAML, or wrong keys, all named.
    """
    if "://" in argument:
        return _check(Options(source=argument), argument)
    path = Path(argument)
    if not path.is_file():
        raise UserError(
            f"meter 'external': {argument!r} is no file; give external:FILE.csv, external:FILE.yaml or "
            "external:http://127.0.0.1:PORT/metrics. A logger must have written its heading before the run starts"
        )
    if path.suffix.lower() not in {".yaml", ".yml"}:
        return Options(source=str(path.absolute()))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        options = Options.model_validate(content)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'the whole'}: {item['msg']}" for item in error.errors()
        )
        raise UserError(f"{path}: wrong options of an external meter: {wrong}") from error
    if options.is_url:
        return _check(options, str(path))
    table = path.parent / options.source
    if not table.is_file():
        raise UserError(f"{path}: source: {str(table)!r} is no file")
    return options.model_copy(update={"source": str(table.absolute())})


def _check(options: Options, where: str) -> Options:
    url = urlsplit(options.source)
    if url.scheme != "http":
        raise UserError(f"{where}: an endpoint is read over http:// on this machine, not {url.scheme}://")
    try:
        port = url.port
    except ValueError as error:
        raise UserError(f"{where}: {options.source!r}: {error}") from error
    host = url.hostname or ""
    if not _is_loopback(host):
        at = f"{port or 80}"
        raise UserError(
            f"{where}: {host!r} is not this machine. Only loopback addresses are read: over a network a reading's "
            "delay is unknown, and nobody but this machine should be able to feed the meter. Tunnel it: "
            f"ssh -N -L {at}:127.0.0.1:{at} {host or 'HOST'}, then external:http://127.0.0.1:{at}{url.path or '/'}"
        )
    return options


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
