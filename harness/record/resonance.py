"""A run's steps against its meter's sensor: what aliasing adds to each window, and whether it spoils the run. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.meter.aliasing import Aliasing, check, cure_s, limit, sensors_of, together
from harness.meter.base import MeterInfo
from harness.run.events import CHARGED, Window, WindowKind
from harness.suite.spec import Protocol, RunSpec

NS = 1_000_000_000
Sensor = tuple[float, float]  # period and look in seconds


def checks_of(spec: RunSpec, info: MeterInfo, windows: Sequence[Window]) -> list[Aliasing | None]:
    """The check of each window by its own mean step; ``None`` where no steps repeat, or the sensor never rests.

    Where both the sensor and our reads of it have a rhythm, the check is that of the worse.
    """
    sensors = sensors_of(info)
    return [
        _worst(spec, window, sensors)[0]
        if sensors and window.kind is WindowKind.TRAIN and window.steps and window.end_ns > window.start_ns
        else None
        for window in windows
    ]


def _worst(spec: RunSpec, window: Window, sensors: Sequence[Sensor]) -> tuple[Aliasing, Sensor]:
    """The check of the sensor that errs most, and that sensor."""
    step_s, jitter_s = _seconds(window) / window.steps, spec.recipe.jitter_s
    found = [(check(step_s, _seconds(window), *sensor, jitter_s=jitter_s), sensor) for sensor in sensors]
    return max(found, key=lambda one: (one[0].at_stake, one[0].relative_sd))


def resonance_of(
    spec: RunSpec, info: MeterInfo, windows: Sequence[Window], checks: Sequence[Aliasing | None]
) -> dict[str, Any]:
    """What is at stake for the whole run, for ``Record.conditions``; empty if it is within what is accepted.

    ``error`` is relative to the run's energy (two standard deviations); from ``limit`` on it can't be compared.
    ``step_s`` and ``sensor_period_s`` are those of the worst window, ``jitter_s`` is the run's. ``text`` says it for
    people, and ``cure`` what to do.
    """
    sensors = sensors_of(info)
    weights = [_weight(spec, window) for window in windows]
    whole_s = sum(weights)
    flagged = [
        (found, window, weight)
        for found, window, weight in zip(checks, windows, weights, strict=True)
        if found is not None and found.flagged and weight
    ]
    if not sensors or not flagged:
        return {}
    error = together(((found, weight) for found, _, weight in flagged), whole_s)
    if error < limit(spec.recipe.jitter_s):
        return {}
    worst, window, _ = max(flagged, key=lambda item: item[0].at_stake * item[2])
    step_s, jitter_s = _seconds(window) / window.steps, spec.recipe.jitter_s
    equal = max(1.0, (worst.at_stake / error) ** 2)
    cures = [cure_s(step_s - jitter_s / 2, _seconds(window), *sensor, windows=equal) for sensor in sensors]
    known = [cure for cure in cures if cure is not None]
    cure = max(known) if len(known) == len(cures) else None
    return {
        "error": error,
        "limit": limit(jitter_s),
        "step_s": step_s,
        "sensor_period_s": _worst(spec, window, sensors)[1][0],
        "jitter_s": jitter_s,
        "text": worst.text,
        "cure": _advice(spec.protocol, cure, jitter_s),
    }


def _seconds(window: Window) -> float:
    return (window.end_ns - window.start_ns) / NS


def _weight(spec: RunSpec, window: Window) -> float:
    """Seconds that the window stands for in the run's headline."""
    if window.kind not in CHARGED:
        return 0.0
    if spec.protocol is not Protocol.STEADY:
        return _seconds(window)
    phase = spec.phases[window.phase]
    if window.kind is WindowKind.TRAIN:
        return phase.steps * _seconds(window) / window.steps
    return phase.probes * _seconds(window) if window.kind is WindowKind.PROBE else 0.0


def _advice(protocol: Protocol, cure_s: float | None, jitter_s: float) -> str:
    if cure_s is not None and cure_s > jitter_s:
        return (
            f"set recipe.jitter_s to {cure_s:.2g} (for all arms) or change the step time by a tenth, as by batch_size"
        )
    more = "recipe.sampled_steps" if protocol is Protocol.STEADY else "recipe.steps"
    return f"the windows are too short for any jitter: raise {more}, or change the step time by a tenth"
