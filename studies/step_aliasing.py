"""Steps that alias with a power sensor: how wrong, whether the check flags them, and how much jitter cures.

A sensor that looks 25 of every 100 ms at a square wave of 600 and 200 W, one wave a step, by exact integrals of the
load. ``python studies/step_aliasing.py`` writes the tables into docs/metering.md; ``--quick`` takes a second and
prints them.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from typing import Any

import document_tables
import numpy as np
from numpy.typing import NDArray

from harness.meter.aliasing import MATTERS, check

T, LOOK = 0.1, 0.025
HIGH, LOW = 600.0, 200.0
WINDOW_S = 60.0
STEPS_MS = (50.0, 100.0, 101.0, 103.0, 137.0, 200.0, 300.0, 333.0, 500.0, 1000.0)
JITTERED = ((0.1, (0.0, 0.005, 0.01, 0.02, 0.05, 0.1)), (0.05, (0.0, 0.0025, 0.01)), (0.3, (0.0, 0.015, 0.05)))
ON_RESONANCE = ((0.0975, 0.005), (0.09, 0.02), (0.075, 0.05), (0.05, 0.1))  # the delays bring the mean step to 100 ms

Floats = NDArray[np.floating[Any]]


def energy_until(seconds: Floats, step_s: float, duty: float) -> Floats:
    """Joules of the square wave from 0 up to each time."""
    rounds, rest = np.floor(seconds / step_s), np.mod(seconds, step_s)
    of_round = (HIGH * duty + LOW * (1 - duty)) * step_s
    high_s, low_s = np.minimum(rest, duty * step_s), np.maximum(0.0, rest - duty * step_s)
    return np.asarray(rounds * of_round + HIGH * high_s + LOW * low_s)


def errors(step_s: float, window_s: float, duty: float = 0.5, starts: int = 12, seed: int = 0) -> Floats:
    """Relative errors of the looks' mean in windows that begin anywhere in a step, shape ``(starts,)``."""
    begin = (np.arange(starts) + np.random.default_rng(seed).random(starts)) / starts * step_s
    ends = begin[:, None] + T * np.arange(1, round(window_s / T) + 1)
    seen = (energy_until(ends, step_s, duty) - energy_until(ends - LOOK, step_s, duty)).sum(axis=1) * T / LOOK
    true = energy_until(begin + window_s, step_s, duty) - energy_until(begin, step_s, duty)
    return np.asarray(seen / true - 1)


def swing(duty: float = 0.5) -> float:
    """High minus low over mean."""
    return (HIGH - LOW) / (HIGH * duty + LOW * (1 - duty))


def jittered(rng: np.random.Generator, step_s: float, jitter_s: float, steps: int) -> tuple[float, float]:
    """Relative error and mean watts of a window of so many steps, each ended by a random delay at low power."""
    starts = np.concatenate([[0.0], np.cumsum(step_s + rng.uniform(0, jitter_s, steps + 60))])
    joules = (HIGH + LOW) / 2 * step_s + LOW * (np.diff(starts) - step_s)
    before = np.concatenate([[0.0], np.cumsum(joules)])

    def until(seconds: Floats) -> Floats:
        i = np.searchsorted(starts, seconds, side="right") - 1
        rest = seconds - starts[i]
        return np.asarray(before[i] + HIGH * np.minimum(rest, step_s / 2) + LOW * np.maximum(0.0, rest - step_s / 2))

    begin, window_s = rng.random() * step_s, round(steps * (step_s + jitter_s / 2) / T) * T
    ends = begin + T * np.arange(1, round(window_s / T) + 1)
    first, last = until(np.array([begin, begin + window_s]))
    seen = (until(ends) - until(ends - LOOK)).sum() * T / LOOK
    return float(seen / (last - first) - 1), float((last - first) / window_s)


def periods(number: int) -> tuple[list[float], list[float]]:
    """Step times from 5 ms to 5 s on a fine grid, and every simple fraction and multiple of the sensor's period."""
    rng = random.Random(5)
    grid = [0.005 * 1000 ** ((i + rng.random()) / number) for i in range(number)]
    exact = sorted({k * T / m for k in range(1, 50) for m in range(1, 20) if 0.005 <= k * T / m <= 5})
    return grid, exact


def report(number: int, trials: int) -> str:
    """The tables."""
    grid, exact = periods(number)
    found = {step_s: check(step_s, WINDOW_S, T, LOOK, swing=swing()) for step_s in (*grid, *exact)}
    worst = {step_s: float(np.abs(errors(step_s, WINDOW_S)).max()) for step_s in found}
    aliased = [step_s for step_s in found if worst[step_s] > MATTERS]
    flagged = [step_s for step_s in grid if found[step_s].flagged]
    caught = sum(found[step_s].flagged for step_s in aliased)
    lines = [
        f"Of {len(found)} step times from 5 ms to 5 s, in windows of {WINDOW_S:g} s, {len(aliased)} are wrong by more "
        f"than {MATTERS:.0%} at their worst phase: {caught} of them are flagged. On the even (logarithmic) grid alone "
        f"{len(flagged) / len(grid):.1%} of step times are flagged, "
        f"{sum(worst[s] > MATTERS for s in grid) / len(grid):.1%} are wrong.",
        "",
        "| step | worst error of 60 s | stated, one sd | flagged |",
        "|---|---|---|---|",
    ]
    for step_ms in STEPS_MS:
        one = check(step_ms / 1e3, WINDOW_S, T, LOOK, swing=swing())
        error = float(np.abs(errors(step_ms / 1e3, WINDOW_S, starts=100)).max())
        lines.append(f"| {step_ms:g} ms | {error:.2%} | {one.relative_sd:.2%} | {'yes' if one.flagged else 'no'} |")
    lines += [
        "",
        "| step alone | `jitter_s` | mean step | rms error of 600 steps | 95 % of errors under | stated, one sd |",
        "|---|---|---|---|---|---|",
    ]
    rng = np.random.default_rng(1)
    rows = [(step_s, jitter_s) for step_s, jitters in JITTERED for jitter_s in jitters] + list(ON_RESONANCE)
    for step_s, jitter_s in rows:
        off, watts = np.array([jittered(rng, step_s, jitter_s, 600) for _ in range(trials)]).T
        mean_s = step_s + jitter_s / 2
        one = check(mean_s, 600 * mean_s, T, LOOK, swing=(HIGH - LOW) / float(watts.mean()), jitter_s=jitter_s)
        lines.append(
            f"| {step_s * 1e3:g} ms | {jitter_s * 1e3:g} ms | {mean_s * 1e3:g} ms | {np.sqrt(np.mean(off**2)):.2%} | "
            f"{np.quantile(np.abs(off), 0.95):.2%} | {one.relative_sd:.2%} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few step times and trials; prints, writes nothing")
    options = parser.parse_args(arguments)
    if options.quick:
        print(report(60, 20))
        return
    document_tables.write("metering.md", {"step_aliasing": report(1500, 300)})


if __name__ == "__main__":
    main()
