"""The report as one JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.judge.types import Judgement
from harness.record.record import Record
from harness.types import Basis

SCHEMA = 1
NOTICE = "SIMULATED, NOT MEASURED: the energies are made up and decide nothing"


def document(judgement: Judgement, records: Sequence[Record]) -> dict[str, Any]:
    """The judgement as it is, and each attempt without curves, windows and fingerprint details."""
    ordered = sorted(records, key=lambda r: (r.run_id, r.attempt))
    return {
        "report_schema": SCHEMA,
        "basis": judgement.basis.value,
        "notice": NOTICE if judgement.basis is Basis.SIMULATED else "",
        "judgement": judgement.model_dump(mode="json"),
        "runs": [_summary(record) for record in ordered],
    }


def _summary(record: Record) -> dict[str, Any]:
    spec = record.spec
    return {
        "run_id": record.run_id, "block_id": record.block_id, "attempt": record.attempt,
        "workload": spec.workload, "arm": spec.arm, "method": spec.method, "size": spec.size, "seed": spec.seed,
        "protocol": spec.protocol.value, "position": record.position,
        "status": record.status.value, "reason": record.reason, "warnings": list(record.warnings),
        "parameters": record.parameters, "steps": record.steps, "examples": record.examples,
        "energy": _dump(record.energy), "energy_per_step": _dump(record.energy_per_step),
        "seconds": record.seconds, "seconds_per_step": record.seconds_per_step, "idle_power_w": record.idle_power_w,
        "flops": record.flops.total if record.flops else None,
        "peak_memory_bytes": record.peak_memory_bytes,
        "quality": record.quality, "quality_errors": record.quality_errors,
        "device_id": record.device_id, "fingerprint_id": record.fingerprint_id,
        "meter": record.meter.name if record.meter else None,
        "meter_basis": record.meter.basis.value if record.meter else None,
    }  # fmt: skip


def _dump(energy: Any) -> dict[str, Any] | None:
    return None if energy is None else energy.model_dump(mode="json")
