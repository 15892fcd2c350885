"""All that claims are judged by: the comparisons and the records behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from harness.judge.metrics import Directions
from harness.judge.types import Claim, Comparison, Skipped
from harness.record.record import Record


@dataclass(frozen=True)
class Evidence:
    """What was found, indexed for the judge. ``good`` holds the OK records by run id."""

    comparisons: Sequence[Comparison]
    records: Sequence[Record]
    good: Mapping[str, Record]
    directions: Directions
    skipped: Sequence[Skipped] = ()

    @cached_property
    def workloads(self) -> frozenset[str]:
        """Names of the workloads that were run."""
        return frozenset(record.spec.workload for record in self.records)

    def in_scope(self, claim: Claim, arm: str, protocol: str | None = None) -> list[Comparison]:
        """Comparisons that a claim speaks of, sizes strictly within its bounds, smallest first."""
        wanted = protocol or claim.protocol
        return [
            c
            for c in self.comparisons
            if c.arm == arm
            and c.protocol in ({"train", "steady"} if wanted == "any" else {wanted})
            and (claim.min_parameters is None or c.parameters > claim.min_parameters)
            and (claim.max_parameters is None or c.parameters < claim.max_parameters)
        ]

    def range_of(self, comparisons: Sequence[Comparison]) -> str:
        """ "0.3M to 3M (3 sizes), 3 to 4 seeds, NVIDIA H100": what a verdict speaks of."""
        if not comparisons:
            return ""
        sizes = list(dict.fromkeys(c.size for c in sorted(comparisons, key=lambda c: c.parameters)))
        seeds = [len(c.pairs) for c in comparisons]
        span = sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} ({len(sizes)} sizes)"
        pairs = f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
        noun = "pair" if seeds and max(seeds) == 1 else "pairs"
        devices = {
            device_name(self.good[row.arm_run]) for c in comparisons for row in c.pairs if row.arm_run in self.good
        }
        counted = all(c.protocol == "count" for c in comparisons)
        where = "counted, no device" if counted else ", ".join(sorted(devices))
        return f"{span}, {pairs} {noun} each, {where}"


def device_name(record: Record) -> str:
    """The card of a record as its driver names it, or its processor."""
    if record.spec.device == "cuda":
        return str(record.fingerprint.get("gpu", record.device_id))
    return str(record.fingerprint.get("cpu", "CPU"))
