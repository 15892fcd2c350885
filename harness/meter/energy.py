"""Readings and windows to energies. Pure: no clock, no file, no instrument.

Which number is the headline: of each device the cumulative counter if there is one, else the integral of
instant power, else of mean power. Where a counter and instant power are both there, the integral is the
second opinion. Devices are added up within one scope; scopes are never mixed.

What is uncertain about it, part by part, is in ``budget.py``; when a value was refreshed in ``refresh.py``;
which readings are not believed in ``frozen.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.meter.base import Channel, Energy, MeterInfo, Quantity, Sample
from harness.meter.budget import (
    ALIASING,
    CLOCK,
    CLOCK_RATE,
    DISAGREEMENT,
    EDGES,
    GAIN,
    MODEL,
    QUANTUM,
    SAMPLING,
    UNOBSERVED,
    add,
    combined_j,
)
from harness.meter.refresh import quantum_of
from harness.meter.track import COUNTERS, MEAN_POWER_WINDOW_S, NS, Span, Track, tracks_of
from harness.types import Basis

MIN_COVERAGE = 0.95
"""Below this share of a window observed, its run is invalid."""
PLACED = ", placed by the driver's times of update"
"""Said behind a channel; the same channel without it is still the same, only less well placed in time."""
MIN_KNOWN = 0.5
"""Below this share of a window known there are no joules at all."""
_PREFERENCE = (Quantity.ENERGY_J, Quantity.CPU_S, Quantity.POWER_W, Quantity.POWER_MEAN_W)
_HOW = {
    Quantity.ENERGY_J: "energy counter",
    Quantity.CPU_S: "CPU seconds",
    Quantity.POWER_W: "integral of instant power",
    Quantity.POWER_MEAN_W: "integral of mean power",
}
_WEAKEST_LAST = (Basis.COUNTED, Basis.MEASURED, Basis.MODELLED, Basis.PROJECTED, Basis.SIMULATED)

_Line = tuple[Channel, Track]


def energy_of(
    info: MeterInfo,
    samples: Iterable[Sample],
    start_ns: int,
    end_ns: int,
    *,
    scope: str | None = None,
    aliasing: float | None = None,
) -> Energy:
    """Energy of one window; see :func:`windows_energy`."""
    return windows_energy(info, samples, [(start_ns, end_ns)], scope=scope, aliasing=aliasing)[0]


def windows_energy(
    info: MeterInfo,
    samples: Iterable[Sample],
    windows: Sequence[tuple[int, int]],
    *,
    scope: str | None = None,
    aliasing: float | Sequence[float | None] | None = None,
) -> list[Energy]:
    """Energy of each ``(start_ns, end_ns)`` window, in order, in one pass over the samples.

    ``aliasing`` is the relative standard deviation that the steps' meeting with the sensor adds
    (``aliasing.check(...).relative_sd``), one for all windows or one for each; ``None``: there are no steps.

    ``scope`` defaults to that of the meter's first energy or power channel. A window under
    :data:`MIN_COVERAGE` still has joules if at least half of it is known: what is missing is taken at the
    mean power of the rest, ``coverage`` and ``reason`` say so, and the filled part is uncertain in full.

    Raises:
        ValueError: a window that ends before it starts, an unknown scope, a sample of an unknown channel, an
            ``aliasing`` that is negative or of another length than ``windows``.
    """
    for start_ns, end_ns in windows:
        if end_ns < start_ns:
            raise ValueError(f"window ends before it starts: {start_ns} to {end_ns}")
    aliased = list(aliasing) if isinstance(aliasing, Sequence) else [aliasing] * len(windows)
    if len(aliased) != len(windows) or any(sd is not None and not sd >= 0 for sd in aliased):
        raise ValueError(f"aliasing must be a relative standard deviation, or one for each of {len(windows)} windows")
    scopes = scopes_of(info)
    if scope is not None and scope not in scopes:
        raise ValueError(f"no energy channel has scope {scope!r}; the meter has {scopes}")
    if not scopes:
        return [
            _unknown(info, "none", (end - start) / NS, "the meter has no energy or power channel")
            for start, end in windows
        ]
    chosen = scope or scopes[0]
    tracks = tracks_of(info, samples)
    devices: dict[str, list[_Line]] = {}
    for index, track in tracks.items():
        channel = info.channels[index]
        if channel.scope == chosen:
            seen = channel.model_copy(update={"quantum": quantum_of(info, channel)})
            devices.setdefault(channel.device, []).append((seen, track))
    return [
        _sum_of_devices(info, chosen, devices, start, end, sd or 0.0)
        for (start, end), sd in zip(windows, aliased, strict=True)
    ]


def scopes_of(info: MeterInfo) -> list[str]:
    """Scopes that have an energy or power channel, the headline's first."""
    return list(dict.fromkeys(c.scope for c in info.channels if c.quantity in _PREFERENCE))


def idle_power(
    info: MeterInfo, samples: Sequence[Sample], start_ns: int | None = None, end_ns: int | None = None
) -> float | None:
    """Mean power in watts of an idle window, by default from the first sample to the last.

    ``None`` if the window is empty or was not observed well enough, or if the meter follows a process
    tree: what a process does not use is no part of a CPU-seconds model, which is net of idle by design.
    """
    if not samples or any(channel.quantity is Quantity.CPU_S for channel in info.channels):
        return None
    start_ns = min(sample.at_ns for sample in samples) if start_ns is None else start_ns
    end_ns = max(sample.at_ns for sample in samples) if end_ns is None else end_ns
    if end_ns <= start_ns:
        return None
    energy = energy_of(info, samples, start_ns, end_ns)
    if energy.joules is None or energy.coverage < MIN_COVERAGE:
        return None
    return energy.joules / ((end_ns - start_ns) / NS)


def combine(energies: Sequence[Energy]) -> Energy:
    """Energy of disjoint windows of one run together.

    Joules are ``None`` if any window's are. Coverage is weighted by time. Systematic parts add linearly,
    the others in quadrature, the disagreement is that of the sums (which needs a second channel in every
    window). A window without ``seconds`` can't be weighted and is refused.

    Raises:
        ValueError: nothing to add, or different scopes.
    """
    if not energies:
        raise ValueError("no energies to combine")
    scopes = list(dict.fromkeys(energy.scope for energy in energies))
    if len(scopes) > 1:
        raise ValueError(f"energies of different scopes can't be added: {', '.join(scopes)}")
    lengths = [energy.seconds for energy in energies]
    if any(length is None for length in lengths):
        raise ValueError("an energy without the length of its window can't be combined")
    seconds = math.fsum(length for length in lengths if length is not None)
    covered = math.fsum(e.coverage * (e.seconds or 0.0) for e in energies)
    joules = _sum_or_none([energy.joules for energy in energies])
    second = _sum_or_none([energy.second_joules for energy in energies])
    names = dict.fromkeys(name for energy in energies for name in energy.parts if name != DISAGREEMENT)
    parts = {name: add(name, [energy.parts.get(name, 0.0) for energy in energies]) for name in names}
    return _finish(
        joules=joules,
        second=second,
        parts=parts,
        basis=max((energy.basis for energy in energies), key=_WEAKEST_LAST.index),
        source="; ".join(dict.fromkeys(energy.source for energy in energies)),
        scope=scopes[0],
        coverage=min(1.0, covered / seconds) if seconds else min(energy.coverage for energy in energies),
        reason="; ".join(dict.fromkeys(energy.reason for energy in energies if energy.reason)),
        seconds=seconds,
    )


def scale(energy: Energy, factor: float) -> Energy:
    """An energy times a positive number: per step, per token, or weighted by a schedule.

    Everything in joules is multiplied; relative errors stay. ``seconds`` is multiplied too, so that mean
    power stays what it was.
    """
    if not (factor > 0 and math.isfinite(factor)):
        raise ValueError(f"factor must be positive and finite, not {factor}")

    def times(value: float | None) -> float | None:
        return None if value is None else value * factor

    return energy.model_copy(
        update={
            "joules": times(energy.joules),
            "second_joules": times(energy.second_joules),
            "uncertainty_j": times(energy.uncertainty_j),
            "seconds": times(energy.seconds),
            "parts": {name: value * factor for name, value in energy.parts.items()},
        }
    )


@dataclass(frozen=True, slots=True)
class _Device:
    joules: float | None
    second: float | None
    coverage: float
    parts: dict[str, float]
    source: str
    reason: str


def _sum_of_devices(
    info: MeterInfo, scope: str, devices: dict[str, list[_Line]], start_ns: int, end_ns: int, aliasing: float
) -> Energy:
    found = {name: _device(lines, start_ns, end_ns, aliasing) for name, lines in devices.items()}
    several = len(found) > 1
    reasons = [f"{name}: {d.reason}" if several else d.reason for name, d in found.items() if d.reason]
    names = dict.fromkeys(name for device in found.values() for name in device.parts)
    return _finish(
        joules=_sum_or_none([device.joules for device in found.values()]),
        second=_sum_or_none([device.second for device in found.values()]),
        parts={name: add(name, [d.parts.get(name, 0.0) for d in found.values()]) for name in names},
        basis=info.basis,
        source=f"{info.source}, {'; '.join(dict.fromkeys(device.source for device in found.values()))}",
        scope=scope,
        coverage=min(device.coverage for device in found.values()),
        reason="; ".join(reasons),
        seconds=(end_ns - start_ns) / NS,
    )


def _device(lines: list[_Line], start_ns: int, end_ns: int, aliasing: float) -> _Device:
    length_ns = end_ns - start_ns
    lines = sorted(lines, key=lambda line: _PREFERENCE.index(line[0].quantity))
    if length_ns == 0:
        both = len(lines) > 1
        return _Device(0.0, 0.0 if both else None, 1.0, {}, _how(lines[0][0]), "")
    spans = [(channel, track, track.span(start_ns, end_ns)) for channel, track in lines]
    well = [line for line in spans if line[2].observed_ns >= MIN_COVERAGE * length_ns]
    channel, track, span = well[0] if well else max(spans, key=lambda line: line[2].known_ns)
    coverage = span.observed_ns / length_ns
    reasons = [
        f"{other.name} stood still for {still_ns / NS:.3g} s, which can't be, and is not believed there"
        for other, one in lines
        if (still_ns := one.frozen_ns(start_ns, end_ns))
    ]
    if channel is not spans[0][0]:
        reasons.append(f"{spans[0][0].name} was not readable, {channel.name} stands in")
    joules, filled, why = _whole(channel, span, length_ns)
    if why:
        reasons.append(why)
    how = _how(channel) + (PLACED if track.stamped else "")
    if joules is None:
        return _Device(None, None, coverage, {}, how, "; ".join(reasons))
    second = None
    companion = next((line for line in spans if line[0].quantity is Quantity.POWER_W), None)
    if companion is not None and companion[0] is not channel:
        second = _whole(companion[0], companion[2], length_ns)[0]
    parts = _parts(channel, track, companion[1] if companion else None, joules, start_ns, end_ns)
    if aliasing and channel.quantity is not Quantity.CPU_S:
        parts[ALIASING] = joules * aliasing
    if filled:
        parts[UNOBSERVED] = filled
    return _Device(joules, second, coverage, parts, how, "; ".join(reasons))


def _parts(
    channel: Channel, track: Track, power: Track | None, joules: float, start_ns: int, end_ns: int
) -> dict[str, float]:
    """The budget of one device but for what was filled in, aliasing and the second channel; see ``budget.py``."""
    parts = {MODEL if channel.basis is Basis.MODELLED else GAIN: joules * channel.gain_error}
    an_edge_j = channel.quantum / math.sqrt(12)
    if channel.quantity is Quantity.CPU_S:
        parts[EDGES] = math.hypot(track.edge_sd_j(start_ns, end_ns), math.sqrt(2) * an_edge_j * channel.scale)
    elif channel.quantity is Quantity.ENERGY_J:
        parts[EDGES] = track.edge_sd_j(start_ns, end_ns)
        parts[QUANTUM] = math.sqrt(2) * an_edge_j
    elif channel.quantity is Quantity.POWER_MEAN_W:
        window_ns = round(MEAN_POWER_WINDOW_S * NS)
        ranges = [track.range_w(at_ns - window_ns, at_ns + window_ns) for at_ns in (start_ns, end_ns)]
        parts[EDGES] = math.hypot(*ranges) * MEAN_POWER_WINDOW_S / math.sqrt(3)
    looks = track if channel.quantity not in COUNTERS else power
    if looks is not None:
        parts[SAMPLING] = looks.look_sd_j(start_ns, end_ns)
    if channel.quantity not in COUNTERS:
        parts[CLOCK] = joules * CLOCK_RATE / math.sqrt(3)
    return parts


def _whole(channel: Channel, span: Span, length_ns: int) -> tuple[float | None, float, str]:
    """Joules of the whole window, how many of them were filled in, and what to say about it."""
    if span.known_ns < MIN_KNOWN * length_ns:
        share = span.known_ns / length_ns
        return None, 0.0, f"{channel.name} is known for only {share:.1%} of the window"
    why = ""
    if span.observed_ns < MIN_COVERAGE * length_ns:
        unwatched_s = (span.known_ns - span.observed_ns) / NS
        why = f"{channel.name} was not read for {unwatched_s:.3g} s, its difference counts" if unwatched_s else ""
    if span.known_ns == length_ns:
        return span.joules, 0.0, why
    joules = span.joules * (length_ns / span.known_ns)
    missing_s = (length_ns - span.known_ns) / NS
    if span.known_ns < MIN_COVERAGE * length_ns:
        why = f"{channel.name} gave nothing for {missing_s:.3g} s, taken at the mean power of the rest"
    return joules, joules - span.joules, why


def _how(channel: Channel) -> str:
    text = _HOW[channel.quantity]
    return f"{text} x {channel.scale:.4g} W per core" if channel.quantity is Quantity.CPU_S else text


def _sum_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if len(known) == len(values) else None


def _finish(
    *,
    joules: float | None,
    second: float | None,
    parts: dict[str, float],
    basis: Basis,
    source: str,
    scope: str,
    coverage: float,
    reason: str,
    seconds: float,
) -> Energy:
    disagreement = None
    if joules is None:
        second, parts = None, {}
    elif second is not None:
        disagreement = (second - joules) / joules if joules > 0 else None
        parts = {**parts, DISAGREEMENT: abs(second - joules) / math.sqrt(3)}
    return Energy(
        joules=joules,
        basis=basis,
        source=source,
        scope=scope,
        coverage=coverage,
        uncertainty_j=None if joules is None else combined_j(parts),
        dominating=max(parts, key=lambda name: parts[name]) if any(parts.values()) else "",
        disagreement=disagreement,
        second_joules=second,
        reason=reason or ("not known in one of its windows" if joules is None else ""),
        parts=parts,
        seconds=seconds,
    )


def _unknown(info: MeterInfo, scope: str, seconds: float, reason: str) -> Energy:
    return Energy(
        joules=None,
        basis=info.basis,
        source=info.source,
        scope=scope,
        coverage=0.0,
        reason=reason,
        seconds=seconds,
    )
