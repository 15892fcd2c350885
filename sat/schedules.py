"""Schedules by name: each returns the pairs (start as a share of the steps, active share) that ``SATConfig`` takes.

Expansions belong before the learning rate decays: the new part needs a stable rate to catch up with the old ("mixing",
arXiv 2511.04981). Under a warm-up, stable, decay (WSD) rate, give ``decay_from``, the share of the steps at which the
decay starts: the last expansion then comes where ``stable_left`` of all steps before it remain, and one at or after it
is an error. Pure: no torch here.

>>> SATConfig(schedule=sat.schedules.doubling(0.125, first=0.3, decay_from=0.85, stable_left=0.25), entry="split")
"""

from __future__ import annotations

import math

Schedule = tuple[tuple[float, float], ...]

STABLE_LEFT = 1 / 6
"""Default share of the steps before the decay that remain after the last expansion: as in the recorded comparisons,
which expand at .5 and decay from .6 on (docs/frontier.md); expanding at .35 was as near to dense models."""


def constant(share: float) -> Schedule:
    """The same share from the first step to the last; the regimes that re-choose can end with it.

    Raises:
        ValueError: ``share`` outside 0..1.
    """
    _check("share", share, low=0.0, high=1.0)
    return ((0.0, share),)


def one_expansion(
    at: float | None = None,
    start_share: float = 0.0,
    *,
    decay_from: float | None = None,
    stable_left: float | None = None,
) -> Schedule:
    """``start_share`` of the units, then all of them.

    Args:
        at: when, as a share of the steps; left out, it follows from ``decay_from`` and ``stable_left``.
        start_share: share of the units at first; 0 is the floor (one layer).
        decay_from: share of the steps at which the learning rate starts to decay.
        stable_left: share of the steps before the decay that remain after the expansion; 1/6 where left out.

    Raises:
        ValueError: the expansion falls into the decay, both or neither of ``at`` and ``decay_from`` place it, or a
            value is out of range.
    """
    _check("start_share", start_share, low=0.0, below=1.0)
    return ((0.0, start_share), (_last("at", at, decay_from, stable_left), 1.0))


def doubling(
    start_share: float,
    first: float,
    last: float | None = None,
    *,
    decay_from: float | None = None,
    stable_left: float | None = None,
) -> Schedule:
    """Twice the units at every expansion, at equal distances between ``first`` and ``last``, until all are in.

    Args:
        start_share: share of the units at first, above 0. Where its doubles miss 1, the last step is a smaller one.
        first: when the first expansion comes, as a share of the steps. A share of a half or more has one expansion
            alone: it comes at ``first``, and ``last`` must say the same if it is given.
        last: when all units are in; left out, it follows from ``decay_from`` and ``stable_left``.
        decay_from: share of the steps at which the learning rate starts to decay.
        stable_left: share of the steps before the decay that remain after the last expansion; 1/6 where left out.

    Raises:
        ValueError: an expansion falls into the decay, ``last`` is not after ``first``, or a value is out of range.
    """
    _check("start_share", start_share, above=0.0, below=1.0)
    _check("first", first, above=0.0, below=1.0)
    count = math.ceil(math.log2(1.0 / start_share) - 1e-9)
    if count == 1:
        if last not in (None, first):
            raise ValueError(
                f"sat.schedules.doubling: from a share of {start_share:g} there is one expansion, at first "
                f"({first:g}); leave last ({last:g}) out, or start with less than 0.5"
            )
        return one_expansion(first, start_share, decay_from=decay_from, stable_left=stable_left)
    end = _last("last", last, decay_from, stable_left)
    if end <= first:
        raise ValueError(
            f"sat.schedules.doubling: the last expansion, at {end:g}, must come after the first, at {first:g}; move "
            "first forward, or leave less of the stable phase"
        )
    starts = [_rounded(first + (end - first) * at / (count - 1)) for at in range(count)]
    return ((0.0, start_share), *((start, min(1.0, start_share * 2 ** (at + 1))) for at, start in enumerate(starts)))


def zero_one_layer(
    at: float | None = 0.8, *, decay_from: float | None = None, stable_left: float | None = None
) -> Schedule:
    """One layer, then all of them, once: "zero/one-layer expansion" (arXiv 2511.04981).

    Their recipe expands once at about 80 % of the steps, in the stable phase of a WSD rate, and finds the place of the
    decay to matter: give ``at=None`` with ``decay_from`` to place the expansion relative to it. Theirs starts from zero
    layers or one; ours keeps a floor of one.

    Raises:
        ValueError: as :func:`one_expansion`.
    """
    return one_expansion(at, 0.0, decay_from=decay_from, stable_left=stable_left)


def check_decay(schedule: Schedule, decay_from: float) -> None:
    """Whether every expansion comes before the learning rate decays.

    Raises:
        ValueError: one does not; the text says which.
    """
    _check("decay_from", decay_from, above=0.0, high=1.0)
    share = schedule[0][1]
    for start, following in schedule[1:]:
        if following > share and start >= decay_from:
            raise ValueError(
                f"the schedule expands from {share:g} to {following:g} at {start:g} of the steps, but the learning "
                f"rate decays from {decay_from:g} on, which leaves the new part no stable phase; expand earlier "
                "(sat.schedules places it), or leave decay_from out"
            )
        share = following


def _last(name: str, at: float | None, decay_from: float | None, stable_left: float | None) -> float:
    """When the last expansion comes."""
    if at is None:
        if decay_from is None:
            raise ValueError(
                f"sat.schedules: give {name}, or decay_from (and stable_left), to place the last expansion"
            )
        left = STABLE_LEFT if stable_left is None else stable_left
        _check("decay_from", decay_from, above=0.0, high=1.0)
        _check("stable_left", left, above=0.0, below=1.0)
        return _rounded(decay_from * (1.0 - left))
    if stable_left is not None:
        raise ValueError(f"sat.schedules: {name} and stable_left both place the last expansion; give one of them")
    _check(name, at, above=0.0, below=1.0)
    if decay_from is not None:
        check_decay(((0.0, 0.0), (at, 1.0)), decay_from)
    return at


def _rounded(start: float) -> float:
    return round(start, 9)  # 0.8 instead of 0.8000000000000002: configurations are compared and printed


def _check(
    name: str,
    value: float,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> None:
    if not (low <= value <= high and above < value < below):
        lower = f"> {above:g}" if above > -math.inf else f">= {low:g}"
        upper = f"< {below:g}" if below < math.inf else f"<= {high:g}"
        raise ValueError(f"sat.schedules: {name} must be {lower} and {upper}, not {value:g}")
