"""Claims against evidence: verified, refuted, inconclusive, invalid or not tested, each with its reason.

* A claim holds if one of its arms holds, and an arm holds if all its conditions do. A claim is refuted
  if every one of its arms that was run is, and an arm is if one of its conditions is.
* One-sided tests at 0.025. Holm over all claims and arms for "verified", and over all claims for "refuted".
  What arithmetic alone decides (counted FLOPs, logs) needs no correction.
* Only measured or counted numbers verify. Where energy is modelled the status is inconclusive, and
  ``model_says`` holds what the same rules say of the model. Where it is simulated nothing is said at all: watts
  that somebody made up neither support nor contradict. Quality, which is measured whatever the meter, can still
  refute.
* One pair has no interval and decides nothing.
* Nothing is verified on a selection: a planned run of the arm or the baseline that failed, that a gate refused or
  that nobody has made yet leaves the claim open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.judge import stats
from harness.judge.conditions import SOLID, Condition, Trial, trial
from harness.judge.controls import attribution
from harness.judge.evidence import Evidence
from harness.judge.logged import logged_verdict
from harness.judge.types import Check, Claim, ControlRow, Verdict, VerdictStatus
from harness.judge.words import count, listing, sentence
from harness.record.record import Status
from harness.types import Basis

LOGGED = frozenset({"active_share", "re_entry", "hardware"})
ATTRIBUTED = frozenset({"energy_saving", "cost_saving", "flops_saving", "quality"})

ModelSays = Literal["", "supported by a model", "contradicted by a model"]


@dataclass(frozen=True)
class Tested:
    """The trials of one claim with their p-values after Holm."""

    claim: Claim
    trials: tuple[Trial, ...]
    p_met: dict[str, float]  # by arm
    p_failed: float | None
    p_failed_solid: float | None
    raw_failed: float | None  # before Holm
    family: int  # hypotheses that Holm was taken over

    @property
    def holding(self) -> list[Trial]:
        """Arms that hold, the surest first, whatever their basis."""
        found = [t for t in self.trials if self.p_met.get(t.arm, 1.0) < stats.ALPHA]
        return sorted(found, key=lambda t: (t.basis not in SOLID, self.p_met[t.arm]))

    @property
    def failing(self) -> bool:
        """Whether every arm fails, whatever their basis."""
        return self.p_failed is not None and self.p_failed < stats.ALPHA

    @property
    def refuted(self) -> bool:
        """Whether every arm fails by what was measured or counted."""
        solid = all(one.basis in SOLID for one in self.trials)
        firmly = self.p_failed_solid is not None and self.p_failed_solid < stats.ALPHA
        return firmly or (solid and self.failing)


def verdicts(claims: Sequence[Claim], evidence: Evidence, controls: Sequence[ControlRow]) -> tuple[Verdict, ...]:
    """One verdict per claim, in order."""
    tested = _test({claim.id: _trials(claim, evidence) for claim in claims}, claims)
    return tuple(_attributed(_verdict(claim, tested[claim.id], evidence), evidence, controls) for claim in claims)


def _trials(claim: Claim, evidence: Evidence) -> tuple[Trial, ...]:
    if claim.metric == "none" or claim.metric in LOGGED or claim.workload not in evidence.workloads:
        return ()
    return tuple(found for arm in claim.arms if (found := trial(claim, arm, evidence)) is not None)


def _test(trials: dict[str, tuple[Trial, ...]], claims: Sequence[Claim]) -> dict[str, Tested]:
    """Holm over everything that is tested with a p-value."""
    met: dict[tuple[str, str], float] = {}
    exact_met: dict[tuple[str, str], float] = {}
    failed: dict[str, float] = {}
    solid: dict[str, float] = {}
    exact_failed: dict[str, float] = {}
    for claim_id, group in trials.items():
        for one in group:
            if not one.invalid and one.p_met is not None:
                (exact_met if one.exact else met)[claim_id, one.arm] = one.p_met
        ps = [None if one.invalid else one.p_failed() for one in group]
        known = [p for p in ps if p is not None]
        if group and len(known) == len(group):  # an arm that can't be tested may be the one that holds
            decided = all(any(c.exact and c.p_failed == 0 for c in one.conditions) for one in group)
            (exact_failed if decided else failed)[claim_id] = max(known)
        firm = [None if one.invalid else one.p_failed(solid=True) for one in group]
        known = [p for p in firm if p is not None]
        if group and len(known) == len(group) and claim_id not in exact_failed:
            solid[claim_id] = max(known)
    adjusted = dict(zip(met, stats.holm(list(met.values())), strict=True)) | exact_met
    refuted = dict(zip(failed, stats.holm(list(failed.values())), strict=True)) | exact_failed
    firmly = dict(zip(solid, stats.holm(list(solid.values())), strict=True)) | exact_failed
    return {
        claim.id: Tested(
            claim, trials[claim.id], {arm: p for (owner, arm), p in adjusted.items() if owner == claim.id},
            refuted.get(claim.id), firmly.get(claim.id), (failed | exact_failed).get(claim.id), max(len(met), 1),
        )
        for claim in claims
    }  # fmt: skip


def _verdict(claim: Claim, tested: Tested, evidence: Evidence) -> Verdict:
    logged = claim.metric in LOGGED and claim.workload in evidence.workloads
    if logged and (found := logged_verdict(claim, evidence)) is not None:
        return found
    if not tested.trials:
        return Verdict(
            claim=claim, status=VerdictStatus.NOT_TESTED, reason=_why_untested(claim, evidence), needs=claim.needs
        )
    valid = [one for one in tested.trials if not one.invalid]
    refused = [one for one in tested.trials if one.invalid]
    holding = [one for one in tested.holding if one.basis in SOLID]
    whole = [one for one in holding if not evidence.missing(claim, one.arm)]
    if whole:
        return _done(VerdictStatus.VERIFIED, tested, whole[0], evidence)
    if refused:
        said = "; ".join(f"{one.arm}: {one.invalid}" for one in refused)
        return Verdict(
            claim=claim, status=VerdictStatus.INVALID, arm=refused[0].arm, checks=_checks(tested, valid),
            measured_range=evidence.range_of(refused[0].used), reason=sentence(f"The data can't be used: {said}"),
            needs="The cause removed and the runs repeated.",
        )  # fmt: skip
    status = VerdictStatus.REFUTED if tested.refuted else VerdictStatus.INCONCLUSIVE
    return _done(status, tested, _nearest(tested, valid), evidence)


def _nearest(tested: Tested, valid: Sequence[Trial]) -> Trial:
    """The arm that comes nearest to holding; ties go by the claim's own order."""
    holding = tested.holding
    if holding:
        return holding[0]
    return min(valid, key=lambda one: (one.p_met is None, round(one.p_met or 0.0, 3)))


def _model_says(tested: Tested, best: Trial) -> ModelSays:
    """What the same rules would have said, had the model been a measurement.

    "Contradicted" only where the modelled number itself fails in every arm, not where quality does.
    """
    if best.basis in SOLID or best.basis is Basis.SIMULATED:
        return ""
    if tested.holding:
        return "supported by a model"
    worst = [
        min((c.p_failed for c in one.conditions if c.basis not in SOLID and c.p_failed is not None), default=1.0)
        for one in tested.trials
    ]
    return "contradicted by a model" if max(worst) * tested.family < stats.ALPHA else ""


def _done(status: VerdictStatus, tested: Tested, best: Trial, evidence: Evidence) -> Verdict:
    holds = status is VerdictStatus.INCONCLUSIVE and best in tested.holding
    missing = evidence.missing(tested.claim, best.arm) if holds else ""
    says = "" if missing else _model_says(tested, best)
    others = [one for one in tested.trials if one is not best and not one.invalid]
    open_reasons = list(dict.fromkeys(c.open_because for c in best.conditions if c.open_because))
    open_reasons += [missing] if missing else []
    parts = [f"{best.arm} {_listed(best.conditions)}"]
    if status is VerdictStatus.INCONCLUSIVE and (open_reasons or best.basis is not Basis.SIMULATED):
        parts += [_why_open(says, open_reasons)]
    if best.basis not in SOLID and status is VerdictStatus.REFUTED:
        parts.append("The quality, which is measured whatever the meter, refutes the claim by itself")
    if best.basis is Basis.MODELLED:
        parts.append("The energy is modelled, not measured: it can support or contradict the claim, not verify it")
    elif best.basis is Basis.SIMULATED:
        parts.append("The meter is simulated: nothing was measured, so its energies decide nothing")
    parts += [f"{one.arm} {_listed(one.conditions)}" for one in others]
    return Verdict(
        claim=tested.claim, status=status, model_says=says, arm=best.arm, checks=_checks(tested, [best, *others]),
        measured_range=evidence.range_of(best.used), reason=" ".join(sentence(part) for part in parts if part),
        needs=_needs(tested.claim, status, best, says, open_reasons, missing=missing),
    )  # fmt: skip


def _listed(conditions: Sequence[Condition]) -> str:
    return "; ".join(c.said for c in conditions)


def _why_open(says: ModelSays, reasons: Sequence[str]) -> str:
    if reasons:
        return f"Open: {listing(reasons)}"
    return "" if says else "That neither shows nor excludes it at the error level agreed on"


def _needs(
    claim: Claim, status: VerdictStatus, best: Trial, says: ModelSays, open_reasons: Sequence[str], *, missing: str
) -> str:
    if status is not VerdictStatus.INCONCLUSIVE:
        return ""
    if missing:
        return "The runs that are missing: the command that ran the suite goes on where it stopped."
    if any("n=1" in reason for reason in open_reasons):
        return "More seeds: one pair has no interval."
    if open_reasons:
        return claim.needs
    more = "sizes" if claim.metric == "energy_saving_slope" else "seeds"
    wider = f"More {more}: the interval still holds the figure that decides."
    if best.basis in SOLID:
        return wider
    machine = "A machine whose energy can be measured (an NVIDIA card, or RAPL readable on bare metal)."
    return machine if says or best.basis is Basis.SIMULATED else f"{machine} {wider}"


def _checks(tested: Tested, trials: Sequence[Trial]) -> tuple[Check, ...]:
    """Every condition of the arms, with p after correction.

    Where the claim or the arm is decided, the p of that decision (Holm); elsewhere Bonferroni's.
    """
    return tuple(_check(tested, one, condition) for one in trials for condition in one.conditions)


def _check(tested: Tested, one: Trial, condition: Condition) -> Check:
    holm_met = tested.p_met.get(one.arm, 1.0)
    met = _corrected(condition.p_met, condition, tested, holm_met if holm_met < stats.ALPHA else None)
    decisive = tested.refuted and condition.p_failed is not None
    decisive = decisive and min(1.0, len(one.conditions) * (condition.p_failed or 0.0)) <= (tested.raw_failed or 0.0)
    failed = _corrected(condition.p_failed, condition, tested, tested.p_failed if decisive else None)
    outcome: Literal["met", "not met", "open"] = "open"
    p = met
    if met is not None and met < stats.ALPHA:
        outcome = "met"
    elif failed is not None and failed < stats.ALPHA:
        outcome, p = "not met", failed
    return Check(
        what=f"{one.arm}: {condition.what}", outcome=outcome, estimate=condition.estimate, bound=condition.bound,
        p_value=None if condition.exact else p,
    )  # fmt: skip


def _corrected(p: float | None, condition: Condition, tested: Tested, decided: float | None) -> float | None:
    if p is None or condition.exact:
        return p
    bonferroni = min(1.0, p * tested.family)
    return bonferroni if decided is None else min(bonferroni, max(decided, p))


def _why_untested(claim: Claim, evidence: Evidence) -> str:
    if claim.metric == "none":
        return "No run here tests this."
    if claim.workload not in evidence.workloads:
        return f"No run of the workload {claim.workload} is in this set."
    protocols = {"train", "steady"} if claim.protocol == "any" else {claim.protocol}
    mine = [r for r in evidence.records if r.spec.arm in claim.arms and r.spec.protocol.value in protocols]
    lost = [r for r in mine if r.status in {Status.FAILED, Status.OUT_OF_MEMORY}]
    skipped = [s for s in evidence.skipped if s.arm in claim.arms and any(f"-{p}-" in s.run_id for p in protocols)]
    said = [_nothing_in_scope(claim)]
    if lost:
        said.append(f"{count(len(lost), 'run')} failed, the first: {lost[0].run_id}: {lost[0].reason}.")
    if skipped:
        said.append(f"{count(len(skipped), 'run')} skipped, the first: {skipped[0].size}: {skipped[0].reason}.")
    return " ".join(said)


def _nothing_in_scope(claim: Claim) -> str:
    if claim.metric == "hardware":
        return f"No run of {listing(claim.arms)} was measured on {listing(claim.hardware)}."
    if claim.metric in LOGGED:
        return f"No finished training of {listing(claim.arms)} logged its active units."
    bounds = []
    if claim.min_parameters is not None:
        bounds.append(f"above {_number(claim.min_parameters)}")
    if claim.max_parameters is not None:
        bounds.append(f"below {_number(claim.max_parameters)}")
    sizes = f" at sizes {' and '.join(bounds)} parameters" if bounds else ""
    return f"No pair of {listing(claim.arms)} and the baseline under the protocol {claim.protocol}{sizes}."


def _number(parameters: float) -> str:
    """ "10 billion", "350 million"."""
    scale, word = next(((s, w) for s, w in ((1e9, " billion"), (1e6, " million")) if parameters >= s), (1.0, ""))
    return f"{parameters / scale:g}{word}"


def _attributed(verdict: Verdict, evidence: Evidence, controls: Sequence[ControlRow]) -> Verdict:
    claim = verdict.claim
    if claim.metric not in ATTRIBUTED or claim.protocol != "train" or not verdict.arm:
        return verdict
    if verdict.status in {VerdictStatus.NOT_TESTED, VerdictStatus.INVALID}:
        return verdict
    headline = evidence.directions.headline(row.metric for row in controls)
    savings = [c.saving for c in evidence.in_scope(claim, verdict.arm) if c.saving is not None]
    shown = savings and all(s.low is not None and s.low > 0 for s in savings)
    basis = max((s.basis for s in savings), key=lambda b: b not in SOLID) if shown else None
    return verdict.model_copy(
        update={"attribution": sentence(attribution(verdict.arm, controls, headline, saving=basis))}
    )
