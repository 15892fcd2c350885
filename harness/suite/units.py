"""Durations and sizes as people write and read them."""

from __future__ import annotations

import re
from typing import Any

DURATION = r"(\d+(\.\d+)?h)?(\d+(\.\d+)?m)?(\d+(\.\d+)?s)?"
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def parse_duration(value: Any) -> float:
    """Seconds of ``"9m"``, ``"90s"``, ``"1h30m"`` or of a plain number of seconds.

    Raises:
        ValueError: it is none of these, or not above zero.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("must be a duration such as 90s, 9m or 1h30m")
    if isinstance(value, str):
        text = value.strip()
        if not text or not re.fullmatch(DURATION, text):
            raise ValueError(f"{value[:40]!r} is not a duration; write it like 90s, 9m or 1h30m")
        value = sum(float(number) * _SECONDS[unit] for number, unit in re.findall(r"([\d.]+)([hms])", text))
    if not 0 < value <= 1e9:
        raise ValueError("a duration must be above 0 and at most 30 years")
    return float(value)


def duration_text(seconds: float) -> str:
    """``2.8 s``, ``45 s``, ``9 min``, ``3.5 h``, ``12 days``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 72 * 3600 else f"{seconds / 86400:,.0f} days"


def gib(size_bytes: float) -> str:
    """``57 GiB``, ``1.5 GiB``, ``40 MiB``."""
    if size_bytes < 2**30:
        return f"{max(1.0, size_bytes / 2**20):.0f} MiB"
    size = size_bytes / 2**30
    return f"{size:,.0f} GiB" if size >= 10 else f"{size:.1f} GiB"
