"""A made-up instrument for tests and demos: power by a script, or samples recorded earlier.

``replay:FILE`` takes a samples file (``samples.py``) and plays it again from the moment it is opened, or a
YAML or JSON script::

    power_w: 100                    # constant watts
    curve: [[0, 50], [2.5, 120]]    # or: from so many seconds after opening, so many watts (held)
    repeat_s: 5                     # start the curve again every so many seconds
    arms:                           # other watts by arm: a planted saving
      sat: {power_w: 40}
    noise_w: 1.5                    # deterministic noise on the power channel, one standard deviation
    missing: [[3, 3.2]]             # seconds in which both channels give nothing
    lost_at_s: 8                    # the device is gone from here on
    reset_at_s: 4                   # the energy counter starts again at 0

Every number is marked as simulated. The counter is the exact integral of the watts, the power channel their
value at the moment of the read.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from harness.meter.base import Channel, Meter, MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.clock import read_ns
from harness.meter.samples import Recording, read
from harness.meter.track import NS
from harness.types import Basis, Frozen, UserError

Watts = Annotated[float, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class Curve(Frozen):
    """Watts over time: a constant, or steps."""

    power_w: Watts | None = None
    curve: tuple[tuple[Seconds, Watts], ...] = ()
    repeat_s: Annotated[float, Field(gt=0)] | None = None

    def problem(self) -> str:
        """What is wrong with it, or nothing."""
        if (self.power_w is None) == (not self.curve):
            return "give either power_w or curve"
        starts = [start for start, _ in self.curve]
        if self.curve and (starts[0] != 0 or starts != sorted(set(starts))):
            return "curve must start at 0 and its seconds must rise"
        if self.repeat_s is not None and (not self.curve or self.repeat_s <= starts[-1]):
            return "repeat_s needs a curve and must be longer than it"
        return ""

    def power_at(self, seconds: float) -> float:
        """Watts at a time."""
        if self.power_w is not None:
            return self.power_w
        if self.repeat_s is not None:
            seconds = math.fmod(seconds, self.repeat_s)
        return self.curve[bisect_right([start for start, _ in self.curve], seconds) - 1][1]

    def energy_until(self, seconds: float) -> float:
        """Joules from 0 to a time, exact."""
        if self.power_w is not None:
            return self.power_w * seconds
        if self.repeat_s is None:
            return self._steps(seconds)
        rounds, rest = divmod(seconds, self.repeat_s)
        return rounds * self._steps(self.repeat_s) + self._steps(rest)

    def _steps(self, seconds: float) -> float:
        ends = [start for start, _ in self.curve[1:]] + [math.inf]
        return math.fsum(
            watts * (min(end, seconds) - start)
            for (start, watts), end in zip(self.curve, ends, strict=True)
            if seconds > start
        )


class Script(Curve):
    """A whole script file."""

    arms: dict[str, Curve] = Field(default_factory=dict)
    noise_w: Watts = 0.0
    missing: tuple[tuple[Seconds, Seconds], ...] = ()
    lost_at_s: Seconds | None = None
    reset_at_s: Seconds | None = None


class ReplayMeter(Meter):
    """Plays a script or a recording. ``arm`` chooses among the script's arms."""

    name = "replay"
    argument = "FILE"
    by_arm = True

    @classmethod
    def options_of(cls, argument: str) -> dict[str, Any]:
        """A file."""
        if not argument:
            raise UserError("meter 'replay' needs a file: replay:FILE")
        if not Path(argument).is_file():
            raise UserError(f"meter 'replay': there is no file {argument!r}")
        return {"file": str(Path(argument).absolute())}

    def __init__(self, file: str | Path, arm: str | None = None) -> None:
        self._path = Path(file)
        self._arm = arm
        self._recording: Recording | None = None
        self._script = Script(power_w=0.0)
        self._curve: Curve = self._script
        self._opened_ns = 0
        self._played = 0
        self._noise = random.Random(0)

    @classmethod
    def available(cls) -> str | None:
        """Always: it needs nothing but a file."""
        return None

    def open(self, pid: int | None, device: str | None) -> MeterInfo:
        """Read the file; time counts from here.

        Raises:
            UserError: the file is missing or says nonsense.
        """
        if not self._path.is_file():
            raise UserError(f"replay meter: there is no file {self._path}")
        if self._path.read_bytes()[:2] == b"\x1f\x8b":
            info = self._open_recording()
        else:
            self._script = load_script(self._path)
            self._curve = self._script.arms.get(self._arm or "", self._script)
            info = self._info(device or "replay")
        self._opened_ns = read_ns()
        return info

    def read(self) -> list[Sample]:
        """Counter and power now, or what the recording has up to now."""
        if self._recording is not None:
            return self._replayed(self._recording)
        at_ns = read_ns()
        seconds = (at_ns - self._opened_ns) / NS
        script = self._script
        if script.lost_at_s is not None and seconds >= script.lost_at_s:
            return [Sample(channel, at_ns, ReadStatus.LOST) for channel in (0, 1)]
        if any(start <= seconds < end for start, end in script.missing):
            return [Sample(channel, at_ns, ReadStatus.MISSING) for channel in (0, 1)]
        joules = self._curve.energy_until(seconds)
        if script.reset_at_s is not None and seconds >= script.reset_at_s:
            joules -= self._curve.energy_until(script.reset_at_s)
        watts = self._curve.power_at(seconds)
        if script.noise_w:
            watts = max(0.0, watts + self._noise.gauss(0.0, script.noise_w))
        return [Sample(0, at_ns, ReadStatus.OK, joules), Sample(1, at_ns, ReadStatus.OK, watts)]

    def _open_recording(self) -> MeterInfo:
        recording = read(self._path)
        if recording.torn:
            raise UserError(f"replay meter: {recording.torn}")
        if not recording.samples:
            raise UserError(f"replay meter: {self._path} holds no samples")
        self._recording = recording
        info = recording.info
        return info.model_copy(
            update={
                "name": self.name,
                "basis": Basis.SIMULATED,
                "source": f"replay of {self._path.name}: {info.source}",
                "channels": tuple(c.model_copy(update={"basis": Basis.SIMULATED}) for c in info.channels),
                "assumptions": (*info.assumptions, "recorded earlier, played again: no measurement of this run"),
            }
        )

    def _replayed(self, recording: Recording) -> list[Sample]:
        shift_ns = self._opened_ns - recording.samples[0].at_ns
        now_ns = read_ns()
        due: list[Sample] = []
        while self._played < len(recording.samples):
            sample = recording.samples[self._played]
            if sample.at_ns + shift_ns > now_ns:
                return due
            due.append(Sample(sample.channel, sample.at_ns + shift_ns, sample.status, sample.value, sample.sensor_ns))
            self._played += 1
        # Past its end a recording knows nothing.
        return due or [Sample(i, now_ns, ReadStatus.LOST) for i in range(len(recording.info.channels))]

    def _info(self, device: str) -> MeterInfo:
        common: dict[str, Any] = {"device": device, "scope": "simulated device", "basis": Basis.SIMULATED}
        which = f", arm {self._arm!r}" if self._curve is not self._script else ""
        return MeterInfo(
            name=self.name,
            basis=Basis.SIMULATED,
            source=f"replay of {self._path.name}{which}",
            channels=(
                Channel(name="replay/energy", quantity=Quantity.ENERGY_J, **common),
                Channel(name="replay/power", quantity=Quantity.POWER_W, **common),
            ),
            assumptions=("simulated: the watts are made up by a script",),
        )


def load_script(path: Path) -> Script:
    """Read and check a script file.

    Raises:
        UserError: naming the file and every key that is wrong.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        script = Script.model_validate(content)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'the whole'}: {item['msg']}" for item in error.errors()
        )
        raise UserError(f"{path}: not a replay script: {wrong}") from error
    for where, curve in {"": script, **{f"arms.{name}: ": arm for name, arm in script.arms.items()}}.items():
        if curve.problem():
            raise UserError(f"{path}: {where}{curve.problem()}")
    return script
