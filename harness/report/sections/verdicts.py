"""The verdict table: each claim, what was found, and what it would take where nothing was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.judge.types import Check, Verdict, VerdictStatus
from harness.report import formats
from harness.report.formats import sentences
from harness.report.markdown import table
from harness.report.sections.base import Section
from harness.report.view import View
from harness.types import Basis

_ORDER = ("verified", "supported", "refuted", "contradicted", "inconclusive", "invalid", "not tested")


_SHARES = {"energy_saving", "flops_saving", "cost_saving", "active_share"}


@dataclass(frozen=True, slots=True)
class Row:
    """One claim, as the table shows it: first sentences in the open, the rest in its details."""

    verdict: Verdict
    status: str  # of the chip: a verdict's status, or "supported" / "contradicted"
    word: str
    aside: str  # what the chip leaves out
    found: tuple[Check, ...]
    to_hold: str
    reason: str
    attribution: str
    more: tuple[str, ...]


def row(view: View, verdict: Verdict) -> Row:
    """A verdict with its chip and the estimates that decided it."""
    status, word, aside = verdict.status.value, verdict.status.value, ""
    if any(check.estimate is not None and check.estimate.basis is Basis.SIMULATED for check in verdict.checks):
        aside = "its energy: simulated, decides nothing"
    elif verdict.model_says and verdict.status is VerdictStatus.INCONCLUSIVE:
        status, word, aside = verdict.model_says.split()[0], verdict.model_says, "verdict: inconclusive"
    elif verdict.model_says:
        aside = f"its energy: {verdict.model_says}"
    reason, *more_reasons = sentences(verdict.reason)
    attribution, *more_attribution = sentences(verdict.attribution)
    more = (" ".join(more_reasons), " ".join(more_attribution))
    return Row(
        verdict, status, word, aside, _found(verdict), to_hold(view, verdict), reason, attribution,
        tuple(part for part in more if part),
    )  # fmt: skip


def _found(verdict: Verdict) -> tuple[Check, ...]:
    """The first estimate of the arm that decided, and one more: what stands against it before what does not."""
    checks = [check for check in verdict.checks if check.estimate is not None]
    checks = [check for check in checks if check.what.startswith(f"{verdict.arm}:")] or checks
    if not checks:
        return ()
    others = [check for check in checks[1:] if check.estimate != checks[0].estimate]
    return (checks[0], *sorted(others, key=lambda check: check.outcome == "met")[:1])


def to_hold(view: View, verdict: Verdict) -> str:
    """What the claim demands, in words, from the claim as it was fixed before the run."""
    claim, parts = verdict.claim, []
    low, high = claim.at_least, claim.at_most
    unit = "share" if claim.metric in _SHARES else _unit(view, claim.quality_metric) if claim.quality_metric else ""
    if claim.metric == "energy_saving_slope":
        parts.append("slope above 0" if low == 0 else f"slope at least {formats.bound(low, 'share per decade')}")
    elif claim.metric == "re_entry":
        parts.append("units come back")
    elif low is not None and high is not None and claim.metric == "energy_saving":
        parts.append(f"at least {formats.bound(low, unit)} (claimed up to {formats.bound(high, unit)})")
    elif low is not None and high is not None:
        parts.append(f"{formats.bound(low, unit)} to {formats.bound(high, unit)}")
    elif low is not None:
        parts.append(f"at least {formats.bound(low, unit)}")
    elif high is not None:
        parts.append(f"at most {formats.bound(high, unit)}")
    if claim.quality_margin is not None and claim.quality_metric:
        unit = "share" if claim.quality_relative else _unit(view, claim.quality_metric)
        parts.append(f"{claim.quality_metric} worse by less than {formats.bound(claim.quality_margin, unit)}")
    if claim.hardware:
        parts.append("measured on " + " and ".join(claim.hardware))
    return "; ".join(parts) or "no figure to test"


def _unit(view: View, metric: str | None) -> str:
    return next((m.unit for m in view.metrics if m.name == metric), "")


class Verdicts(Section):
    """First after the headline."""

    name = "verdicts"
    title = "The claims, one by one"
    short = "Verdicts"
    order = 10

    def context(self, view: View) -> dict[str, Any]:
        """Rows in the claims' order, the article's claims before its open questions."""
        rows = [row(view, verdict) for verdict in view.judgement.verdicts]
        words = [(r.status, r.word) for r in rows if not r.verdict.claim.context]
        ranked = sorted(set(words), key=lambda pair: (_ORDER.index(pair[0]), pair[1]))
        return {
            "claims": [r for r in rows if not r.verdict.claim.context],
            "questions": [r for r in rows if r.verdict.claim.context],
            "counts": [(status, word, words.count((status, word))) for status, word in ranked],
        }

    def markdown(self, view: View) -> str:
        """The same table."""
        lines = []
        for r in (row(view, verdict) for verdict in view.judgement.verdicts):
            found = "; ".join(f"{c.what}: {formats.estimate_text(c.estimate)}" for c in r.found)
            if not found:
                found = "not tested" if r.verdict.status is VerdictStatus.NOT_TESTED else "no number"
            lines.append(
                [f"{SIGNS[r.status]} **{r.word}**{_aside(view, r)}", r.verdict.claim.id, r.verdict.claim.text, found,
                 r.to_hold, r.verdict.reason, r.verdict.attribution or "–", r.verdict.needs or "–"]
            )  # fmt: skip
        heads = [
            "verdict",
            "claim",
            "the article says",
            "found",
            "to hold",
            "because",
            "is it the method's?",
            "it would take",
        ]
        return table(heads, lines)


def _aside(view: View, row: Row) -> str:
    return f" ({row.aside})" if view.simulated and row.aside else ""


SIGNS = {
    "verified": "✓", "refuted": "✗", "inconclusive": "?", "invalid": "!", "not tested": "–", "supported": "(✓)",
    "contradicted": "(✗)",
}  # fmt: skip
