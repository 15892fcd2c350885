"""Aliasing of a training's steps with a power sensor that looks only part of the time. Pure.

A sensor that looks ``look_s`` of every ``update_period_s`` (T; 25 of 100 ms on A100 and H100, Yang, Adamek
and Armour, SC24) sees a load that repeats with every step of P seconds at the same few phases whenever a
harmonic k of the step meets a multiple m of the sensor's rate, ``k / P = m / T``. Whatever those phases
happen to draw is then taken for the mean, however long the window is.

Of each harmonic, relative to mean power:

* amplitude of the load: at most ``2 / (pi k)`` of the swing (high minus low over mean), the bound of a load
  that is high once and low once in a step;
* gain of the sensor: the mean over a look less the mean over the whole period, whose size at ``f = m / T`` is
  ``|sinc(f look)|``. Beyond its first half lobe the envelope ``1 / (pi f look)`` is taken, because the zeros
  depend on a look that differs between models (18.7 to 25 ms) and is not known to the millisecond;
* coherence over the window's n looks: from look to look the phase turns by ``2 pi k T / P`` and steps of unlike
  length blur it, so looks correlate by ``r = rho^(T / P) e^(2 pi i k T / P)``. ``rho`` is the correlation over
  one step, ``|sinc(k jitter / P)| exp(-2 pi^2 k^2 spread^2 / P^2)`` (uniform jitter, normal spread). The mean
  square of the mean of n phasors is ``Re((1 + r) / (1 - r)) / n - 2 Re(r (1 - r^n) / (1 - r)^2) / n^2``.

Over all phases in which a window may begin the harmonics are orthogonal: their mean squares add up.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterable
from dataclasses import dataclass

from harness.meter.base import MeterInfo, Quantity

MIN_BEATS = 10.0
"""Fewer beats between step and sensor in a window do not average out (rule 10 of the measurement)."""
NEAR = 0.02
"""A step this near (relative) to a strong resonance counts as in it: step times wander by as much."""
STRONG = 0.10
"""A harmonic that moves the mean by this much at full coherence makes a resonance strong."""
MATTERS = 0.01
"""Resonances that err by less (relative, two standard deviations) are left to the uncertainty alone."""
RESONANT = 0.10
"""Within this share of the sensor's rate an error counts as resonance at any number of beats."""
SWING = 1.0
"""High minus low over mean power, where nobody knows better: in resonance the sensor itself can't see it."""

CURED = 0.04
"""With jitter an error (two standard deviations) up to this is accepted: it is random from run to run, so pairs
average it and their spread shows it, while one without jitter may sit in all pairs alike."""
WHOLE = 0.99
"""A sensor that looks this share of its period misses less than :data:`MATTERS`, and a period that was observed is
no more exact than that."""
_JITTERS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0)  # of a step, tried in this order as a cure

_FAINTEST = 3e-4  # harmonics below this share of the swing are left out


@dataclass(frozen=True, slots=True)
class Aliasing:
    """What one window's steps do to a sensor's mean.

    ``relative_sd`` is one standard deviation of the energy's relative error over all phases, flagged or not.
    ``at_stake`` is the relative error (two standard deviations) that a flag stands for, 0 without one.
    ``harmonic`` of the step is the one that meets ``multiple`` times the sensor's rate, ``beats`` how often the
    two beat in the window; all three are of the worst resonance, 0 without a flag.
    """

    flagged: bool
    relative_sd: float
    at_stake: float = 0.0
    harmonic: int = 0
    multiple: int = 0
    beats: float = 0.0
    text: str = ""


def check(
    step_s: float,
    window_s: float,
    update_period_s: float,
    look_s: float,
    *,
    swing: float = SWING,
    jitter_s: float = 0.0,
    spread_s: float = 0.0,
) -> Aliasing:
    """Whether steps of ``step_s`` (mean, delays included) alias in a window of ``window_s``, and by how much.

    ``jitter_s`` is the largest uniform random delay after each step, ``spread_s`` the standard deviation of a
    step's own time; 0 for either is the cautious choice. ``swing`` is high minus low over mean power.

    Flagged (rule 10) are resonances, harmonics with under :data:`MIN_BEATS` beats or within :data:`RESONANT` of
    the sensor's rate, that together err by :func:`limit`; within :data:`NEAR` of a strong one the phases are
    taken to stand still. With jitter its blur alone counts: that is what the cure is for.

    Raises:
        ValueError: a length that is not positive.
    """
    if min(step_s, window_s, update_period_s, look_s) <= 0:
        raise ValueError("step, window, sensor period and look must be longer than nothing")
    if look_s >= update_period_s:
        return Aliasing(flagged=False, relative_sd=0.0)  # it never looks away
    looks = max(1.0, window_s / update_period_s)
    variance = 0.0
    resonances: list[_Resonance] = []
    for k in range(1, _harmonics(step_s, look_s) + 1):
        frequency = k / step_s
        size = swing * 2 / (math.pi * k) * _gain(frequency, update_period_s, look_s)
        rho = abs(_sinc(k * jitter_s / step_s)) * math.exp(-2 * (math.pi * k * spread_s / step_s) ** 2)
        turns = frequency * update_period_s
        multiple = round(turns)
        off = abs(turns - multiple)  # in units of the sensor's rate
        r = rho ** (update_period_s / step_s) * cmath.exp(2j * math.pi * (turns - multiple))
        mean_square = _mean_square(r, looks)
        variance += size**2 / 2 * mean_square
        if multiple == 0 or (off * looks >= MIN_BEATS and off >= RESONANT):
            continue
        if jitter_s == 0:
            is_near = size >= STRONG and off < NEAR * multiple
            mean_square = 1.0 if is_near else _crest_square(off, looks)
        resonances.append(_Resonance(size * math.sqrt(2 * mean_square), k, multiple, off * looks))
    relative_sd = math.sqrt(variance)
    at_stake = math.hypot(*(resonance.error for resonance in resonances))
    if at_stake < limit(jitter_s):
        return Aliasing(flagged=False, relative_sd=relative_sd)
    worst = max(resonances, key=lambda resonance: resonance.error)
    return Aliasing(
        flagged=True,
        relative_sd=relative_sd,
        at_stake=at_stake,
        harmonic=worst.harmonic,
        multiple=worst.multiple,
        beats=worst.beats,
        text=_text(worst, at_stake, step_s, update_period_s),
    )


def limit(jitter_s: float) -> float:
    """The error (relative, two standard deviations) from which on energies can't be compared."""
    return CURED if jitter_s > 0 else MATTERS


def together(parts: Iterable[tuple[Aliasing, float]], whole: float) -> float:
    """Error at stake of several windows, each with its share of ``whole`` (in seconds).

    Every window begins at a phase of its own, so their errors add in quadrature.
    """
    return math.hypot(*(part.at_stake * weight for part, weight in parts)) / whole


def cure_s(
    step_s: float, window_s: float, update_period_s: float, look_s: float, *, windows: float = 1.0
) -> float | None:
    """The smallest jitter tried that brings ``windows`` windows of such steps under :data:`CURED`, ``None`` if none.

    ``step_s`` is without jitter, ``window_s`` with as many steps as now: delays make it longer.
    """
    steps = window_s / step_s
    for share in _JITTERS:
        jitter_s = share * step_s
        mean_s = step_s + jitter_s / 2
        found = check(mean_s, steps * mean_s, update_period_s, look_s, jitter_s=jitter_s)
        if found.at_stake / math.sqrt(windows) < CURED:
            return jitter_s
    return None


def sensor_of(info: MeterInfo) -> tuple[float, float] | None:
    """Period and look in seconds of the meter's power sensor; ``None`` if it looks all the time, as RAPL does.

    The period that calibration saw of a power channel goes before the one that the meter assumes.
    """
    if info.update_period_s is None or info.look_s is None:
        return None
    period_s = _period_s(info, info.update_period_s)
    return (period_s, info.look_s) if info.look_s < WHOLE * period_s else None


def sensors_of(info: MeterInfo) -> list[tuple[float, float]]:
    """Every rhythm, as period and look in seconds, that steps can alias with: the sensor's and that of the reads.

    Where a device has no counter its looks are added up by us, and those that come between two reads are never
    seen. A sensor that is faster than the reads then counts a second time, as one that is refreshed at their rate;
    its own rhythm still tells, because a read gives the look before it.
    """
    own = sensor_of(info)
    found = [own] if own else []
    if info.update_period_s and info.look_s and info.sample_hz and _reads_are_looks(info):
        reads_s = 1 / info.sample_hz
        if _period_s(info, info.update_period_s) < reads_s and info.look_s < WHOLE * reads_s:
            found.append((reads_s, info.look_s))
    return found


def _period_s(info: MeterInfo, assumed_s: float) -> float:
    seen = [
        line.period_s
        for line in (info.calibration.channels if info.calibration is not None else ())
        if line.period_s is not None
        and any(c.name == line.channel and c.quantity is Quantity.POWER_W for c in info.channels)
    ]
    return max(seen, default=assumed_s)


def _reads_are_looks(info: MeterInfo) -> bool:
    """Whether the energy of some device is the integral of its instant power, for want of a counter."""
    counted = {(c.device, c.scope) for c in info.channels if c.quantity is Quantity.ENERGY_J}
    return any(c.quantity is Quantity.POWER_W and (c.device, c.scope) not in counted for c in info.channels)


@dataclass(frozen=True, slots=True)
class _Resonance:
    error: float  # relative, two standard deviations
    harmonic: int
    multiple: int
    beats: float


def _text(worst: _Resonance, at_stake: float, step_s: float, period_s: float) -> str:
    def times(n: int) -> str:
        return "" if n == 1 else f"{n} x "

    return (
        f"steps of {step_s * 1e3:.4g} ms alias with a power sensor that is read every {period_s * 1e3:.4g} ms: "
        f"{times(worst.harmonic)}the steps' rate and {times(worst.multiple)}the sensor's meet "
        f"({worst.beats:.2g} beats in the window), and energy may be off by {at_stake:.1%}"
    )


def _harmonics(step_s: float, look_s: float) -> int:
    """How many are worth adding: beyond, ``2 / (pi k) x step / (pi k look)`` is under :data:`_FAINTEST`."""
    return max(8, math.ceil(math.sqrt(2 * step_s / (math.pi**2 * look_s * _FAINTEST))))


def _gain(frequency: float, period_s: float, look_s: float) -> float:
    """Size of (mean over the look at the period's end) - (mean over the period) for a wave of that frequency."""
    x = frequency * look_s
    seen = _sinc(x) if x < 0.5 else 1 / (math.pi * x)
    return abs(seen * cmath.exp(1j * math.pi * frequency * (period_s - look_s)) - _sinc(frequency * period_s))


def _crest_square(off: float, n: float) -> float:
    """Mean square of ``n`` phasors ``off`` turns apart, where it is largest near by: beats need not be whole."""
    return min(1.0, 1 / (n * math.sin(math.pi * off)) ** 2) if off else 1.0


def _mean_square(r: complex, n: float) -> float:
    """Mean square of the mean of ``n`` unit phasors of which neighbours correlate by ``r``; at most 1."""
    if abs(1 - r) * n < 1e-3:  # first order in 1 - r, where the closed form below cancels
        return min(1.0, 1 - (1 - r.real) * (n - 1 / n) / 3)
    whole = ((1 + r) / (1 - r)).real / n - 2 * (r * (1 - r**n) / (1 - r) ** 2).real / n**2
    return min(1.0, max(0.0, whole))


def _sinc(x: float) -> float:
    return math.sin(math.pi * x) / (math.pi * x) if x else 1.0
