"""Claims that a log decides, not a statistic: active share, returns of units, cards that were used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from harness.judge.evidence import Evidence, device_name
from harness.judge.types import Check, Claim, Estimate, Verdict, VerdictStatus
from harness.judge.words import count, listing, percent
from harness.record.record import Record
from harness.suite.spec import Protocol
from harness.types import Basis


def logged_verdict(claim: Claim, evidence: Evidence) -> Verdict | None:
    """The verdict on a claim of metric ``active_share``, ``re_entry`` or ``hardware``; ``None`` without data."""
    if claim.metric == "hardware":
        return _hardware(claim, evidence)
    runs = {arm: found for arm in claim.arms if (found := _logged(claim, arm, evidence))}
    if not runs:
        return None
    return _active_share(claim, runs) if claim.metric == "active_share" else _re_entry(claim, runs)


def _logged(claim: Claim, arm: str, evidence: Evidence) -> list[Record]:
    """Finished trainings of an arm whose method logged its active share."""
    return [
        r for r in evidence.good.values()
        if r.spec.arm == arm and r.spec.protocol is Protocol.TRAIN and r.activity
        and (claim.min_parameters is None or (r.parameters or 0) > claim.min_parameters)
        and (claim.max_parameters is None or (r.parameters or 0) < claim.max_parameters)
    ]  # fmt: skip


def mean_share(record: Record, *, units: bool = False) -> float:
    """Active share of a run averaged over its steps, of the parameters or of the units.

    Each logged share holds from its step until the next one's; before the first log the model is dense.
    """
    steps = record.spec.recipe.steps
    points = [(0, 1.0), *((p.step, p.active_units if units else p.active_parameters) for p in record.activity)]
    ends = [step for step, _ in points[1:]] + [steps]
    return math.fsum(share * (end - step) for (step, share), end in zip(points, ends, strict=True)) / steps


def _range(records: Sequence[Record]) -> str:
    sizes = list(dict.fromkeys(r.spec.size for r in sorted(records, key=lambda r: (r.parameters or 0, r.spec.size))))
    span = sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} ({len(sizes)} sizes)"
    return f"{span}, {count(len(records), 'run')}, {', '.join(sorted({device_name(r) for r in records}))}"


def _active_share(claim: Claim, runs: dict[str, list[Record]]) -> Verdict:
    low = claim.at_least if claim.at_least is not None else 0.0
    high = claim.at_most if claim.at_most is not None else 1.0
    checks, inside, said = [], [], []
    for arm, records in runs.items():
        shares = [mean_share(r) for r in records]
        mean = math.fsum(shares) / len(shares)
        of_units = math.fsum(mean_share(r, units=True) for r in records) / len(records)
        if low <= mean <= high:
            inside.append(arm)
        checks.append(
            _counted(
                f"{arm}: active parameters averaged over steps and runs, within {percent(low)} to {percent(high)}",
                mean, low if mean < low else high, len(shares), met=low <= mean <= high, unit="share",
            )
        )  # fmt: skip
        said.append(f"{arm} works with {percent(mean)} of its parameters ({percent(of_units)} of its units) on average")
    arm = inside[0] if inside else next(iter(runs))
    end = (
        "That is a setting of the schedule, no finding: the method was run as described, and whether no more is "
        "needed is what the claims about quality decide"
        if inside
        else f"Outside the claimed {percent(low)} to {percent(high)}: the schedule chosen here is not the one "
        "described, and says nothing against it"
    )
    return Verdict(
        claim=claim, status=VerdictStatus.INCONCLUSIVE if inside else VerdictStatus.NOT_TESTED, arm=arm,
        checks=tuple(checks), measured_range=_range(runs[arm]), reason=f"{listing(said)} (logged). {end}.",
        needs="" if inside else claim.needs,
    )  # fmt: skip


def _re_entry(claim: Claim, runs: dict[str, list[Record]]) -> Verdict:
    wanted = claim.at_least or 1.0
    totals = {
        arm: tuple(
            sum(getattr(p, what) for r in records for p in r.activity) for what in ("entries", "exits", "returns")
        )
        for arm, records in runs.items()
    }
    said = [
        f"{arm} logged {entries} entries, {exits} exits and {returns} returns in {count(len(runs[arm]), 'run')}"
        for arm, (entries, exits, returns) in totals.items()
    ]
    checks = tuple(
        _counted(
            f"{arm}: returns of units that had left",
            returns,
            wanted,
            len(runs[arm]),
            met=returns >= wanted,
            unit="returns",
        )
        for arm, (_, _, returns) in totals.items()
    )
    returning = [arm for arm, (_, _, returns) in totals.items() if returns >= wanted]
    leaving = [arm for arm, (_, exits, _) in totals.items() if exits]
    every = [_interval(r) for records in runs.values() for r in records]
    known = sorted({round(steps) for steps in every if steps is not None})
    text = f"{listing(said)} (logged)"
    if known:
        text += f"; units were scored again about every {listing([str(steps) for steps in known])} steps here"
    arm = (returning or leaving or list(runs))[0]
    common = {"claim": claim, "arm": arm, "checks": checks, "measured_range": _range(runs[arm])}
    if returning:
        return Verdict(**common, status=VerdictStatus.VERIFIED, reason=f"{text}: units that had left came back.")
    if leaving:
        return Verdict(**common, status=VerdictStatus.REFUTED, reason=f"{text}: units left and none came back.")
    return Verdict(
        **common, status=VerdictStatus.NOT_TESTED, needs=claim.needs,
        reason=f"{text}: a growing regime only adds units, so nothing that was active is ever frozen and nothing can "
        "return. What was run here does not do what the claim describes.",
    )  # fmt: skip


def _interval(record: Record) -> float | None:
    """Mean number of steps between two scorings in the phases that have any."""
    probing = [phase for phase in record.spec.phases if phase.probes]
    return sum(p.steps for p in probing) / sum(p.probes for p in probing) if probing else None


def _hardware(claim: Claim, evidence: Evidence) -> Verdict | None:
    seen: dict[str, list[Record]] = {}
    for record in evidence.good.values():
        measured = record.energy is not None and record.energy.basis is Basis.MEASURED
        if record.spec.arm in claim.arms and measured and record.spec.device == "cuda":
            name = device_name(record)
            for card in claim.hardware:
                if card.lower() in name.lower():
                    seen.setdefault(card, []).append(record)
    if not seen:
        return None
    missing = [card for card in claim.hardware if card not in seen]
    checks = tuple(
        Check(what=f"a measured run that ended well on {card}", outcome="met" if card in seen else "open")
        for card in claim.hardware
    )
    records = [record for found in seen.values() for record in found]
    said = listing([f"{count(len(found), 'measured run')} on {card}" for card, found in seen.items()])
    return Verdict(
        claim=claim,
        status=VerdictStatus.INCONCLUSIVE if missing else VerdictStatus.VERIFIED,
        arm=records[0].spec.arm,
        checks=checks,
        measured_range=_range(records),
        reason=f"{said} ended well; {listing(missing)} was not at hand." if missing
        else f"{said} ended well. That it works says nothing of what it saves.",
        needs=claim.needs if missing else "",
    )  # fmt: skip


def _counted(what: str, value: float, bound: float, n: int, *, met: bool, unit: str) -> Check:
    outcome: Literal["met", "not met"] = "met" if met else "not met"
    estimate = Estimate(value=value, low=None, high=None, n=n, unit=unit, basis=Basis.COUNTED)
    return Check(what=what, outcome=outcome, estimate=estimate, bound=bound)
