"""A claim and an arm become conditions, each with p-values for "met" and for "not met"."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from harness.judge import stats
from harness.judge.compare import QUALITY_UNITS, energy_of, estimate_of, log_ratio, saving_estimate, weakest
from harness.judge.evidence import Evidence
from harness.judge.gates import CEILING_TOLERANCE
from harness.judge.types import Claim, Comparison, Estimate
from harness.judge.words import interval, percent, saved
from harness.types import Basis

SOLID = frozenset({Basis.MEASURED, Basis.COUNTED})


@dataclass(frozen=True)
class Condition:
    """One thing a claim demands.

    ``p_met`` is the one-sided p of "it holds", ``p_failed`` that of "it does not"; ``None`` where nothing
    can be tested (one pair, no data), and then ``open_because`` says why. An ``exact`` condition is
    decided by arithmetic: its p-values are 0 and 1.
    """

    what: str
    said: str  # what was found, as the predicate of a sentence about the arm
    estimate: Estimate | None
    bound: float
    p_met: float | None
    p_failed: float | None
    basis: Basis
    exact: bool = False
    open_because: str = ""


@dataclass(frozen=True)
class Trial:
    """One arm put to one claim's test."""

    claim: Claim
    arm: str
    conditions: tuple[Condition, ...] = ()
    invalid: str = ""
    used: tuple[Comparison, ...] = field(default=())

    @property
    def p_met(self) -> float | None:
        """All conditions have to hold: the largest p (intersection-union test)."""
        values = [c.p_met for c in self.conditions]
        known = [p for p in values if p is not None]
        return max(known) if known and len(known) == len(values) else None

    def p_failed(self, *, solid: bool = False) -> float | None:
        """One failed condition is enough: the smallest p, Bonferroni over the conditions.

        ``solid`` looks only at what was measured or counted, leaving out what a model or a simulation says.
        """
        known = [c.p_failed for c in self.conditions if c.p_failed is not None and (not solid or c.basis in SOLID)]
        return min(1.0, len(known) * min(known)) if known else None

    @property
    def exact(self) -> bool:
        """Whether arithmetic alone decides."""
        return all(c.exact for c in self.conditions)

    @property
    def basis(self) -> Basis:
        """The least trustworthy basis among the conditions."""
        return weakest(c.basis for c in self.conditions)


def trial(claim: Claim, arm: str, evidence: Evidence) -> Trial | None:
    """The test of a saving, slope or quality claim on one arm; ``None`` if nothing in scope was run."""
    scope = evidence.in_scope(claim, arm)
    if not scope:
        return None
    quality_only = claim.metric == "quality"
    covers = {"all"} if quality_only or claim.metric == "flops_saving" else {"all", "energy"}
    refused = [c for c in scope if c.invalid_scope in covers]
    if refused:
        return Trial(claim, arm, invalid="; ".join(f"{c.place}: {c.invalid}" for c in refused), used=tuple(scope))
    build: Callable[[Claim, Sequence[Comparison]], list[Condition]] | None = {
        "energy_saving": _energy, "cost_saving": _time, "flops_saving": _flops, "energy_saving_slope": _slope,
    }.get(claim.metric)  # fmt: skip
    conditions = build(claim, scope) if build else []
    if build and not conditions:
        return None
    if claim.metric == "energy_saving":
        conditions = _by_both_channels(claim, conditions, scope, evidence)
        if why := _above_ceiling(claim, conditions, scope):
            return Trial(claim, arm, invalid=why, used=tuple(scope))
    if claim.quality_metric is not None:
        conditions = [*conditions, *_quality(claim, arm, scope, evidence)]
    return Trial(claim, arm, tuple(conditions), used=tuple(scope)) if conditions else None


def _where(comparison: Comparison, scope: Sequence[Comparison]) -> str:
    """A size by its name; under both protocols it was measured twice, and both count."""
    twice = sum(other.place == comparison.place for other in scope) > 1
    return f"{comparison.place} ({comparison.protocol})" if twice else comparison.place


def _energy(claim: Claim, scope: Sequence[Comparison]) -> list[Condition]:
    logs = {_where(c, scope): [r.log_energy_ratio for r in c.pairs if r.log_energy_ratio is not None] for c in scope}
    return _savings(claim, logs, weakest(c.saving.basis for c in scope if c.saving), "energy")


def _by_both_channels(
    claim: Claim, conditions: Sequence[Condition], scope: Sequence[Comparison], evidence: Evidence
) -> list[Condition]:
    """Leaves open what the meter's two channels answer differently: one of them is wrong, and nobody knows which."""
    bound = claim.at_least
    assert bound is not None
    logs = {_where(c, scope): _second_logs(c, evidence) for c in scope if c.saving is not None}
    known = {size: values for size, values in logs.items() if values}
    if len(known) < len(logs) or not known:
        return list(conditions)
    strata = [[values] for values in known.values()] if claim.aggregate == "each" else [list(known.values())]
    judged = []
    for one, values in zip(conditions, strata, strict=True):
        second = stats.stratified([stats.saving_mean(v) for v in values]).value
        assert one.estimate is not None
        why = f"the meter's second channel shows a saving of {percent(second)}"
        apart = (second >= bound) != (one.estimate.value >= bound)
        judged.append(replace(one, p_met=None, p_failed=None, open_because=why) if apart else one)
    return judged


def _second_logs(comparison: Comparison, evidence: Evidence) -> list[float]:
    """Log ratios by the second channel; empty unless every pair has it in both runs."""
    found = []
    for row in comparison.pairs:
        if row.log_energy_ratio is None:
            continue
        base, run = energy_of(evidence.good[row.base_run]), energy_of(evidence.good[row.arm_run])
        ratio = log_ratio(base.second_joules if base else None, run.second_joules if run else None)
        if ratio is None:
            return []
        found.append(ratio)
    return found


def _above_ceiling(claim: Claim, conditions: Sequence[Condition], scope: Sequence[Comparison]) -> str:
    """Why a mean over sizes can't be true. A size by itself is gated; its interval may be too wide to speak there."""
    ceilings = [c.ceiling for c in scope if c.saving is not None and c.ceiling is not None]
    estimate = conditions[0].estimate
    if claim.aggregate == "each" or estimate is None or estimate.low is None or len(ceilings) < len(scope):
        return ""
    ceiling = math.fsum(ceilings) / len(ceilings)
    if estimate.low <= ceiling + CEILING_TOLERANCE:
        return ""
    return (
        f"a mean energy saving of {percent(estimate.value)} is more than the counted FLOPs allow ({percent(ceiling)})"
    )


def _time(claim: Claim, scope: Sequence[Comparison]) -> list[Condition]:
    logs = {_where(c, scope): [r.log_time_ratio for r in c.pairs if r.log_time_ratio is not None] for c in scope}
    return _savings(
        claim,
        logs,
        weakest(c.time_saving.basis for c in scope if c.time_saving),
        "wall-clock time, which rental follows",
    )


def _savings(claim: Claim, logs: dict[str, list[float]], basis: Basis, of: str) -> list[Condition]:
    bound = claim.at_least
    assert bound is not None  # the claims file was validated
    known = {size: values for size, values in logs.items() if values}
    if claim.aggregate == "each":
        return [_saving([values], bound, basis, f"{of}, at {size}") for size, values in known.items()]
    return [_saving(list(known.values()), bound, basis, of)] if known else []


def _saving(strata: Sequence[Sequence[float]], bound: float, basis: Basis, of: str) -> Condition:
    """A single size is tested on the log scale, several on the scale of shares."""
    if len(strata) == 1:
        found = stats.mean(strata[0])
        estimate = saving_estimate(strata[0], basis)
        p_met, p_failed = found.p("below", math.log1p(-bound)), found.p("above", math.log1p(-bound))
    else:
        found = stats.stratified([stats.saving_mean(values) for values in strata])
        estimate = estimate_of(found, "share", basis)
        p_met, p_failed = found.p("above", bound), found.p("below", bound)
    assert estimate is not None
    return Condition(
        what=f"saving of {of}: at least {percent(bound)}",
        said=f"{saved(estimate)} of the {of}, where {percent(bound)} is claimed",
        estimate=estimate, bound=bound, p_met=p_met, p_failed=p_failed, basis=basis,
        open_because="" if p_met is not None else "n=1, no interval",
    )  # fmt: skip


def _flops(claim: Claim, scope: Sequence[Comparison]) -> list[Condition]:
    """Exact: no interval, no p-value to speak of."""
    bound = claim.at_least
    assert bound is not None
    found = [c for c in scope if c.flops_saving is not None]
    conditions = []
    for comparison in found:
        estimate = comparison.flops_saving
        assert estimate is not None
        met = estimate.value >= bound
        conditions.append(
            Condition(
                what=f"counted FLOPs saved at {comparison.size}: at least {percent(bound)}",
                said=f"saves {percent(estimate.value)} of the FLOPs at {comparison.size} (counted exactly), where "
                f"{percent(bound)} is claimed",
                estimate=estimate, bound=bound, p_met=0.0 if met else 1.0, p_failed=1.0 if met else 0.0,
                basis=Basis.COUNTED, exact=True,
            )
        )  # fmt: skip
    return conditions


def _slope(claim: Claim, scope: Sequence[Comparison]) -> list[Condition]:
    """One value per size, Student's t on (sizes - 2) degrees of freedom."""
    bound = claim.at_least
    assert bound is not None
    points = [(math.log10(c.parameters), c.saving) for c in scope if c.saving is not None]
    if not points:
        return []
    basis = weakest(saving.basis for _, saving in points)
    fitted = stats.line([x for x, _ in points], [[saving.value] for _, saving in points])
    if fitted is None:
        return [
            Condition(
                what=f"slope of the saving over log10(parameters): above {bound:g}", said="was run at one size only",
                estimate=None, bound=bound, p_met=None, p_failed=None, basis=basis,
                open_because="one size has no slope",
            )
        ]  # fmt: skip
    slope = estimate_of(fitted.slope, "share per decade", basis)
    bounds = "" if slope.low is None or slope.high is None else f" ({100 * slope.low:+.1f} to {100 * slope.high:+.1f})"
    return [
        Condition(
            what=f"slope of the saving over log10(parameters): above {bound:g}",
            said=f"shows {100 * slope.value:+.1f} points of saving per tenfold size{bounds} over {len(points)} sizes",
            estimate=slope, bound=bound, p_met=fitted.slope.p("above", bound), p_failed=fitted.slope.p("below", bound),
            basis=basis,
            open_because="" if slope.low is not None else "a slope through two sizes has no interval",
        )
    ]  # fmt: skip


def _quality(claim: Claim, arm: str, scope: Sequence[Comparison], evidence: Evidence) -> list[Condition]:
    """Non-inferiority, from the trainings at the sizes in scope. Measured, whatever the meter."""
    name, margin = claim.quality_metric, claim.quality_margin
    assert name is not None
    assert margin is not None
    sizes = {c.size for c in scope}
    trained = [c for c in evidence.in_scope(claim, arm, "train") if c.size in sizes and c.invalid_scope != "all"]
    by_size = {c.size: values for c in trained if (values := _worse(claim, name, c, evidence))}
    what = f"{name} worse by less than {percent(margin) if claim.quality_relative else f'{margin:g}'}"
    if not by_size:
        return [_unknown(name, margin, what, " here")]
    if claim.aggregate == "each":
        unknown = [
            _unknown(name, margin, what, f" at {size}")
            for size in dict.fromkeys(c.size for c in scope)
            if size not in by_size
        ]
        return [*(_margin(claim, name, [values], what, f" at {size}") for size, values in by_size.items()), *unknown]
    return [_margin(claim, name, list(by_size.values()), what, "")]


def _unknown(name: str, margin: float, what: str, where: str) -> Condition:
    return Condition(
        what=what, said=f"has no {name} of a finished training{where}", estimate=None, bound=margin,
        p_met=None, p_failed=None, basis=Basis.MEASURED, open_because=f"{name} was not measured{where}",
    )  # fmt: skip


def _worse(claim: Claim, name: str, comparison: Comparison, evidence: Evidence) -> list[float]:
    """Differences turned so that positive is worse; relative to the baseline where the claim says so."""
    values = []
    for row in comparison.pairs:
        if name not in row.quality:
            continue
        worse = evidence.directions.worse(name, row.quality[name])
        if claim.quality_relative:
            worse /= abs(evidence.good[row.base_run].quality[name])
        values.append(worse)
    return values


def _margin(claim: Claim, name: str, strata: Sequence[Sequence[float]], what: str, where: str) -> Condition:
    margin = claim.quality_margin
    assert margin is not None
    found = stats.stratified([stats.mean(values) for values in strata])
    relative = claim.quality_relative
    unit = "share of the dense value, worse" if relative else f"{QUALITY_UNITS.get(name, name)} worse"
    estimate = estimate_of(found, unit, Basis.MEASURED)
    if found.value > 0:
        shown, direction = estimate, "worse"
    else:  # turned round, so that value and interval count in the same direction
        low, high = estimate.low, estimate.high
        shown = estimate.model_copy(
            update={
                "value": -estimate.value,
                "low": None if high is None else -high,
                "high": None if low is None else -low,
            }
        )
        direction = "better"
    size = percent(shown.value, 2) if relative else f"{shown.value:.2f} {QUALITY_UNITS.get(name, '')}".strip()
    allowed = percent(margin) if relative else f"{margin:g}"
    return Condition(
        what=what + where,
        said=f"has {name} {size} {direction}{where}{interval(shown, share=relative, digits=2)}, "
        f"where less than {allowed} worse is allowed",
        estimate=estimate, bound=margin, p_met=found.p("below", margin), p_failed=found.p("above", margin),
        basis=Basis.MEASURED, open_because="" if found.error is not None else "n=1, no interval",
    )  # fmt: skip
