"""Where all of it came from: machine, packages, revision, suite, every run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.record.record import Record
from harness.report import formats
from harness.report.sections.base import Section
from harness.report.sections.failures import WORDS
from harness.report.view import View


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """One machine state and how many attempts ran in it."""

    identifier: str
    facts: dict[str, Any]
    runs: int


class Provenance(Section):
    """Enough to run it again and to see what differs."""

    name = "provenance"
    title = "Provenance"
    short = "Provenance"
    order = 100

    def context(self, view: View) -> dict[str, Any]:
        """Fingerprints, what the judge wrote down, and the list of attempts."""
        prints: dict[str, list[Record]] = {}
        for record in view.records:
            if record.fingerprint:
                prints.setdefault(record.fingerprint_id, []).append(record)
        return {
            "fingerprints": [
                Fingerprint(identifier, records[0].fingerprint, len(records))
                for identifier, records in sorted(prints.items())
            ],
            "facts": {k: v for k, v in view.judgement.provenance.items() if not _is_text(v)},
            "texts": {k: v for k, v in view.judgement.provenance.items() if _is_text(v)},
            "runs": [_run(view, record) for record in view.records],
        }


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\n" in value


def _run(view: View, record: Record) -> dict[str, str]:
    energy = record.energy_per_step if record.energy_per_step is not None else record.energy
    joules = energy.joules if energy is not None else None
    per = " per step" if record.energy_per_step is not None and joules is not None else ""
    metric = view.metric
    value = record.quality.get(metric.name) if metric else None
    return {
        "run_id": record.run_id, "arm": record.spec.arm, "size": record.spec.size, "seed": str(record.spec.seed),
        "protocol": record.spec.protocol.value, "attempt": str(record.attempt), "status": WORDS[record.status],
        "position": str(record.position + 1), "energy": formats.quantity(joules, "J") + per,
        "basis": energy.basis.value if joules is not None and energy is not None else "",
        "seconds": formats.quantity(record.seconds, "s"),
        "quality": formats.MISSING if value is None or metric is None else formats.number(value, metric.digits),
        "flops": formats.quantity(record.flops.total, "FLOPs") if record.flops else "not counted",
    }  # fmt: skip
