"""Saving over log10(parameters), one value per size (see :mod:`harness.judge.stats` for why)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.judge import stats
from harness.judge.compare import estimate_of, weakest
from harness.judge.types import Comparison, Estimate, Trend
from harness.suite.spec import levels_text


def usable(comparison: Comparison) -> bool:
    """Whether its energy may be used (its counted FLOPs, under the count protocol)."""
    return comparison.invalid_scope == "" and value_of(comparison) is not None


def value_of(comparison: Comparison) -> Estimate | None:
    """The saving a trend is drawn through: of energy, or of counted FLOPs under the count protocol."""
    return comparison.flops_saving if comparison.protocol == "count" else comparison.saving


def trend(comparisons: Sequence[Comparison]) -> Trend | None:
    """Trend of one arm under one protocol at one level of each factor; ``None`` with fewer than two sizes."""
    points = [(c, found) for c in comparisons if usable(c) and (found := value_of(c)) is not None]
    if not points:
        return None
    fitted = stats.line([math.log10(c.parameters) for c, _ in points], [[found.value] for _, found in points])
    if fitted is None:
        return None
    first = points[0][0]
    basis = weakest(found.basis for _, found in points)
    return Trend(
        arm=first.arm,
        protocol=first.protocol,
        levels=first.levels,
        slope=estimate_of(fitted.slope, "share per decade", basis),
        intercept=fitted.intercept,
        from_parameters=min(c.parameters for c, _ in points),
        to_parameters=max(c.parameters for c, _ in points),
    )


def trends(comparisons: Sequence[Comparison]) -> tuple[Trend, ...]:
    """Every arm's trend under every protocol and at all levels of factors, A/A arms left out."""
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for comparison in comparisons:
        if not comparison.is_aa:
            levels = levels_text(comparison.levels)
            groups.setdefault((comparison.protocol, comparison.arm, levels), []).append(comparison)
    return tuple(found for group in groups.values() if (found := trend(group)) is not None)
