"""What did not run, did not end, or can't be trusted."""

from __future__ import annotations

from typing import Any

from harness.record.record import Status
from harness.report.sections.base import Section
from harness.report.view import View

WORDS = {
    Status.OK: "ok", Status.FAILED: "failed", Status.OUT_OF_MEMORY: "out of memory", Status.INVALID: "invalid",
    Status.SKIPPED: "skipped",
}  # fmt: skip


class Failures(Section):
    """Nothing is dropped in silence."""

    name = "failures"
    title = "What failed, was skipped or can't be trusted"
    short = "Failures"
    order = 80

    def context(self, view: View) -> dict[str, Any]:
        """Bad attempts, skipped runs, gates that spoke, warnings with the runs they concern, wasted energy."""
        bad = [r for r in view.records if not r.ok and r.status is not Status.SKIPPED]
        planned = {s.run_id for s in view.judgement.skipped}
        skipped = [
            *view.judgement.skipped,
            *(r for r in view.records if r.status is Status.SKIPPED and r.run_id not in planned),
        ]
        warnings: dict[str, list[str]] = {}
        for record in view.records:
            for warning in record.warnings:
                warnings.setdefault(warning, []).append(record.run_id)
        joules, known, unknown = view.wasted_joules
        done = {r.run_id for r in view.good}
        return {
            "bad": [(r, WORDS[r.status], r.run_id in done) for r in bad], "skipped": [_skip(s) for s in skipped],
            "problems": view.judgement.problems, "warnings": warnings, "wasted": joules, "wasted_known": known,
            "wasted_unknown": unknown,
        }  # fmt: skip


def _skip(item: Any) -> dict[str, Any]:
    spec = getattr(item, "spec", item)
    return {"run_id": item.run_id, "arm": spec.arm, "size": spec.size, "seed": spec.seed, "reason": item.reason}
