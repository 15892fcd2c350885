"""How a site is cut into units, and how many of them a share keeps. Pure arithmetic, no torch.

Closed-form FLOP counts use these functions, so that what is predicted is what is run.
"""

from __future__ import annotations

import math

MLP_UNIT_SIZES = (128, 64, 32, 16, 8)
"""Sizes of an MLP block in hidden channels, preferred first."""

MIN_MLP_UNITS = 6
"""An MLP is cut finer until it has this many blocks: the smallest share of the schedule is about 1/6."""


def round_half_up(value: float) -> int:
    """Nearest integer, ties upwards (Python's ``round`` goes to even). ``value`` is not negative."""
    # 12 digits, so that 0.29 * 50 = 14.499999999999998 counts as the tie it is meant to be
    return math.floor(round(value, 12) + 0.5)


def counts_allowed(n: int, floor: int = 1, buckets: int | None = None) -> tuple[int, ...]:
    """The numbers of active units that a site of ``n`` may have, rising: ``floor`` to n, or at most ``buckets`` of
    them at equal distances (n/b, 2n/b, ... n, rounded half up, none below the floor)."""
    if buckets is None:
        return tuple(range(min(n, floor), n + 1))
    return tuple(sorted({min(n, max(floor, round_half_up(n * at / buckets))) for at in range(1, buckets + 1)}))


def units_kept(n: int, share: float, floor: int = 1, buckets: int | None = None) -> int:
    """Number of ``n`` units that are active at ``share``: ``max(floor, round_half_up(share * n))``, at most n.

    A share of 0 therefore means the floor. With ``buckets``, the nearest of :func:`counts_allowed`, of two the larger.

    Raises:
        ValueError: ``n`` < 1, ``floor`` < 1, or ``share`` outside 0..1.
    """
    if n < 1:
        raise ValueError(f"a site needs at least one unit, not {n}")
    if floor < 1:
        raise ValueError(f"floor must be at least 1 unit, not {floor}")
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"an active share lies between 0 and 1, not {share}")
    if buckets is not None:
        return min(reversed(counts_allowed(n, floor, buckets)), key=lambda count: round(abs(count - share * n), 12))
    return min(n, max(floor, round_half_up(share * n)))


def mlp_units(hidden: int) -> tuple[int, int]:
    """``(unit, n)``: channels per block and number of blocks of an MLP with ``hidden`` channels.

    The rule: the largest of 128, 64, 32, 16, 8 that divides ``hidden`` and gives at least 6 blocks; where
    none does, the largest of 8, 4, 2, 1 that divides it.

    Raises:
        ValueError: ``hidden`` < 1.
    """
    if hidden < 1:
        raise ValueError(f"an MLP needs at least one hidden channel, not {hidden}")
    for unit in MLP_UNIT_SIZES:
        if hidden % unit == 0 and hidden // unit >= MIN_MLP_UNITS:
            return unit, hidden // unit
    unit = next(size for size in (8, 4, 2, 1) if hidden % size == 0)
    return unit, hidden // unit


def attention_units(heads: int, kv_heads: int) -> tuple[int, int]:
    """``(group, n)``: query heads per KV group and number of groups. A unit is one KV head with its queries.

    Raises:
        ValueError: ``kv_heads`` does not divide ``heads``.
    """
    if kv_heads < 1 or heads % kv_heads:
        raise ValueError(f"{heads} query heads can't be shared by {kv_heads} KV heads")
    return heads // kv_heads, kv_heads
