"""By how much a counter can have risen: one that rises faster than its device can draw power has jumped."""

from __future__ import annotations

from collections.abc import Iterable

from harness.meter.base import Channel, MeterInfo, Quantity, ReadStatus, Sample

NS = 1_000_000_000
MAX_PLAUSIBLE_W = 10_000.0
"""No device the harness knows draws this."""
OVER_LIMIT = 2.0
"""A card's regulator holds its power limit over a second or so; peaks above it last milliseconds. Twice the limit
over a second leaves room for both and for a limit that was just lowered."""


def most_w(info: MeterInfo, samples: Iterable[Sample]) -> list[float]:
    """For each channel the mean power over a second that its device can't exceed, in watts.

    It is :data:`OVER_LIMIT` times the highest power limit that was read of the same device and scope, and
    :data:`MAX_PLAUSIBLE_W` where none was: a limit of the GPU says nothing about a whole module.
    """
    limited = {i: (c.device, c.scope) for i, c in enumerate(info.channels) if c.quantity is Quantity.POWER_LIMIT_W}
    limits: dict[tuple[str, str], float] = {}
    for sample in samples if limited else ():
        if sample.channel in limited and sample.status is ReadStatus.OK and sample.value:
            of = limited[sample.channel]
            limits[of] = max(limits.get(of, 0.0), sample.value)
    return [
        OVER_LIMIT * limits.get((channel.device, channel.scope), MAX_PLAUSIBLE_W / OVER_LIMIT)
        for channel in info.channels
    ]


def rise_of(channel: Channel, last: float, value: float, length_ns: int, limit_ns: int, most_j: float) -> float | None:
    """Joules by which a counter rose between two good reads, or ``None`` where nobody can say.

    ``most_j`` is what the device can have used since the counter last moved, taken over a second at least: one
    refreshed in bursts, or that stood still and catches up, may carry much energy in a short interval.
    """
    delta = value - last
    if channel.quantity is Quantity.CPU_S:
        return delta * channel.scale if delta >= 0 else None
    seconds = length_ns / NS
    if channel.wrap_at is not None:
        # In a long silence the counter may have gone round unseen, and nobody could tell.
        if length_ns > limit_ns and seconds * MAX_PLAUSIBLE_W >= channel.wrap_at:
            return None
        if delta < 0:
            delta += channel.wrap_at
    return delta if 0 <= delta <= most_j else None
