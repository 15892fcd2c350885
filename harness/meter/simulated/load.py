"""The truth of a simulation: watts over time as steps, and their exact integral."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Annotated

from pydantic import Field, model_validator

from harness.types import Frozen

Watts = Annotated[float, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class Load(Frozen):
    """Watts over time: a constant, or steps that may repeat."""

    power_w: Watts | None = None
    curve: tuple[tuple[Seconds, Watts], ...] = ()  # from so many seconds on, so many watts
    repeat_s: Annotated[float, Field(gt=0)] | None = None  # the curve starts again every so many seconds

    @model_validator(mode="after")
    def _whole(self) -> Load:
        if (self.power_w is None) == (not self.curve):
            raise ValueError("give either power_w or curve")
        starts = [start for start, _ in self.curve]
        if self.curve and (starts[0] != 0 or starts != sorted(set(starts))):
            raise ValueError("curve must start at 0 and its seconds must rise")
        if self.repeat_s is not None and (not self.curve or self.repeat_s <= starts[-1]):
            raise ValueError("repeat_s needs a curve and must be longer than it")
        return self

    def power_at(self, seconds: float) -> float:
        """Watts at a time; before 0 those at 0."""
        _, rest = self._rounds(max(0.0, seconds))
        return self._watts[self._step(rest)]

    def energy_until(self, seconds: float) -> float:
        """Joules from 0 to a time, exact; negative before 0, where the watts are those at 0."""
        if seconds < 0:
            return self._watts[0] * seconds
        rounds, rest = self._rounds(seconds)
        step = self._step(rest)
        round_j = self._joules_of_round if rounds else 0.0
        return rounds * round_j + self._joules[step] + self._watts[step] * (rest - self._starts[step])

    def mean_power(self, start_s: float, end_s: float) -> float:
        """Watts over a stretch of time."""
        return (self.energy_until(end_s) - self.energy_until(start_s)) / (end_s - start_s)

    def _rounds(self, seconds: float) -> tuple[float, float]:
        return (0.0, seconds) if self.repeat_s is None else divmod(seconds, self.repeat_s)

    def _step(self, seconds: float) -> int:
        return bisect_right(self._starts, seconds) - 1

    @cached_property
    def _starts(self) -> Sequence[float]:
        return [start for start, _ in self.curve] or [0.0]

    @cached_property
    def _watts(self) -> Sequence[float]:
        return [watts for _, watts in self.curve] or [self.power_w or 0.0]

    @cached_property
    def _joules(self) -> Sequence[float]:
        """Joules before each step."""
        sums = [0.0]
        for (start, end), watts in zip(pairwise(self._starts), self._watts, strict=False):
            sums.append(sums[-1] + watts * (end - start))
        return sums

    @cached_property
    def _joules_of_round(self) -> float:
        assert self.repeat_s is not None
        return self._joules[-1] + self._watts[-1] * (self.repeat_s - self._starts[-1])


def square_wave(period_s: float, high_w: float, low_w: float, duty: float = 0.5) -> Load:
    """``high_w`` for the first ``duty`` of every period, then ``low_w``.

    Raises:
        ValueError: a duty outside (0, 1).
    """
    if not 0 < duty < 1 or not math.isfinite(period_s):
        raise ValueError(f"duty must lie between 0 and 1, not {duty}")
    return Load(curve=((0.0, high_w), (duty * period_s, low_w)), repeat_s=period_s)
