"""Tiny commands and a meter for the tests of ``measure``."""

from __future__ import annotations

import sys
from pathlib import Path

BUSY = "import time\nwhile time.process_time() < {seconds}: pass\n"


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def busy(seconds: float) -> list[str]:
    """So much CPU time, the interpreter's start included."""
    return python(BUSY.format(seconds=seconds))


def scenario(folder: Path, text: str) -> str:
    """``simulated:FILE`` of a card whose sensor misses next to nothing."""
    path = folder / "scenario.yaml"
    path.write_text(
        text + "\ncards: [{sensor: {period_s: 0.01, window_s: 0.01}, counter: {of: power, period_s: 0.01}}]\n"
    )
    return f"simulated:{path}"
