"""The verdict table: each claim, what was found, and what it would take where nothing was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.judge.types import Check, Verdict, VerdictStatus
from harness.report import formats
from harness.report.markdown import table
from harness.report.sections.base import Section
from harness.report.view import View

_ORDER = ("verified", "supported", "refuted", "contradicted", "inconclusive", "invalid", "not tested")


@dataclass(frozen=True, slots=True)
class Row:
    """One claim, as the table shows it."""

    verdict: Verdict
    status: str  # of the chip: a verdict's status, or "supported" / "contradicted"
    word: str
    found: tuple[Check, ...]
    asked: str


def row(verdict: Verdict) -> Row:
    """A verdict with its chip and the estimates that decided it."""
    status, word = verdict.status.value, verdict.status.value
    if verdict.model_says:
        status, word = verdict.model_says.split()[0], verdict.model_says
    with_number = [check for check in verdict.checks if check.estimate is not None]
    shown = with_number[:1]
    others = [check for check in with_number[1:] if check.estimate != shown[0].estimate]
    shown += sorted(others, key=lambda check: check.outcome == "met")[:1]  # what stands against it goes first
    return Row(verdict, status, word, tuple(shown), _asked(verdict))


def _asked(verdict: Verdict) -> str:
    """The bound in words, from the claim as it was fixed before the run."""
    claim = verdict.claim
    unit = "nats" if claim.metric == "quality" else "share"
    parts = []
    if claim.at_least is not None and claim.at_least == claim.at_most:
        parts.append(formats.bound(claim.at_least, unit))
    elif claim.at_least is not None and claim.at_most is not None:
        parts.append(f"{formats.bound(claim.at_least, unit)} to {formats.bound(claim.at_most, unit)}")
    elif claim.metric == "energy_saving_slope" and claim.at_least == 0:
        parts.append("slope above 0")
    elif claim.at_least is not None:
        parts.append(f"at least {formats.bound(claim.at_least, unit)}")
    elif claim.at_most is not None:
        parts.append(f"at most {formats.bound(claim.at_most, unit)}")
    if claim.quality_margin is not None:
        margin = formats.bound(claim.quality_margin, "share" if claim.quality_relative else "")
        parts.append(f"{claim.quality_metric or 'quality'} not worse by {margin}")
    if claim.hardware:
        parts.append("on " + " and ".join(claim.hardware))
    return "; ".join(parts) or "see the details"


class Verdicts(Section):
    """First after the headline."""

    name = "verdicts"
    title = "The claims, one by one"
    short = "Verdicts"
    order = 10

    def context(self, view: View) -> dict[str, Any]:
        """Rows in the claims' order, the article's claims before its open questions."""
        rows = [row(verdict) for verdict in view.judgement.verdicts]
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
        for r in map(row, view.judgement.verdicts):
            found = "; ".join(f"{c.what}: {formats.estimate_text(c.estimate)}" for c in r.found)
            if not found:
                found = "not tested" if r.verdict.status is VerdictStatus.NOT_TESTED else "no number"
            lines.append(
                [f"{SIGNS[r.status]} **{r.word}**", r.verdict.claim.id, r.verdict.claim.text, found, r.asked,
                 r.verdict.reason, r.verdict.attribution or "–", r.verdict.needs or "–"]
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


SIGNS = {
    "verified": "✓", "refuted": "✗", "inconclusive": "?", "invalid": "!", "not tested": "–", "supported": "(✓)",
    "contradicted": "(✗)",
}  # fmt: skip
