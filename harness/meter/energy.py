"""Readings and windows to energies. Pure: no clock, no file, no instrument.

Which number is the headline: of each device the cumulative counter if there is one, else the integral of
instant power, else of mean power. Where a counter and instant power are both there, the integral is the
second opinion. Devices are added up within one scope; scopes are never mixed.

Uncertainty (``Energy.parts``, one standard deviation each, added in quadrature):

* ``sensor gain`` (measured) or ``watts per core`` (modelled): the channel's relative error, common to all
  windows of a run, so over windows and devices it adds linearly;
* ``channel disagreement``: the truth taken as uniform between the two channels, ``difference / sqrt(3)``,
  recomputed from the sums when windows are added;
* ``edges``: interpolation, refresh period and quantum of a counter at the window's edges
  (``Track.edge_sd_j``), independent from window to window: in quadrature;
* ``sampling``: the spread of instant power around its mean over the square root of the number of sensor
  updates, as an NVIDIA sensor looks only part of the time (25 of 100 ms on A100 and H100, Yang, Adamek and
  Armour, SC24) and nothing public says that its counter does better: in quadrature;
* ``unobserved``: what was filled in for time that nobody watched, in full.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.meter.base import Channel, Energy, MeterInfo, Quantity, Sample
from harness.meter.track import NS, Span, Track, tracks_of
from harness.types import Basis

MIN_COVERAGE = 0.95
"""Below this share of a window observed, its run is invalid."""
MIN_KNOWN = 0.5
"""Below this share of a window known there are no joules at all."""
MEAN_POWER_WINDOW_S = 1.0
"""Averaging window of ``nvmlDeviceGetPowerUsage`` on Ampere (but GA100) and newer."""

GAIN, MODEL, DISAGREEMENT = "sensor gain", "watts per core", "channel disagreement"
EDGES, SAMPLING, UNOBSERVED = "edges", "sampling", "unobserved"
SYSTEMATIC = frozenset({GAIN, MODEL, UNOBSERVED})
"""Parts that add linearly over windows; the others add in quadrature."""

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
    info: MeterInfo, samples: Iterable[Sample], start_ns: int, end_ns: int, *, scope: str | None = None
) -> Energy:
    """Energy of one window; see :func:`windows_energy`."""
    return windows_energy(info, samples, [(start_ns, end_ns)], scope=scope)[0]


def windows_energy(
    info: MeterInfo,
    samples: Iterable[Sample],
    windows: Sequence[tuple[int, int]],
    *,
    scope: str | None = None,
) -> list[Energy]:
    """Energy of each ``(start_ns, end_ns)`` window, in order, in one pass over the samples.

    ``scope`` defaults to that of the meter's first energy or power channel. A window under
    :data:`MIN_COVERAGE` still has joules if at least half of it is known: what is missing is taken at the
    mean power of the rest, ``coverage`` and ``reason`` say so, and the filled part is uncertain in full.

    Raises:
        ValueError: a window that ends before it starts, an unknown scope, a sample of an unknown channel.
    """
    for start_ns, end_ns in windows:
        if end_ns < start_ns:
            raise ValueError(f"window ends before it starts: {start_ns} to {end_ns}")
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
            devices.setdefault(channel.device, []).append((channel, track))
    return [_sum_of_devices(info, chosen, devices, start, end) for start, end in windows]


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
    parts = {name: _add(name, [energy.parts.get(name, 0.0) for energy in energies]) for name in names}
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


def _sum_of_devices(info: MeterInfo, scope: str, devices: dict[str, list[_Line]], start_ns: int, end_ns: int) -> Energy:
    found = {name: _device(info, lines, start_ns, end_ns) for name, lines in devices.items()}
    several = len(found) > 1
    reasons = [f"{name}: {d.reason}" if several else d.reason for name, d in found.items() if d.reason]
    names = dict.fromkeys(name for device in found.values() for name in device.parts)
    return _finish(
        joules=_sum_or_none([device.joules for device in found.values()]),
        second=_sum_or_none([device.second for device in found.values()]),
        parts={name: _add(name, [d.parts.get(name, 0.0) for d in found.values()]) for name in names},
        basis=info.basis,
        source=f"{info.source}, {'; '.join(dict.fromkeys(device.source for device in found.values()))}",
        scope=scope,
        coverage=min(device.coverage for device in found.values()),
        reason="; ".join(reasons),
        seconds=(end_ns - start_ns) / NS,
    )


def _device(info: MeterInfo, lines: list[_Line], start_ns: int, end_ns: int) -> _Device:
    length_ns = end_ns - start_ns
    lines = sorted(lines, key=lambda line: _PREFERENCE.index(line[0].quantity))
    if length_ns == 0:
        both = len(lines) > 1
        return _Device(0.0, 0.0 if both else None, 1.0, {}, _how(lines[0][0]), "")
    spans = [(channel, track, track.span(start_ns, end_ns)) for channel, track in lines]
    well = [line for line in spans if line[2].observed_ns >= MIN_COVERAGE * length_ns]
    channel, track, span = well[0] if well else max(spans, key=lambda line: line[2].known_ns)
    coverage = span.observed_ns / length_ns
    reasons = []
    if channel is not spans[0][0]:
        reasons.append(f"{spans[0][0].name} was not readable, {channel.name} stands in")
    joules, filled, why = _whole(channel, span, length_ns)
    if why:
        reasons.append(why)
    if joules is None:
        return _Device(None, None, coverage, {}, _how(channel), "; ".join(reasons))
    second = None
    companion = next((line for line in spans if line[0].quantity is Quantity.POWER_W), None)
    if companion is not None and companion[0] is not channel:
        second = _whole(companion[0], companion[2], length_ns)[0]
    parts = {MODEL if channel.basis is Basis.MODELLED else GAIN: joules * channel.gain_error}
    if channel.quantity in {Quantity.ENERGY_J, Quantity.CPU_S}:
        quantum_j = channel.quantum * (channel.scale if channel.quantity is Quantity.CPU_S else 1.0)
        parts[EDGES] = track.edge_sd_j(start_ns, end_ns, info.update_period_s or 0.0, quantum_j)
    elif channel.quantity is Quantity.POWER_MEAN_W:
        parts[EDGES] = math.sqrt(2) * _spread_w(span) * MEAN_POWER_WINDOW_S
    if companion is not None:
        parts[SAMPLING] = _sampling_sd_j(info, companion[2])
    elif channel.quantity is Quantity.POWER_MEAN_W:
        parts[SAMPLING] = _sampling_sd_j(info, span)
    if filled:
        parts[UNOBSERVED] = filled
    return _Device(joules, second, coverage, parts, _how(channel), "; ".join(reasons))


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


def _spread_w(span: Span) -> float:
    seconds = span.known_ns / NS
    if seconds == 0:
        return 0.0
    return math.sqrt(max(0.0, span.square / seconds - (span.joules / seconds) ** 2))


def _sampling_sd_j(info: MeterInfo, span: Span) -> float:
    """``seconds x spread / sqrt(updates)``: updates of the sensor or of the sampler, the fewer of the two."""
    seconds = span.known_ns / NS
    period_s = max(info.update_period_s or 0.0, 1.0 / info.sample_hz if info.sample_hz else 0.0)
    updates = max(1.0, seconds / period_s) if period_s else 1.0
    return seconds * _spread_w(span) / math.sqrt(updates)


def _how(channel: Channel) -> str:
    text = _HOW[channel.quantity]
    return f"{text} x {channel.scale:.4g} W per core" if channel.quantity is Quantity.CPU_S else text


def _add(name: str, values: Sequence[float]) -> float:
    return math.fsum(values) if name in SYSTEMATIC else math.hypot(*values)


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
        uncertainty_j=None if joules is None else math.hypot(*parts.values()),
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
