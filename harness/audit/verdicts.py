"""Verdicts once more: bounds, p-values and their adjustment after Holm, written out with scipy's distributions.

A check of a verdict must carry the bound of its claim, the p that follows (``trials``) and the outcome that this p
allows, and the verdict a status that its checks allow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

from harness.audit.trials import Trial, Tried, last_good, trials_of
from harness.judge.types import Check, Judgement, Verdict, VerdictStatus
from harness.record.record import Record

ALPHA = 0.025  # one-sided; spelt out: the audit must not inherit a mistake
TESTED = frozenset({"energy_saving", "cost_saving", "flops_saving", "energy_saving_slope", "quality"})
K = TypeVar("K")
NEAR = 1e-6  # relative, of p-values: tails computed in another way differ by less


def verdict_statistics(records: Sequence[Record], judgement: Judgement) -> Iterator[str]:
    """What of the verdicts' bounds, p-values, outcomes and statuses does not follow."""
    good = last_good(records)
    workloads = {record.spec.workload for record in records}
    trials = {
        verdict.claim.id: trials_of(verdict.claim, judgement, good)
        for verdict in judgement.verdicts
        if verdict.claim.metric in TESTED and verdict.claim.workload in workloads
    }
    family = _Family(trials)
    for verdict in judgement.verdicts:
        found = trials.get(verdict.claim.id)
        if found:
            yield from (f"claim {verdict.claim.id}: {what}" for what in _verdict(verdict, found, family))


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
