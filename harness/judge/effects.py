"""Does a saving hold beside what people already use? One factor changed, all others held, paired by seed. Pure.

A block has no partner at another level of a factor that ran beside it, so the two savings are compared, not the
energies: the log ratio of a pair at one level less that of the pair of the same seed at the other. Same seed is same
data and same initial weights; what the card did in between is in the spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.judge import stats
from harness.judge.compare import weakest
from harness.judge.trends import usable
from harness.judge.types import Comparison, Estimate, FactorEffect
from harness.suite.spec import Level


def effects(comparisons: Sequence[Comparison]) -> tuple[FactorEffect, ...]:
    """Every arm's change of energy ratio between the first level of each factor (as sorted) and each other one.

    Comparisons whose energy a gate refused are left out, as are A/A arms.
    """
    found = []
    known = [c for c in comparisons if c.levels and not c.is_aa and c.protocol != "count" and usable(c)]
    for first in known:
        for second in known:
            factor = _only_difference(first, second)
            if factor is None or not _in_order(first, second, factor, known):
                continue
            ratio = _ratio(first, second)
            if ratio is not None:
                found.append(
                    FactorEffect(
                        arm=first.arm, size=first.size, parameters=first.parameters, protocol=first.protocol,
                        factor=factor, reference=first.levels[factor], level=second.levels[factor],
                        others={name: level for name, level in first.levels.items() if name != factor}, ratio=ratio,
                    )
                )  # fmt: skip
    return tuple(found)


def _only_difference(first: Comparison, second: Comparison) -> str | None:
    """The one factor in which two comparisons of the same arm, size and protocol differ."""
    if (first.arm, first.size, first.protocol) != (second.arm, second.size, second.protocol):
        return None
    if first.levels.keys() != second.levels.keys():
        return None
    differing = [name for name, level in first.levels.items() if second.levels[name] != level]
    return differing[0] if len(differing) == 1 else None


def _in_order(first: Comparison, second: Comparison, factor: str, known: Sequence[Comparison]) -> bool:
    """Whether ``first`` stands at the factor's reference: off before on, the plainest before the rest."""
    levels = sorted({_rank(c.levels[factor]) for c in known if factor in c.levels})
    return _rank(first.levels[factor]) == levels[0] != _rank(second.levels[factor])


def _rank(level: Level) -> tuple[int, float, str]:
    """A total order: false, true; numbers; texts, of which fp32 is what mixed precision is compared with."""
    if isinstance(level, str):
        return (0 if level == "fp32" else 1), 0.0, level
    return 0, float(level), ""


def _ratio(first: Comparison, second: Comparison) -> Estimate | None:
    mine = {row.seed: row.log_energy_ratio for row in first.pairs}
    logs = [
        row.log_energy_ratio - before
        for row in second.pairs
        if row.log_energy_ratio is not None and (before := mine.get(row.seed)) is not None
    ]
    if not logs or first.saving is None or second.saving is None:
        return None
    mean = stats.mean(logs)
    low, high = mean.interval()
    return Estimate(
        value=math.exp(mean.value),
        low=None if low is None else math.exp(low),
        high=None if high is None else math.exp(high),
        n=len(logs),
        unit="ratio",
        basis=weakest([first.saving.basis, second.saving.basis]),
    )
