"""Random delays between steps: the cure of a step that aliases with a power sensor (``meter/aliasing.py``)."""

from __future__ import annotations

import random
import time

import torch

from harness.types import UserError

SPIN_CYCLES = 20_000_000
"""Cycles that the card's clock is timed over: about 10 ms."""
SPINS = 8
"""So often the clock is timed before the first step, and the last counts: the first ones wake the card."""


class Jitter:
    """A delay after each step, uniform between 0 and ``largest_s``.

    It has a random generator of its own, seeded by the run's name: the training's is not touched, and the same
    run has the same delays. On a GPU the delay is put in the device's queue, so that nothing is waited for.

    Raises:
        UserError: a GPU, and a torch that can't delay it.
    """

    def __init__(self, largest_s: float, run_id: str, device: torch.device) -> None:
        self.largest_s = largest_s
        self.steps = 0
        self.seconds = 0.0  # asked for so far
        self._random = random.Random(f"jitter of {run_id}")
        self._device = device
        self._cycles_per_s = cycles_per_second(device) if device.type == "cuda" else 0.0

    def delay(self) -> None:
        """Delay what comes next."""
        seconds = self._random.uniform(0.0, self.largest_s)
        self.steps += 1
        self.seconds += seconds
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                torch.cuda._sleep(round(seconds * self._cycles_per_s))  # type: ignore[no-untyped-call]
        else:
            time.sleep(seconds)

    @property
    def note(self) -> str:
        """What it added to the charged windows, for the record."""
        return (
            f"jitter: {self.steps} random delays of up to {self.largest_s * 1e3:g} ms, {self.seconds:.3g} s together, "
            "are part of the charged windows"
        )


def cycles_per_second(device: torch.device) -> float:
    """The rate of the clock that ``torch.cuda._sleep`` counts, timed on the card.

    Raises:
        UserError: this torch has no ``torch.cuda._sleep``.
    """
    if not hasattr(torch.cuda, "_sleep"):
        raise UserError(
            f"recipe.jitter_s: torch {torch.__version__} can't delay a GPU (it has no torch.cuda._sleep); set jitter_s "
            "to 0 and change the step time instead, e.g. by batch_size"
        )
    with torch.cuda.device(device):
        for _ in range(SPINS):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in "ab")  # type: ignore[no-untyped-call]
            start.record()
            torch.cuda._sleep(SPIN_CYCLES)  # type: ignore[no-untyped-call]
            end.record()
            torch.cuda.synchronize(device)
    return SPIN_CYCLES / (float(start.elapsed_time(end)) / 1e3)
