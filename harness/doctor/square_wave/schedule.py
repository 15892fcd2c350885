"""When the load is on and off: steady references, and square waves of several periods and phases. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from harness.types import Frozen

PERIODS_S = (0.05, 0.1, 0.101, 0.3, 0.333)
"""In step with a sensor of 100 ms (50, 100, 300) and out of step with it (101, 333)."""
REFERENCE_S = 6.0
WARM_UP_S = 5.0
WAVE_S = 20.0
PHASES = 4
"""A wave in step with the sensor is seen at one phase for ever: quarter shifts make sure that one of them is wrong."""
BEATS = 2
"""A wave nearly in step is looked at for whole beats, in which every phase comes equally often."""
SETTLE_S = 0.5
"""Left out at the beginning of every stretch: clocks, power and sensor settle."""
DUTY = 0.5

Kind = Literal["warm-up", "on", "off", "wave"]


class Stretch(Frozen):
    """A stretch of one kind of load. ``offset_s`` of rest comes before it, which sets a wave's phase."""

    kind: Kind
    seconds: float
    period_s: float = 0.0  # of a wave
    duty: float = 0.0  # of a wave, as wanted
    offset_s: float = 0.0


class Done(Frozen):
    """A stretch as it happened, by the clock of the samples."""

    stretch: Stretch
    start_ns: int
    end_ns: int
    on_s: float  # time under load, timed on the device where there is one

    @property
    def duty(self) -> float:
        """Share of the time under load, as it was."""
        return self.on_s / ((self.end_ns - self.start_ns) / 1e9)


def periods(sensor_s: float | None) -> tuple[float, ...]:
    """Periods to try; a sensor that is not near 100 ms gets its own resonances too."""
    if sensor_s is None or abs(sensor_s - 0.1) <= 0.01 or sensor_s < 0.01:
        return PERIODS_S
    own = {round(sensor_s / 2, 4), round(sensor_s, 4), round(1.01 * sensor_s, 5)}
    return tuple(sorted({*PERIODS_S, *(period for period in own if period >= 0.01)}))


def transition_period_s(sensor_s: float) -> float:
    """Period of the wave that the cost of switching is taken from: hardly longer than the sensor's.

    Out of step, so that counter and sensor are both right over whole beats whatever the answer is.
    """
    return round(1.01 * sensor_s, 5)


def schedule(of: Sequence[float], sensor_s: float, wave_s: float = WAVE_S) -> list[Stretch]:
    """References first and last, and the waves between.

    Args:
        of: periods of the waves in seconds.
        sensor_s: period of the sensor, observed or assumed.
        wave_s: time for each period.
    """
    ends = [Stretch(kind="off", seconds=REFERENCE_S), Stretch(kind="on", seconds=REFERENCE_S)]
    found = [Stretch(kind="warm-up", seconds=WARM_UP_S), *ends]
    for period in of:
        beat = _beat_s(period, sensor_s)
        if beat is None:
            cycles = max(1, math.floor(wave_s / PHASES / period))
            found += [
                Stretch(
                    kind="wave", seconds=cycles * period, period_s=period, duty=DUTY, offset_s=phase / PHASES * period
                )
                for phase in range(PHASES)
            ]
        else:
            wanted = max(wave_s, BEATS * beat + SETTLE_S + 2 * sensor_s)
            found.append(Stretch(kind="wave", seconds=math.ceil(wanted / period) * period, period_s=period, duty=DUTY))
    return [*found, *reversed(ends)]


def _beat_s(period_s: float, sensor_s: float) -> float | None:
    """How long until wave and sensor meet at the same phase again; ``None`` if they are in step for ever.

    In step: a multiple of the sensor's period, or a small fraction of it.
    """
    ratio = period_s / sensor_s if period_s >= sensor_s else sensor_s / period_s
    off = abs(ratio - round(ratio))
    if off < 0.002:
        return None
    return min(max(period_s, sensor_s) / off, 12.0)
