"""Small builders shared by the tests of metering."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from harness.meter.base import Channel, MeterInfo, Quantity, ReadStatus, Sample
from harness.types import Basis

NS = 1_000_000_000
MS = 1_000_000


def channel(quantity: Quantity, name: str = "", **fields: Any) -> Channel:
    defaults: dict[str, Any] = {"device": "GPU-a", "scope": "gpu", "basis": Basis.MEASURED}
    return Channel(name=name or f"gpu0/{quantity.value}", quantity=quantity, **(defaults | fields))


def info(*channels: Channel, **fields: Any) -> MeterInfo:
    defaults: dict[str, Any] = {"name": "fake", "basis": Basis.MEASURED, "source": "a fake", "sample_hz": 20.0}
    return MeterInfo(channels=channels, **(defaults | fields))


def ok(index: int, at_ns: int, value: float) -> Sample:
    return Sample(index, at_ns, ReadStatus.OK, value)


def bad(index: int, at_ns: int, status: ReadStatus = ReadStatus.MISSING) -> Sample:
    return Sample(index, at_ns, status)


def counter(watts: float, seconds: float, *, index: int = 0, hz: float = 20.0, start_j: float = 0.0) -> list[Sample]:
    """A counter under constant power, from 0."""
    period = round(NS / hz)
    return [ok(index, i * period, start_j + watts * i * period / NS) for i in range(round(seconds * hz) + 1)]


def power(watts: float, seconds: float, *, index: int = 1, hz: float = 20.0) -> list[Sample]:
    return [ok(index, i * round(NS / hz), watts) for i in range(round(seconds * hz) + 1)]


def overlap_loop(knots: Sequence[tuple[int, float]], start_ns: int, end_ns: int) -> float:
    """The oracle: every interval's energy times the share of it that lies in the window, one by one.

    ``knots`` are (time, cumulative joules).
    """
    total = 0.0
    for (left, before), (right, after) in pairwise(knots):
        inside = max(0, min(right, end_ns) - max(left, start_ns))
        total += (after - before) * inside / (right - left)
    return total
