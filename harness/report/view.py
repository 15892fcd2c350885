"""What every section reads: the judgement and the records, sorted and indexed once.

Nothing here depends on the order in which records come, on the clock or on the machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from harness.judge.types import Comparison, Judgement
from harness.record.record import Record, Status
from harness.report import formats
from harness.report.palette import Style, styles
from harness.suite.spec import Protocol
from harness.types import Basis, UserError
from harness.workloads.base import WORKLOADS, Metric

_BASIS_LEADS = {
    Basis.MEASURED: "Energy was read from an instrument.",
    Basis.MODELLED: (
        "No instrument was read. Energy is a formula over something measured (CPU seconds × watts per core), "
        "so a claim about energy can at most be supported or contradicted by a model, never verified."
    ),
    Basis.SIMULATED: (
        "A made-up instrument: no energy here was measured, and none decides anything. It shows that the harness "
        "works, not that any training saves anything."
    ),
    Basis.COUNTED: "Nothing was metered: these are exact counts of arithmetic, not energies.",
    Basis.PROJECTED: "Nothing here was measured: these are projections.",
}


@dataclass(frozen=True)
class View:
    """A judgement with its records, ready to be looked up."""

    judgement: Judgement
    unsorted: Sequence[Record]

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """All attempts, sorted by size, seed, arm, protocol and attempt."""
        return tuple(
            sorted(
                self.unsorted,
                key=lambda r: (
                    self.parameters_of(r.spec.size) or 0, r.spec.size, r.spec.protocol.value,
                    r.spec.seed, self._rank(r.spec.arm), r.run_id, r.attempt,
                ),
            )
        )  # fmt: skip

    @cached_property
    def good(self) -> tuple[Record, ...]:
        """The records that may be compared, the last attempt of each run."""
        last = {record.run_id: record for record in self.records if record.ok}
        return tuple(last.values())

    @cached_property
    def trained(self) -> tuple[Record, ...]:
        """Whole trainings that ended well."""
        return tuple(r for r in self.good if r.spec.protocol is Protocol.TRAIN)

    @property
    def baseline(self) -> str:
        """The arm the others are compared with."""
        return self.judgement.baseline

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """The arms that claims are about, in the claims' order, as far as they were compared."""
        claimed = _unique(arm for verdict in self.judgement.verdicts for arm in verdict.claim.arms)
        compared = {comparison.arm for comparison in self.judgement.comparisons}
        return tuple(arm for arm in claimed if arm in compared)

    @cached_property
    def controls(self) -> tuple[str, ...]:
        """All other arms but the baseline, by name."""
        seen = {c.arm for c in self.judgement.comparisons} | {r.spec.arm for r in self.unsorted}
        return tuple(sorted(seen - set(self.methods) - {self.baseline}))

    @cached_property
    def arms(self) -> tuple[str, ...]:
        """Baseline, methods, controls."""
        return (self.baseline, *self.methods, *self.controls)

    def _rank(self, arm: str) -> int:
        return self.arms.index(arm) if arm in self.arms else len(self.arms)

    @cached_property
    def repeats(self) -> frozenset[str]:
        """Controls that are the baseline once more (A/A): they must show no difference."""
        return frozenset(c.arm for c in self.judgement.comparisons if c.is_aa) & frozenset(self.controls)

    @property
    def rivals(self) -> tuple[str, ...]:
        """Controls that are another way of training, not the baseline again."""
        return tuple(arm for arm in self.controls if arm not in self.repeats)

    @cached_property
    def styles(self) -> dict[str, Style]:
        """One look for each arm, the same in every figure."""
        return styles(self.baseline, self.methods, self.controls)

    @cached_property
    def _sizes(self) -> dict[str, int]:
        found = {c.size: c.parameters for c in self.judgement.comparisons}
        for record in self.unsorted:
            if record.parameters is not None and record.spec.arm == self.baseline:
                found.setdefault(record.spec.size, record.parameters)
        return found

    def parameters_of(self, size: str) -> int | None:
        """Parameters of the full model on a rung, where a comparison or a dense record says."""
        return self._sizes.get(size)

    @cached_property
    def trained_sizes(self) -> tuple[str, ...]:
        """Rungs with a whole training, smallest first."""
        return tuple(_unique(r.spec.size for r in self.trained))

    def comparisons(self, protocol: str, arms: Iterable[str] | None = None) -> list[Comparison]:
        """Comparisons of one protocol by arm and size; ``arms`` keeps only those."""
        wanted = self.arms if arms is None else tuple(arms)
        found = [c for c in self.judgement.comparisons if c.protocol == protocol and c.arm in wanted]
        return sorted(found, key=lambda c: (wanted.index(c.arm), c.parameters, c.size))

    @cached_property
    def headline(self) -> Comparison | None:
        """The comparison the key numbers come from: first method arm, largest size that was trained."""
        for arm in self.methods:
            trained = [c for c in self.comparisons("train", [arm]) if c.saving is not None and not c.invalid]
            if trained:
                return trained[-1]
        return None

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """Quality metrics that occur, the workload's order first; an unknown one has no label but its name."""
        units = {
            name: estimate.unit
            for comparison in self.judgement.comparisons
            for name, estimate in sorted(comparison.quality.items())
        }
        names = _unique([*units, *sorted({name for r in self.trained for name in r.quality})])
        known = {metric.name: metric for metric in self._declared_metrics}
        ordered = [name for name in known if name in names] + [name for name in names if name not in known]
        return tuple(
            known.get(name) or Metric(name=name, unit=units.get(name, ""), better="lower", label=name)
            for name in ordered
        )

    @cached_property
    def undeclared(self) -> frozenset[str]:
        """Metrics whose better direction nobody stated: they are shown without one."""
        return frozenset(m.name for m in self.metrics) - {m.name for m in self._declared_metrics}

    @cached_property
    def _declared_metrics(self) -> tuple[Metric, ...]:
        found: dict[str, Metric] = {}
        for name in _unique(r.spec.workload for r in self.records):
            try:
                workload = WORKLOADS.get(name)
            except UserError:  # an outside package's workload, not installed where the page is made
                continue
            for metric in workload.metrics:
                found.setdefault(metric.name, metric)
        return tuple(found.values())

    @property
    def metric(self) -> Metric | None:
        """The headline metric of quality."""
        return self.metrics[0] if self.metrics else None

    @property
    def basis(self) -> Basis:
        """Of the energies: the weakest that went into a comparison."""
        return self.judgement.basis

    @property
    def measured(self) -> bool:
        """Whether the energies were read from an instrument."""
        return self.basis is Basis.MEASURED

    @property
    def simulated(self) -> bool:
        """Whether somebody made the energies up: then nothing on the page may be taken for a finding about them."""
        return self.basis is Basis.SIMULATED

    @property
    def basis_lead(self) -> str:
        """What the basis means, for people."""
        return _BASIS_LEADS[self.basis]

    @property
    def energy_note(self) -> str:
        """Suffix of every axis and column of energy: empty only where an instrument was read."""
        return "" if self.measured else f" ({formats.basis(self.basis)})"

    @cached_property
    def wasted_joules(self) -> tuple[float, int, int]:
        """Energy of attempts that came to nothing: joules, attempts with a number, attempts without."""
        kept = {(r.run_id, r.attempt) for r in self.good}
        lost = [r for r in self.records if (r.run_id, r.attempt) not in kept and r.status not in {Status.SKIPPED}]
        known = [r.energy.joules for r in lost if r.energy is not None and r.energy.joules is not None]
        return sum(known), len(known), len(lost) - len(known)


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))
