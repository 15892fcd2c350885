"""What speaks against a run's energy, what should be known of it, and under which conditions it was taken.

Pure. Reasons make a run invalid by themselves. What is only unfair if it differs between the arms of a pair
(temperature, throttling, power limit) is a condition: numbers for whoever compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from harness.meter.base import Channel, MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.energy import MIN_COVERAGE, scopes_of, windows_energy
from harness.meter.track import COUNTERS, NS, POWERS, tracks_of

Windows = Sequence[tuple[int, int]]  # start_ns, end_ns
POWER_CAP = "power_cap"


def reasons_against(info: MeterInfo, samples: Sequence[Sample], windows: Windows) -> list[str]:
    """Why the energy of these windows can't be trusted; empty if it can.

    Coverage under 95 % of the windows together, foreign processes on the card, a power limit that changed, a
    counter that was reset, a device that was lost. Windows without length count for nothing.
    """
    windows = [(start, end) for start, end in windows if end > start]
    if not windows:
        return []
    return [
        *_coverage(info, samples, windows),
        *_foreign(info, samples, windows),
        *_limit(info, samples, windows),
        *_resets(info, samples, windows),
        *_lost(info, samples, windows),
    ]


def cautions_about(info: MeterInfo, samples: Sequence[Sample], windows: Windows) -> list[str]:
    """What a reader should know but what does not spoil a run by itself: throttling, unchecked neighbours."""
    windows = [(start, end) for start, end in windows if end > start]
    found = []
    seconds = sum(end - start for start, end in windows) / NS
    for index, channel in _channels(info, Quantity.THROTTLE_NS):
        inside = _good(samples, index, windows)
        if len(inside) > 1 and inside[-1] > inside[0] and seconds:
            share = (inside[-1] - inside[0]) / NS / seconds
            found.append(f"{channel.name}: clocks were held back for {min(share, 1.0):.1%} of the windows' time")
    found += [
        f"{channel.name} could not be read: whether others used the card is not known"
        for index, channel in _channels(info, Quantity.FOREIGN_PROCESSES)
        if not _good(samples, index, windows)
    ]
    return found


def conditions_of(info: MeterInfo, samples: Sequence[Sample]) -> dict[str, Any]:
    """Numbers that must be alike in both arms of a pair; absent where they could not be read.

    ``temperature_start_c``, ``temperature_end_c``, ``temperature_max_c`` (the hottest card each time),
    ``throttle`` with ``<cause>_ns`` (heat, power brake; summed over cards), ``power_capped_ns`` (time at the
    power limit, apart because arms may fairly differ in it), ``power_limit_w`` (summed),
    ``foreign_processes`` (most at one time), ``samples`` and ``longest_gap_s`` of the headline channels.
    """
    conditions: dict[str, Any] = {"samples": len(samples)}
    values: dict[int, list[float]] = {}
    for sample in samples:
        if sample.status is ReadStatus.OK and sample.value is not None:
            values.setdefault(sample.channel, []).append(sample.value)

    def series(quantity: Quantity) -> list[tuple[Channel, list[float]]]:
        return [(channel, values[index]) for index, channel in _channels(info, quantity) if index in values]

    temperatures = [line for _, line in series(Quantity.TEMPERATURE_C)]
    if temperatures:
        conditions["temperature_start_c"] = max(line[0] for line in temperatures)
        conditions["temperature_end_c"] = max(line[-1] for line in temperatures)
        conditions["temperature_max_c"] = max(max(line) for line in temperatures)
    held: dict[str, float] = {}
    for channel, line in series(Quantity.THROTTLE_NS):
        cause = channel.name.rpartition("/")[2].removeprefix("throttle_")
        held[cause] = held.get(cause, 0.0) + max(0.0, line[-1] - line[0])
    # At its power limit a card works as set up, and an arm that needs less power meets it less: no fault.
    if POWER_CAP in held:
        conditions["power_capped_ns"] = held.pop(POWER_CAP)
    if held:
        conditions["throttle"] = {f"{cause}_ns": total for cause, total in held.items()}
    limits = [line[0] for _, line in series(Quantity.POWER_LIMIT_W)]
    if limits:
        conditions["power_limit_w"] = sum(limits)
    foreign = [max(line) for _, line in series(Quantity.FOREIGN_PROCESSES)]
    if foreign:
        conditions["foreign_processes"] = int(max(foreign))
    gap_ns = _longest_gap_ns(info, samples)
    if gap_ns is not None:
        conditions["longest_gap_s"] = gap_ns / NS
    return conditions


def _coverage(info: MeterInfo, samples: Sequence[Sample], windows: Windows) -> Iterable[str]:
    length_ns = sum(end - start for start, end in windows)
    energies = windows_energy(info, samples, windows)
    weights = zip(energies, windows, strict=True)
    covered = sum(energy.coverage * (end - start) for energy, (start, end) in weights) / length_ns
    if covered < MIN_COVERAGE:
        yield f"only {covered:.1%} of the measured time was observed ({MIN_COVERAGE:.0%} are needed)"


def _foreign(info: MeterInfo, samples: Sequence[Sample], windows: Windows) -> Iterable[str]:
    for index, channel in _channels(info, Quantity.FOREIGN_PROCESSES):
        most = max(_good(samples, index, windows), default=0.0)
        if most > 0:
            yield f"{channel.device} was shared with {most:g} foreign process{'es' if most > 1 else ''}"


def _limit(info: MeterInfo, samples: Sequence[Sample], windows: Windows) -> Iterable[str]:
    for index, channel in _channels(info, Quantity.POWER_LIMIT_W):
        inside = _good(samples, index, windows)
        if inside and min(inside) != max(inside):
            yield f"the power limit of {channel.device} changed ({min(inside):g} to {max(inside):g} W)"


def _resets(info: MeterInfo, samples: Sequence[Sample], windows: Windows) -> Iterable[str]:
    for index, track in tracks_of(info, samples).items():
        inside = [at for at in track.resets_ns if any(start < at <= end for start, end in windows)]
        if inside:
            times = f"{len(inside)} times" if len(inside) > 1 else "once"
            yield f"{info.channels[index].name} fell or jumped {times}: the counter was reset"


def _lost(info: MeterInfo, samples: Sequence[Sample], windows: Windows) -> Iterable[str]:
    headline = _headline(info)
    devices = {
        info.channels[sample.channel].device
        for sample in samples
        if sample.channel in headline
        and sample.status is ReadStatus.LOST
        and any(start <= sample.at_ns <= end for start, end in windows)
    }
    for device in sorted(devices):
        yield f"{device} was lost while it was measured"


def _headline(info: MeterInfo) -> set[int]:
    """Energy and power channels of the headline's scope."""
    scopes = scopes_of(info)
    return {
        index
        for index, channel in enumerate(info.channels)
        if channel.quantity in COUNTERS | POWERS and channel.scope == scopes[0]
    }


def _longest_gap_ns(info: MeterInfo, samples: Sequence[Sample]) -> int | None:
    headline = _headline(info) if scopes_of(info) else set()
    if not headline or not samples:
        return None
    first, last = min(s.at_ns for s in samples), max(s.at_ns for s in samples)
    tracks = tracks_of(info, samples)
    return max(tracks[index].longest_gap_ns(first, last) for index in headline)


def _channels(info: MeterInfo, quantity: Quantity) -> list[tuple[int, Channel]]:
    return [(index, channel) for index, channel in enumerate(info.channels) if channel.quantity is quantity]


def _good(samples: Sequence[Sample], index: int, windows: Windows) -> list[float]:
    """Good values of a channel between the first window's start and the last one's end, in order of time."""
    if not windows:
        return []
    first, last = min(start for start, _ in windows), max(end for _, end in windows)
    return [
        sample.value
        for sample in samples
        if sample.channel == index and sample.value is not None and first <= sample.at_ns <= last
    ]
