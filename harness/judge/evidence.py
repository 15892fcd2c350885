"""All that claims are judged by: the comparisons and the records behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from harness.judge.metrics import Directions
from harness.judge.types import Claim, Comparison, Skipped
from harness.judge.words import count, listing
from harness.record.record import Record, Status
from harness.suite.spec import Experiment, levels_text

RunKey = tuple[str, str, int, str, str]  # protocol, size, seed, arm, levels of factors


@dataclass(frozen=True)
class Evidence:
    """What was found, indexed for the judge. ``good`` holds the OK records by run id.

    ``experiments`` are the suite's, so that a run nobody has made yet is missed.
    """

    comparisons: Sequence[Comparison]
    records: Sequence[Record]
    good: Mapping[str, Record]
    directions: Directions
    skipped: Sequence[Skipped] = ()
    experiments: Sequence[Experiment] = ()

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

    @cached_property
    def not_run(self) -> frozenset[RunKey]:
        """Planned runs that were neither skipped by the plan nor tried."""
        planned = {
            (e.protocol.value, size, seed, arm, levels_text(levels))
            for e in self.experiments for size in e.sizes for seed in e.seeds for arm in e.arms
            for levels in e.conditions
        }  # fmt: skip
        skipped = {
            key for key in planned for s in self.skipped
            if (s.size, s.seed, s.arm, s.levels) == key[1:] and f"-{key[0]}-" in s.run_id
        }  # fmt: skip
        return frozenset(planned - skipped - {_key(record) for record in self.records})

    @cached_property
    def _without_result(self) -> dict[RunKey, str]:
        """Why a run gave no result. Not those that ran out of memory: that hangs on the size alone, as a skip does."""
        done = {_key(record) for record in self.good.values()}
        lost = {
            _key(r): f"{r.status.value}: {r.reason}" for r in self.records
            if r.status in {Status.FAILED, Status.INVALID} and _key(r) not in done
        }  # fmt: skip
        return lost | dict.fromkeys(self.not_run, "not run yet")

    def missing(self, claim: Claim, arm: str) -> str:
        """Why the pairs of a claim's arm are a selection, or nothing.

        A training that diverges, times out or is stopped by a look at the result so far is not missing by
        chance: what is left would flatter the arm.
        """
        protocols = {"train", "steady"} if claim.protocol == "any" else {claim.protocol}
        arms = [arm, *dict.fromkeys(c.baseline for c in self.in_scope(claim, arm))]
        found = {
            key: why for key, why in sorted(self._without_result.items())
            if key[0] in protocols and key[3] in arms and self._within(claim, key[1])
        }  # fmt: skip
        if not found:
            return ""
        (_, size, seed, name, levels), why = next(iter(found.items()))
        first = f"{name} at {', '.join([size, *([levels] if levels else [])])}, seed {seed}: {why}"
        return f"{count(len(found), 'planned run')} of {listing(arms)} gave no result, the first {first}"

    def _within(self, claim: Claim, size: str) -> bool:
        parameters = self._parameters.get(size)
        return parameters is None or (
            (claim.min_parameters is None or parameters > claim.min_parameters)
            and (claim.max_parameters is None or parameters < claim.max_parameters)
        )

    @cached_property
    def _parameters(self) -> dict[str, int]:
        return {c.size: c.parameters for c in self.comparisons}

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
        return f"{span}, {pairs} {noun} each, {where}{_length(comparisons)}"


def _length(comparisons: Sequence[Comparison]) -> str:
    """ ", 0.3 to 1.3 tokens per parameter": a training far shorter than usual is not what a claim has in mind."""
    known = [c.tokens_per_parameter for c in comparisons if c.protocol == "train" and c.tokens_per_parameter]
    if not known:
        return ""
    low, high = (f"{n:,.0f}" if n >= 10 else f"{n:.2g}" for n in (min(known), max(known)))
    return f", {low if low == high else f'{low} to {high}'} tokens per parameter"


def _key(record: Record) -> RunKey:
    spec = record.spec
    return spec.protocol.value, spec.size, spec.seed, spec.arm, levels_text(spec.levels)


def device_name(record: Record) -> str:
    """The card of a record as its driver names it, or its processor."""
    if record.spec.device == "cuda":
        return str(record.fingerprint.get("gpu", record.device_id))
    return str(record.fingerprint.get("cpu", "CPU"))
