"""What speaks against a run's energy, what should be known of it, and under which conditions it was taken.

Pure. Reasons make a run invalid by themselves. What is only unfair if it differs between the arms of a pair
(temperature, throttling, power limit) is a condition: numbers for whoever compares.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from harness.meter.base import COVERAGE_FACTOR, Channel, Energy, MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.budget import DISAGREEMENT, GAIN
from harness.meter.energy import MIN_COVERAGE, combine, scopes_of, windows_energy
from harness.meter.external.clock import drift_of
from harness.meter.track import COUNTERS, NS, POWERS, tracks_of
from harness.types import Basis

MAX_DISAGREEMENT = 0.25
"""Between a card's two channels, relative: more than the aliasing of a resonance that went unflagged, and less than
the 187 against 327 J that has been reported for one card over 5 s."""

Windows = Sequence[tuple[int, int]]  # start_ns, end_ns
POWER_CAP = "power_cap"
_KINDS = ("GPU-", "MIG-")  # of a UUID; torch leaves them out
MAX_FOREIGN_CPU_SHARE = 0.1
"""Of the CPU time used on the machine, by others: above it a meter of whole packages does not tell of the run."""


def reasons_against(info: MeterInfo, samples: Sequence[Sample], windows: Windows) -> list[str]:
    """Why the energy of these windows can't be trusted; empty if it can.

    Coverage under 95 % of the windows together, two channels that contradict each other, foreign processes on the
    card, others on the CPU packages that are metered, a power limit that changed, a counter that was reset, a device
    that was lost. Windows without length count for nothing.
    """
    windows = [(start, end) for start, end in windows if end > start]
    if not windows:
        return []
    energies = windows_energy(info, samples, windows)
    return [
        *_coverage(energies, windows),
        *_disagreement(energies),
        *_foreign(info, samples, windows),
        *_foreign_cpu(info, samples, windows),
        *_limit(info, samples, windows),
        *_resets(info, samples, windows),
        *_lost(info, samples, windows),
    ]


def of_another_card(info: MeterInfo, device: str) -> list[str]:
    """Whether a training on ``device`` was metered on another card; a simulated meter stands for any."""
    metered = [d for d in dict.fromkeys(channel.device for channel in info.channels) if d.startswith(_KINDS)]
    if info.basis is Basis.SIMULATED or not metered or not device or device == "cpu":
        return []
    if _bare(device) in map(_bare, metered):
        return []
    return [f"trained on {device}, metered on {', '.join(metered)}: not the same card"]


def _bare(uuid: str) -> str:
    for kind in _KINDS:
        uuid = uuid.removeprefix(kind)
    return uuid


def cautions_about(info: MeterInfo, samples: Sequence[Sample], windows: Windows) -> list[str]:
    """What a reader should know but what does not spoil a run by itself: throttling, unchecked neighbours."""
    windows = [(start, end) for start, end in windows if end > start]
    found = []
    seconds = sum(end - start for start, end in windows) / NS
    series = _series(info, samples, windows)
    for line in series[Quantity.THROTTLE_NS]:
        held_s = (line.during[-1] - line.during[0]) / NS
        if held_s > 0 and seconds:
            share = min(held_s / seconds, 1.0)
            found.append(f"{line.channel.name}: clocks were held back for {share:.1%} of the windows' time")
    if unread := _throttling(info, series[Quantity.THROTTLE_NS]).get("throttle_unread"):
        found.append(f"throttling by {', '.join(unread)} could not be read: whether clocks were held back is not known")
    checked = set()
    for line in series[Quantity.FOREIGN_PROCESSES]:
        checked.add(line.channel.name)
        around = int(max(line.before, line.after))
        if around and not max(line.during):
            found.append(f"{line.channel.device}: {around} foreign processes were on the card just before or after")
    found += [
        f"{channel.name} could not be read: whether others used the card is not known"
        for _, channel in _channels(info, Quantity.FOREIGN_PROCESSES)
        if channel.name not in checked
    ]
    if any(_channels(info, Quantity.FOREIGN_CPU_S)) and _foreign_cpu_share(series) is None:
        found.append("the CPU time of others could not be read: whether they shared the packages is not known")
    return found


def conditions_of(info: MeterInfo, samples: Sequence[Sample], windows: Windows = ()) -> dict[str, Any]:
    """Numbers that must be alike in both arms of a pair; absent where they could not be read.

    ``windows`` are those that the run is charged with: *before* is the last reading up to the first one's start,
    *after* the first one from the last one's end on, *during* all between. Without windows all is during, and
    before and after are the first and the last reading.

    * ``temperature_start_c`` (before), ``temperature_min_c`` and ``temperature_max_c`` (during),
      ``temperature_end_c`` (after): of the hottest card each time, the minimum of the coolest;
    * ``throttle`` with ``<cause>_ns`` (heat, power brake; from before to after, summed over cards) and
      ``power_capped_ns`` (time at the power limit, apart because arms may fairly differ in it). A cause that one
      card could not tell is in ``throttle_unread`` instead: unknown is not none;
    * ``power_limit_w`` (during), ``power_limit_before_w``, ``power_limit_after_w``: summed over cards;
    * ``foreign_processes`` (most at one time during), ``foreign_before``, ``foreign_after``;
    * ``foreign_cpu_share``: of the CPU time used on the machine from before to after, that of others;
    * ``samples`` and ``longest_gap_s`` of the headline channels;
    * ``source_clock`` of a source with a clock of its own: lag of its readings and drift (``external/clock.py``).
    """
    conditions: dict[str, Any] = {"samples": len(samples)}
    series = _series(info, samples, windows)
    if temperatures := series[Quantity.TEMPERATURE_C]:
        conditions["temperature_start_c"] = max(line.before for line in temperatures)
        conditions["temperature_end_c"] = max(line.after for line in temperatures)
        conditions["temperature_min_c"] = min(min(line.during) for line in temperatures)
        conditions["temperature_max_c"] = max(max(line.during) for line in temperatures)
    conditions |= _throttling(info, series[Quantity.THROTTLE_NS])
    if limits := series[Quantity.POWER_LIMIT_W]:
        conditions["power_limit_before_w"] = sum(line.before for line in limits)
        conditions["power_limit_w"] = sum(line.during[0] for line in limits)
        conditions["power_limit_after_w"] = sum(line.after for line in limits)
    if foreign := series[Quantity.FOREIGN_PROCESSES]:
        conditions["foreign_before"] = int(max(line.before for line in foreign))
        conditions["foreign_processes"] = int(max(max(line.during) for line in foreign))
        conditions["foreign_after"] = int(max(line.after for line in foreign))
    share = _foreign_cpu_share(series)
    if share is not None:
        conditions["foreign_cpu_share"] = share
    gap_ns = _longest_gap_ns(info, samples)
    if gap_ns is not None:
        conditions["longest_gap_s"] = gap_ns / NS
    drift = drift_of(info, samples)
    if drift is not None:
        conditions["source_clock"] = {key: value for key, value in drift._asdict().items() if value is not None}
    return conditions


@dataclass(frozen=True, slots=True)
class _Line:
    """Good values of one channel: around the windows and, never empty, during them."""

    channel: Channel
    before: float
    during: list[float]
    after: float


def _series(info: MeterInfo, samples: Sequence[Sample], windows: Windows) -> dict[Quantity, list[_Line]]:
    """The channels that gave anything, by quantity. With no reading during the windows those around it stand in."""
    good: dict[int, list[tuple[int, float]]] = {}
    for sample in samples:
        if sample.status is ReadStatus.OK and sample.value is not None:
            good.setdefault(sample.channel, []).append((sample.at_ns, sample.value))
    first = min((start for start, _ in windows), default=-math.inf)
    last = max((end for _, end in windows), default=math.inf)
    found: dict[Quantity, list[_Line]] = {quantity: [] for quantity in Quantity}
    for index, readings in sorted(good.items()):
        readings.sort()
        before = next((value for at_ns, value in reversed(readings) if at_ns <= first), readings[0][1])
        after = next((value for at_ns, value in readings if at_ns >= last), readings[-1][1])
        during = [value for at_ns, value in readings if first <= at_ns <= last]
        channel = info.channels[index]
        found[channel.quantity].append(_Line(channel, before, during or [before, after], after))
    return found


def _throttling(info: MeterInfo, lines: Sequence[_Line]) -> dict[str, Any]:
    held: dict[str, float] = {}
    read = {line.channel.name for line in lines}
    unread = {_cause(channel) for _, channel in _channels(info, Quantity.THROTTLE_NS) if channel.name not in read}
    for line in lines:
        values = [line.before, *line.during, line.after]
        if any(b < a for a, b in pairwise(values)):  # started again: what came before is not known
            unread.add(_cause(line.channel))
        held[_cause(line.channel)] = held.get(_cause(line.channel), 0.0) + values[-1] - values[0]
    held = {cause: total for cause, total in held.items() if cause not in unread}
    found: dict[str, Any] = {}
    # At its power limit a card works as set up, and an arm that needs less power meets it less: no fault.
    if POWER_CAP in held:
        found["power_capped_ns"] = held.pop(POWER_CAP)
    if held:
        found["throttle"] = {f"{cause}_ns": total for cause, total in held.items()}
    if unread:
        found["throttle_unread"] = sorted(unread)
    return found


def _cause(channel: Channel) -> str:
    return channel.name.rpartition("/")[2].removeprefix("throttle_")


def _coverage(energies: Sequence[Energy], windows: Windows) -> Iterable[str]:
    length_ns = sum(end - start for start, end in windows)
    weights = zip(energies, windows, strict=True)
    covered = sum(energy.coverage * (end - start) for energy, (start, end) in weights) / length_ns
    if covered < MIN_COVERAGE:
        yield f"only {covered:.1%} of the measured time was observed ({MIN_COVERAGE:.0%} are needed)"


def _disagreement(energies: Sequence[Energy]) -> Iterable[str]:
    """The two channels share the sensor and its gain: what the other parts can't explain, one of them made up."""
    energy = combine(energies)
    if energy.joules is None or energy.second_joules is None:
        return
    apart_j = abs(energy.second_joules - energy.joules)
    own_j = math.hypot(*(part for name, part in energy.parts.items() if name not in {GAIN, DISAGREEMENT}))
    if apart_j > MAX_DISAGREEMENT * energy.joules and apart_j > COVERAGE_FACTOR * own_j:
        yield (
            f"the energy counter says {energy.joules:.4g} J, the integral of instant power {energy.second_joules:.4g} "
            f"J, more than {MAX_DISAGREEMENT:.0%} apart: one of them is wrong"
        )


def _foreign(info: MeterInfo, samples: Sequence[Sample], windows: Windows) -> Iterable[str]:
    for line in _series(info, samples, windows)[Quantity.FOREIGN_PROCESSES]:
        most = max(line.during)
        if most > 0:
            yield f"{line.channel.device} was shared with {most:g} foreign process{'es' if most > 1 else ''}"


def _foreign_cpu(info: MeterInfo, samples: Sequence[Sample], windows: Windows) -> Iterable[str]:
    share = _foreign_cpu_share(_series(info, samples, windows))
    if share is not None and share > MAX_FOREIGN_CPU_SHARE:
        yield (
            f"the CPU packages were shared: {share:.0%} of the CPU time used was that of other processes "
            f"({MAX_FOREIGN_CPU_SHARE:.0%} are allowed)"
        )


def _foreign_cpu_share(series: dict[Quantity, list[_Line]]) -> float | None:
    busy_s, others_s = (
        sum(line.after - line.before for line in series[quantity])
        for quantity in (Quantity.BUSY_CPU_S, Quantity.FOREIGN_CPU_S)
    )
    return min(1.0, max(0.0, others_s / busy_s)) if busy_s > 0 else None


def _limit(info: MeterInfo, samples: Sequence[Sample], windows: Windows) -> Iterable[str]:
    for line in _series(info, samples, windows)[Quantity.POWER_LIMIT_W]:
        limits = [line.before, *line.during, line.after]
        if min(limits) != max(limits):
            yield f"the power limit of {line.channel.device} changed ({min(limits):g} to {max(limits):g} W)"


def _resets(info: MeterInfo, samples: Sequence[Sample], windows: Windows) -> Iterable[str]:
    for index, track in tracks_of(info, samples).items():
        inside = [at for at in track.resets_ns if any(start < at <= end for start, end in windows)]
        if inside:
            times = f"{len(inside)} times" if len(inside) > 1 else "once"
            yield (
                f"{info.channels[index].name} fell or jumped {times}: the counter was reset, or rose by more than "
                "the device can have used"
            )


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
