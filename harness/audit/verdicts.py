"""Verdicts once more: bounds, p-values and their adjustment after Holm, written out with scipy's distributions.

Nothing of the judge's statistics is used. From the records come the pairs, from the claims the bounds; a check of a
verdict must carry the bound of its claim, the p that follows and the outcome that this p allows, and the verdict a
status that its checks allow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from harness.judge.types import Check, Claim, Comparison, Judgement, Verdict, VerdictStatus
from harness.record.record import Record
from harness.types import Basis
from harness.workloads.base import WORKLOADS

ALPHA = 0.025  # one-sided; spelt out: the audit must not inherit a mistake
CEILING_SLACK = 0.05  # a mean saving that surely exceeds the counted one by more is a fault
SOLID = frozenset({Basis.MEASURED, Basis.COUNTED})
TESTED = frozenset({"energy_saving", "cost_saving", "flops_saving", "energy_saving_slope", "quality"})
K = TypeVar("K")
NEAR = 1e-6  # relative, of p-values: tails computed in another way differ by less


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


def verdict_statistics(records: Sequence[Record], judgement: Judgement) -> Iterator[str]:
    """What of the verdicts' bounds, p-values, outcomes and statuses does not follow."""
    good = _good(records)
    workloads = {record.spec.workload for record in records}
    trials = {
        verdict.claim.id: _trials(verdict.claim, judgement, good)
        for verdict in judgement.verdicts
        if verdict.claim.metric in TESTED and verdict.claim.workload in workloads
    }
    family = _Family(trials)
    for verdict in judgement.verdicts:
        found = trials.get(verdict.claim.id)
        if found:
            yield from (f"claim {verdict.claim.id}: {what}" for what in _verdict(verdict, found, family))


def _good(records: Sequence[Record]) -> dict[str, Record]:
    last: dict[str, Record] = {}
    for record in sorted(records, key=lambda one: one.attempt):
        if record.status.value == "ok":
            last[record.run_id] = record
    return last


# The trials


def _trials(claim: Claim, judgement: Judgement, good: dict[str, Record]) -> list[Trial]:
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
        level, limit = _mean(strata[0]), math.log1p(-bound)
        return Tried(bound, level.p_below(limit), level.p_above(limit), solid)
    level = _pooled(strata)
    return Tried(bound, level.p_above(bound), level.p_below(bound), solid)


def _mean(values: Sequence[float]) -> Level:
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
        one = _mean(values)
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
        here = _pooled(mine).value if len(mine) > 1 else -math.expm1(_mean(mine[0]).value)
        apart = (_pooled(other).value >= bound) != (here >= bound)
        judged.append(Tried(one.bound, None, None, one.solid) if apart else one)
    return judged


def _too_good(claim: Claim, scope: Sequence[Comparison], good: dict[str, Record]) -> bool:
    """Whether the mean saving surely exceeds what the counted FLOPs allow."""
    logs = [values for c in scope if (values := _logs(c, good, "energy"))]
    ceilings = [c.ceiling for c in scope if c.saving is not None and c.ceiling is not None]
    if claim.aggregate == "each" or len(ceilings) < len(scope) or not logs:
        return False
    level = _mean(logs[0]) if len(logs) == 1 else _pooled(logs)
    if level.error is None or level.df is None:
        return False
    from scipy.stats import t

    half = float(t.ppf(0.975, level.df)) * level.error if level.error else 0.0
    low = -math.expm1(level.value + half) if len(logs) == 1 else level.value - half
    return low > math.fsum(ceilings) / len(ceilings) + CEILING_SLACK


def _slope(bound: float, scope: Sequence[Comparison], good: dict[str, Record], *, solid: bool) -> Tried:
    """Least squares over one saving for each size, on log10 of the parameters."""
    points = [
        (math.log10(c.parameters), -math.expm1(_mean(values).value))
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
        level = _average([(_mean(values), len(values)) for values in group])
        found.append(Tried(margin, level.p_below(margin), level.p_above(margin), solid=True))
    if claim.aggregate == "each":
        found += [unknown for size in sizes if size not in worse]
    return found


# The adjustment


class _Family:
    """Holm over all that is tested together: arms for "met", claims for "not met"."""

    def __init__(self, trials: dict[str, list[Trial]]) -> None:
        met: dict[tuple[str, str], float] = {}
        failed: dict[str, float] = {}
        solid: dict[str, float] = {}
        certain: dict[str, float] = {}
        self.met: dict[tuple[str, str], float] = {}
        for claim, group in trials.items():
            for one in group:
                if not one.invalid and (p := one.met) is not None:
                    (self.met if one.exact else met)[claim, one.arm] = p
            every = [None if one.invalid else one.failed(solid=False) for one in group]
            firm = [None if one.invalid else one.failed(solid=True) for one in group]
            exactly = all(any(c.exact and c.failed == 0 for c in one.conditions) for one in group)
            if group and all(p is not None for p in every):
                (certain if exactly else failed)[claim] = max(p for p in every if p is not None)
            if group and all(p is not None for p in firm) and claim not in certain:
                solid[claim] = max(p for p in firm if p is not None)
        self.size = max(len(met), 1)
        self.met |= _holm(met)
        self.failed = _holm(failed) | certain
        self.failed_solid = _holm(solid) | certain
        self.raw_failed = failed | certain


def _holm(p_values: dict[K, float]) -> dict[K, float]:
    adjusted: dict[K, float] = {}
    floor = 0.0
    for rank, key in enumerate(sorted(p_values, key=lambda one: p_values[one])):
        floor = max(floor, min(1.0, p_values[key] * (len(p_values) - rank)))
        adjusted[key] = floor
    return adjusted


# The comparison with what was judged


def _verdict(verdict: Verdict, trials: Sequence[Trial], family: _Family) -> Iterator[str]:
    claim = verdict.claim
    by_arm = {one.arm: one for one in trials if not one.invalid}
    refuted = _refuted(claim.id, trials, family)
    checks: dict[str, list[Check]] = {}
    for check in verdict.checks:
        checks.setdefault(check.what.partition(": ")[0], []).append(check)
    for arm, listed in checks.items():
        trial = by_arm.get(arm)
        if trial is None or len(trial.conditions) != len(listed):
            there = len(trial.conditions) if trial else 0
            yield f"{arm}: {len(listed)} conditions are listed, {there} follow"
            continue
        for check, one in zip(listed, trial.conditions, strict=True):
            yield from _check(check, one, trial, claim.id, family, refuted=refuted)
    yield from _status(verdict, trials, family, refuted=refuted)


def _check(check: Check, one: Tried, trial: Trial, claim: str, family: _Family, *, refuted: bool) -> Iterator[str]:
    if check.bound is None or not math.isclose(check.bound, one.bound, rel_tol=1e-12):
        yield f"{check.what}: is tested against {check.bound}, the claim says {one.bound:g}"
    if one.exact:
        wanted = "met" if one.met == 0 else "not met"
        if check.outcome != wanted:
            yield f"{check.what}: is called {check.outcome!r}, {wanted!r} follows from the counts"
        return
    holm = family.met.get((claim, trial.arm), 1.0)
    met = _adjusted(one.met, family.size, holm if holm < ALPHA else None)
    decisive = (
        refuted
        and one.failed is not None
        and min(1.0, len(trial.conditions) * one.failed) <= family.raw_failed.get(claim, 0.0)
    )
    failed = _adjusted(one.failed, family.size, family.failed.get(claim) if decisive else None)
    outcome, p = "open", met
    if met is not None and met < ALPHA:
        outcome = "met"
    elif failed is not None and failed < ALPHA:
        outcome, p = "not met", failed
    if check.outcome != outcome:
        yield f"{check.what}: is called {check.outcome!r}, {outcome!r} follows"
    if (check.p_value is None) != (p is None) or (
        check.p_value is not None and p is not None and not math.isclose(check.p_value, p, rel_tol=NEAR, abs_tol=1e-12)
    ):
        yield f"{check.what}: p after adjustment is given as {_p(check.p_value)}, {_p(p)} follows"


def _p(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.6g}"


def _adjusted(p: float | None, family: int, decided: float | None) -> float | None:
    """Bonferroni's p; where the arm or the claim is decided, that decision's by Holm if it is smaller."""
    if p is None:
        return None
    simple = min(1.0, p * family)
    return simple if decided is None else min(simple, max(decided, p))


def _refuted(claim: str, trials: Sequence[Trial], family: _Family) -> bool:
    if family.failed_solid.get(claim, 1.0) < ALPHA:
        return True
    solid = all(one.solid for trial in trials for one in trial.conditions)
    return solid and family.failed.get(claim, 1.0) < ALPHA


def _status(verdict: Verdict, trials: Sequence[Trial], family: _Family, *, refuted: bool) -> Iterator[str]:
    """What the p-values do not allow; that runs are missing may leave open what they would have decided."""
    claim = verdict.claim.id
    holding = [
        one for one in trials
        if not one.invalid and family.met.get((claim, one.arm), 1.0) < ALPHA and all(c.solid for c in one.conditions)
    ]  # fmt: skip
    status = verdict.status
    if status is VerdictStatus.VERIFIED and verdict.arm not in {one.arm for one in holding}:
        yield f"is called verified by {verdict.arm}, whose p after Holm is {_p(family.met.get((claim, verdict.arm)))}"
    if status is VerdictStatus.REFUTED and not refuted:
        yield f"is called refuted, the p of that after Holm is {_p(family.failed.get(claim))}"
    if refuted and status is VerdictStatus.INCONCLUSIVE and not any(one.invalid for one in trials):
        yield "is called inconclusive, but every arm fails after Holm"
