"""Waiting until a device is as cool as when its block began, so that no arm of a pair inherits the heat of another."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from harness.meter.sampler import Sampler, SamplerError
from harness.meter.samples import read
from harness.meter.validity import conditions_of
from harness.types import UserError

LIMIT_S = 600.0
"""Longest wait before one run: a warm room must not stop a suite."""
POLL_S = 2.0


class Cooldown:
    """``cooldown_c`` of a suite. ``temperature`` reads degrees Celsius, ``None`` where nothing tells them."""

    def __init__(
        self, degrees_c: float | None, temperature: Callable[[], float | None], say: Callable[[str], None]
    ) -> None:
        self._degrees_c = degrees_c
        self._temperature = temperature
        self._say = say
        self._first: dict[str, float | None] = {}

    def wait(self, block_id: str, limit_s: float = LIMIT_S) -> bool:
        """Before a run: remember the block's first temperature, later wait for it; ``False`` if that took too long."""
        if self._degrees_c is None:
            return True
        now_c = self._temperature()
        if block_id not in self._first:
            self._first[block_id] = now_c
            if now_c is None:
                self._say(f"{block_id}: cooldown_c has no effect here, the meter reads no temperature")
            return True
        first_c = self._first[block_id]
        deadline = time.monotonic() + limit_s
        while first_c is not None and now_c is not None and now_c > first_c + self._degrees_c:
            if time.monotonic() > deadline:
                self._say(f"{block_id}: still at {now_c:g} C after {limit_s:.0f} s, it began at {first_c:g} C")
                return False
            time.sleep(POLL_S)
            now_c = self._temperature()
        return True


def temperature_c(sampler: Sampler, uuid: str | None, scratch: Path) -> float | None:
    """The hottest sensor of the device now, in degrees Celsius; ``None`` where the meter has none."""
    scratch.parent.mkdir(parents=True, exist_ok=True)
    scratch.unlink(missing_ok=True)
    try:
        info = sampler.start(None, uuid, path=scratch)
        sampler.stop()
        found = conditions_of(info, read(scratch).samples).get("temperature_end_c")
        return None if found is None else float(found)
    except (SamplerError, UserError):
        return None  # the run that follows will say what is wrong with the meter
    finally:
        scratch.unlink(missing_ok=True)
