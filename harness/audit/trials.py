"""Each claim's arms put to their tests once more: pairs from the records, bounds from the claims, p-values from scipy.

Nothing of the judge's statistics is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.judge.types import Claim, Comparison, Judgement
from harness.record.record import Record
from harness.types import Basis
from harness.workloads.base import WORKLOADS

CEILING_SLACK = 0.05  # a mean saving that surely exceeds the counted one by more is a fault
SOLID = frozenset({Basis.MEASURED, Basis.COUNTED})


@dataclass(frozen=True)
class Level:
    """A mean with its standard error and degrees of freedom; ``None`` of one pair."""

    value: float
    error: float | None
    df: float | None

    def p_above(self, bound: float) -> float | None:
        """One-sided p of "the mean lies above the bound"."""
        if self.error is None or self.df is None:
            return None
        if self.error == 0:
            return 0.0 if self.value > bound else 1.0
        from scipy.stats import t

        return float(t.sf((self.value - bound) / self.error, self.df))

    def p_below(self, bound: float) -> float | None:
        """One-sided p of "the mean lies below the bound"."""
        return Level(-self.value, self.error, self.df).p_above(-bound)


@dataclass(frozen=True)
class Tried:
    """One condition: its bound, and p of "met" and of "not met" before any adjustment."""

    bound: float
    met: float | None
    failed: float | None
    solid: bool
    exact: bool = False


@dataclass
class Trial:
    """One arm put to one claim."""

    arm: str
    conditions: list[Tried] = field(default_factory=list)
    invalid: bool = False

    @property
    def met(self) -> float | None:
        """The largest p of all conditions; ``None`` where one of them can't be tested."""
        values = [one.met for one in self.conditions if one.met is not None]
        return max(values) if values and len(values) == len(self.conditions) else None

    def failed(self, *, solid: bool) -> float | None:
        """The smallest p of failure, times the number of conditions."""
        known = [one.failed for one in self.conditions if one.failed is not None and (one.solid or not solid)]
        return min(1.0, len(known) * min(known)) if known else None

    @property
    def exact(self) -> bool:
        """Whether arithmetic alone decides."""
        return all(one.exact for one in self.conditions)


def last_good(records: Sequence[Record]) -> dict[str, Record]:
    """The last attempt of each run that ended well, by its id."""
    last: dict[str, Record] = {}
    for record in sorted(records, key=lambda one: one.attempt):
        if record.status.value == "ok":
            last[record.run_id] = record
    return last


def trials_of(claim: Claim, judgement: Judgement, good: dict[str, Record]) -> list[Trial]:
    """The arms of a claim that were run in its scope, each with its conditions."""
    found = []
    for arm in claim.arms:
        scope = _scope(claim, arm, judgement, claim.protocol)
        if not scope:
            continue
        refusing = {"all"} if claim.metric in {"quality", "flops_saving"} else {"all", "energy"}
        if any(one.invalid_scope in refusing for one in scope):
            found.append(Trial(arm, invalid=True))
            continue
        conditions = _of_savings(claim, scope, good)
        if claim.metric != "quality" and not conditions:
            continue
        if claim.metric == "energy_saving" and _too_good(claim, scope, good):
            found.append(Trial(arm, invalid=True))
            continue
        if claim.quality_metric is not None:
            conditions += _of_quality(claim, arm, scope, judgement, good)
        if conditions:
            found.append(Trial(arm, conditions))
    return found


def _scope(claim: Claim, arm: str, judgement: Judgement, protocol: str) -> list[Comparison]:
    wanted = {"train", "steady"} if protocol == "any" else {protocol}
    low = -math.inf if claim.min_parameters is None else claim.min_parameters
    high = math.inf if claim.max_parameters is None else claim.max_parameters
    return [c for c in judgement.comparisons if c.arm == arm and c.protocol in wanted and low < c.parameters < high]


def _of_savings(claim: Claim, scope: Sequence[Comparison], good: dict[str, Record]) -> list[Tried]:
    bound = claim.at_least
    if bound is None or claim.metric == "quality":
        return []
    if claim.metric == "flops_saving":
        savings = [c.flops_saving.value for c in scope if c.flops_saving is not None]
        return [Tried(bound, float(s < bound), float(s >= bound), solid=True, exact=True) for s in savings]
    which = "time" if claim.metric == "cost_saving" else "energy"
    logs = [values for c in scope if (values := _logs(c, good, which))]
    if not logs:
        return []
    solid = _solid(scope, which)
    if claim.metric == "energy_saving_slope":
        return [_slope(bound, scope, good, solid=solid)]
    strata = [[values] for values in logs] if claim.aggregate == "each" else [logs]
    conditions = [_saving(bound, group, solid=solid) for group in strata]
    if which == "energy":
        conditions = _with_second_channel(claim, conditions, strata, scope, good)
    return conditions


def _logs(comparison: Comparison, good: dict[str, Record], which: str) -> list[float]:
    """ln(arm / baseline) of every pair that has both."""
    found = []
    for row in comparison.pairs:
        base, run = (_amount(good[name], which) for name in (row.base_run, row.arm_run))
        if base is not None and run is not None and base > 0 and run > 0:
            found.append(math.log(run / base))
    return found


def _amount(record: Record, which: str) -> float | None:
    steady = record.spec.protocol.value == "steady"
    if which == "time":
        return record.seconds_per_step if steady else record.seconds
    energy = record.energy_per_step if steady else record.energy
    if energy is None:
        return None
    return energy.joules if which == "energy" else energy.second_joules


def _solid(scope: Sequence[Comparison], which: str) -> bool:
    estimates = [c.saving if which == "energy" else c.time_saving for c in scope]
    return all(one.basis in SOLID for one in estimates if one is not None)


def _saving(bound: float, strata: Sequence[Sequence[float]], *, solid: bool) -> Tried:
    """One size on the scale of logarithms, several on the scale of shares."""
    if len(strata) == 1:
        level, limit = mean_level(strata[0]), math.log1p(-bound)
        return Tried(bound, level.p_below(limit), level.p_above(limit), solid)
    level = _pooled(strata)
    return Tried(bound, level.p_above(bound), level.p_below(bound), solid)


def mean_level(values: Sequence[float]) -> Level:
    """Mean of one size with its error; exact where there is no scatter."""
    n = len(values)
    centre = math.fsum(values) / n
    if n == 1:
        return Level(centre, None, None)
    if min(values) == max(values):
        return Level(values[0], 0.0, n - 1)
    return Level(centre, math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (n - 1) / n), n - 1)


def _pooled(logs: Sequence[Sequence[float]]) -> Level:
    """Mean saving over sizes, by the delta method."""
    levels = []
    for values in logs:
        one = mean_level(values)
        ratio = math.exp(one.value)
        levels.append((Level(1 - ratio, None if one.error is None else ratio * one.error, one.df), len(values)))
    return _average(levels)


def _average(levels: Sequence[tuple[Level, int]]) -> Level:
    """Equal weights; Welch and Satterthwaite's degrees of freedom. A size with one pair borrows the others' scatter."""
    k = len(levels)
    centre = math.fsum(level.value for level, _ in levels) / k
    known = [(level.error, level.df, n) for level, n in levels if level.error is not None and level.df is not None]
    if not known:
        return Level(centre, None, None)
    if len(known) < k:
        df = math.fsum(d for _, d, _ in known)
        pooled = math.fsum(e**2 * n * d for e, d, n in known) / df
        return Level(centre, math.sqrt(math.fsum(pooled / n for _, n in levels)) / k, df)
    total = math.fsum(e**2 for e, _, _ in known)
    if total == 0:
        return Level(centre, 0.0, min(d for _, d, _ in known))
    return Level(centre, math.sqrt(total) / k, total**2 / math.fsum(e**4 / d for e, d, _ in known))


def _with_second_channel(
    claim: Claim,
    conditions: list[Tried],
    strata: Sequence[Sequence[Sequence[float]]],
    scope: Sequence[Comparison],
    good: dict[str, Record],
) -> list[Tried]:
    """Open where the meter's second channel stands on the other side of the bound."""
    bound = claim.at_least
    assert bound is not None
    seconds = []
    for comparison in scope:
        first, second = (_logs(comparison, good, which) for which in ("energy", "second"))
        if first:
            if len(second) < len(first):
                return conditions
            seconds.append(second)
    groups = [[values] for values in seconds] if claim.aggregate == "each" else [seconds]
    judged = []
    for one, mine, other in zip(conditions, strata, groups, strict=True):
        here = _pooled(mine).value if len(mine) > 1 else -math.expm1(mean_level(mine[0]).value)
        apart = (_pooled(other).value >= bound) != (here >= bound)
        judged.append(Tried(one.bound, None, None, one.solid) if apart else one)
    return judged


def _too_good(claim: Claim, scope: Sequence[Comparison], good: dict[str, Record]) -> bool:
    """Whether the mean saving surely exceeds what the counted FLOPs allow."""
    logs = [values for c in scope if (values := _logs(c, good, "energy"))]
    ceilings = [c.ceiling for c in scope if c.saving is not None and c.ceiling is not None]
    if claim.aggregate == "each" or len(ceilings) < len(scope) or not logs:
        return False
    level = mean_level(logs[0]) if len(logs) == 1 else _pooled(logs)
    if level.error is None or level.df is None:
        return False
    from scipy.stats import t

    half = float(t.ppf(0.975, level.df)) * level.error if level.error else 0.0
    low = -math.expm1(level.value + half) if len(logs) == 1 else level.value - half
    return low > math.fsum(ceilings) / len(ceilings) + CEILING_SLACK


def _slope(bound: float, scope: Sequence[Comparison], good: dict[str, Record], *, solid: bool) -> Tried:
    """Least squares over one saving for each size, on log10 of the parameters."""
    points = [
        (math.log10(c.parameters), -math.expm1(mean_level(values).value))
        for c in scope
        if (values := _logs(c, good, "energy"))
    ]
    if len({x for x, _ in points}) < 3:
        return Tried(bound, None, None, solid)
    import numpy as np

    x, y = (np.array(axis) for axis in zip(*points, strict=True))
    design = np.stack([np.ones_like(x), x], axis=1)
    fit, *_ = np.linalg.lstsq(design, y, rcond=None)
    residual = float(np.sum((y - design @ fit) ** 2)) / (len(x) - 2)
    error = math.sqrt(residual / float(np.sum((x - x.mean()) ** 2)))
    level = Level(float(fit[1]), error, len(x) - 2)
    return Tried(bound, level.p_above(bound), level.p_below(bound), solid)


def _of_quality(
    claim: Claim, arm: str, scope: Sequence[Comparison], judgement: Judgement, good: dict[str, Record]
) -> list[Tried]:
    """Worse by less than the margin, from the trainings at the sizes in scope."""
    name, margin = claim.quality_metric, claim.quality_margin
    assert name is not None
    assert margin is not None
    better = {metric.name: metric.better for metric in WORKLOADS.get(claim.workload).metrics}
    sign = -1.0 if better[name] == "higher" else 1.0
    sizes = list(dict.fromkeys(c.size for c in scope))
    worse: dict[str, list[float]] = {}
    for comparison in _scope(claim, arm, judgement, "train"):
        if comparison.size not in sizes or comparison.invalid_scope == "all":
            continue
        for row in comparison.pairs:
            base, run = good[row.base_run].quality, good[row.arm_run].quality
            if name in base and name in run:
                scale = abs(base[name]) if claim.quality_relative else 1.0
                worse.setdefault(comparison.size, []).append(sign * (run[name] - base[name]) / scale)
    unknown = Tried(margin, None, None, solid=True)
    if not worse:
        return [unknown]
    groups = [[values] for values in worse.values()] if claim.aggregate == "each" else [list(worse.values())]
    found = []
    for group in groups:
        level = _average([(mean_level(values), len(values)) for values in group])
        found.append(Tried(margin, level.p_below(margin), level.p_above(margin), solid=True))
    if claim.aggregate == "each":
        found += [unknown for size in sizes if size not in worse]
    return found
