"""Which units are active: pure functions over scores. Ties go to the lower index, so every rank agrees."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

from sat.units import round_half_up


def generator(seed: int, step: int, site: str) -> random.Random:
    """The random stream of one decision at one site. It has no state to save: a resume draws the same."""
    return random.Random(f"{seed}/{step}/{site}")  # a str is hashed with SHA-512, equal on every machine


def choose(
    scores: Sequence[float],
    active: Sequence[int],
    keep: int,
    *,
    grow_only: bool,
    swap_share: float,
    hysteresis: float,
    explore: float,
    rng: random.Random,
) -> tuple[int, ...]:
    """The new active set, ``keep`` units in rising order.

    Args:
        scores: one per unit, higher is kept.
        active: units active now; empty at the start, when the best ``keep`` are taken.
        keep: how many to keep.
        grow_only: units that are active stay (unless ``keep`` is below their number).
        swap_share: otherwise at most this share of ``keep`` is exchanged beyond growth or shrinking.
        hysteresis: an exchange needs a score above ``(1 + hysteresis)`` times that of the unit it displaces.
        explore: chance of each entering unit to be a random draw among those outside instead.
        rng: used for ``explore`` only.
    """
    kept = sorted(active, key=lambda unit: (-scores[unit], unit))[:keep]
    inside = set(active)
    outside = sorted(
        (unit for unit in range(len(scores)) if unit not in inside), key=lambda unit: (-scores[unit], unit)
    )
    entering = outside[: keep - len(kept)]
    if active and not grow_only:
        waiting = outside[len(entering) :]
        for _ in range(min(round_half_up(swap_share * keep), len(waiting), len(kept))):
            candidate, weakest = waiting[0], kept[-1]
            if scores[candidate] <= (1.0 + hysteresis) * scores[weakest]:
                break
            kept.pop()
            entering.append(waiting.pop(0))
    if active:
        entering = _explore(entering, outside, explore, rng)
    return tuple(sorted({*kept, *entering}))


def rise(scores: Sequence[float], frozen: int, limit: int) -> int:
    """New length of the frozen prefix: from ``frozen`` towards ``limit`` layers, never back.

    The next layer joins while it is among the lowest-scoring ``limit - frozen`` of those that still train: all below
    it are frozen, and it matters less than those left (after AutoFreeze, arXiv 2102.01386, which takes the layers
    whose gradients change least).
    """
    waiting = range(frozen, len(scores))
    ready = set(sorted(waiting, key=lambda layer: (scores[layer], layer))[: max(0, limit - frozen)])
    while frozen in ready:
        frozen += 1
    return frozen


def allocate(
    scores: Sequence[Sequence[float]],
    costs: Sequence[float],
    counts: Sequence[Sequence[int]],
    budget: float,
) -> tuple[tuple[int, ...], float | None]:
    """How many units each site keeps, under one budget for all: the best by score per cost come in first.

    Each site starts with its first count and goes on to its next as long as the budget has room for at least half of
    the difference, which leaves the total within half a step of the budget (a unit, where all counts are allowed),
    unless the first counts exceed it by themselves. Ties go to the lower site.

    Args:
        scores: one list per site, the units in the order in which they come in.
        costs: of one unit of each site.
        counts: the numbers of units that each site may keep, rising.
        budget: in the unit of the costs.

    Returns:
        The counts, and the score per cost of the last that came in (the threshold), if any did.
    """
    at = [0] * len(scores)
    spent = sum(allowed[0] * cost for allowed, cost in zip(counts, costs, strict=True))
    threshold = None
    steps = []  # (score per cost, site, place of the count among those allowed); never better than the one before
    for site, (ranked, cost, allowed) in enumerate(zip(scores, costs, counts, strict=True)):
        best = math.inf
        for place_, (low, high) in enumerate(itertools.pairwise(allowed), 1):
            best = min(best, sum(ranked[low:high]) / (high - low) / cost)
            steps.append((-best, site, place_))
    for value, site, place_ in sorted(steps):
        step = (counts[site][place_] - counts[site][place_ - 1]) * costs[site]
        if at[site] == place_ - 1 and spent + step / 2 <= budget * (1 + 1e-12):
            at[site], spent, threshold = place_, spent + step, -value
    return tuple(allowed[chosen] for allowed, chosen in zip(counts, at, strict=True)), threshold


def _explore(entering: list[int], outside: list[int], chance: float, rng: random.Random) -> list[int]:
    """Each entering unit gives way, by ``chance``, to a random draw from those outside; the lowest-ranked first."""
    drawn = sum(rng.random() < chance for _ in entering)
    if not drawn:
        return entering
    sure = entering[: len(entering) - drawn]
    return sure + rng.sample(sorted(set(outside) - set(sure)), drawn)


def place(n: int, active: Sequence[int], keep: int, *, spread: bool, pinned: Sequence[int] = ()) -> tuple[int, ...]:
    """Layers by position instead of score: what is active stays, ``keep`` in all, in rising order.

    Without ``spread`` new layers come from the bottom up (on top of the trained ones). With it each goes into
    the middle of the largest gap, so that 1, 2, 4, 8 of 8 give 0; 0, 4; 0, 2, 4, 6; all. Beyond ``keep`` the
    highest layers leave. ``pinned`` layers come first and leave last.
    """
    chosen = sorted(sorted({*active, *pinned}, key=lambda layer: (layer not in pinned, layer))[:keep])
    while len(chosen) < keep:
        if not spread:
            chosen.append(next(layer for layer in range(n) if layer not in chosen))
        elif not chosen:
            chosen.append(0)
        else:
            borders = [*chosen, n]
            gaps = [(borders[i + 1] - borders[i], -i) for i in range(len(chosen))]
            if chosen[0] > 0 and (chosen[0] >= max(gaps)[0] or max(gaps)[0] == 1):
                chosen.append(chosen[0] // 2)
            else:
                width, at = max(gaps)
                chosen.append(chosen[-at] + width // 2)
        chosen.sort()
    return tuple(chosen)
