"""Records in, judgement out. Pure: the same records, in any order, give the same bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from harness.judge.compare import compare, energy_basis, latest_ok, wasted, weakest
from harness.judge.controls import control_rows
from harness.judge.effects import effects
from harness.judge.evidence import Evidence
from harness.judge.footprint import footprint
from harness.judge.gates import apply_gates, disagreements
from harness.judge.headline import headline
from harness.judge.metrics import Directions, metrics_of
from harness.judge.trends import trends
from harness.judge.types import Claim, Comparison, Judgement, Skipped, VerdictStatus
from harness.judge.verdicts import verdicts
from harness.judge.words import count, listing
from harness.record.record import Record, Status
from harness.suite.spec import Arm, Experiment, FootprintOptions
from harness.types import Basis
from harness.workloads.base import Metric


def judge(
    suite_name: str,
    title: str,
    records: Sequence[Record],
    claims: Sequence[Claim],
    baseline: str,
    footprint_options: FootprintOptions,
    arms: Mapping[str, Arm] | None = None,
    skipped: Sequence[Skipped] = (),
    *,
    metrics: Sequence[Metric] | None = None,
    experiments: Sequence[Experiment] = (),
) -> Judgement:
    """All conclusions that the records allow.

    Args:
        suite_name: of the suite.
        title: of the suite.
        records: every attempt of the result set.
        claims: what is claimed, fixed before the run.
        baseline: the arm the others are compared with.
        footprint_options: region, PUE and price.
        arms: the suite's arms, which say what a control is matched to.
        skipped: runs that were planned and not started.
        metrics: of the workload; by default those that the registered workload declares.
        experiments: of the suite, which say what was planned; without them only runs that were tried can be missed.

    Raises:
        UserError: an unknown workload, region or price.
    """
    ordered = sorted(records, key=_order)
    good = latest_ok(ordered)
    comparisons = apply_gates(compare(ordered, baseline), good)
    workloads = list(dict.fromkeys(record.spec.workload for record in ordered))
    if metrics is None:
        metrics = [metric for name in workloads for metric in metrics_of(name)]
    directions = Directions(metrics)
    lost = wasted(ordered)
    controls = control_rows(good, claims, baseline, arms, directions)
    evidence = Evidence(comparisons, ordered, good, directions, skipped, experiments)
    found = verdicts(claims, evidence, controls)
    judgement = Judgement(
        suite=suite_name,
        title=title,
        baseline=baseline,
        basis=weakest(b for b in map(energy_basis, good.values()) if b is not None),
        verdicts=found,
        comparisons=comparisons,
        controls=controls,
        trends=trends(comparisons),
        effects=effects(comparisons),
        footprint=footprint(good, footprint_options, lost),
        skipped=tuple(skipped),
        problems=(*_incomplete(evidence), *_problems(comparisons, ordered, good, baseline)),
        provenance={
            "runs": len({record.run_id for record in ordered}),
            "attempts": len(ordered),
            "good": len(good),
            "revisions": sorted({str(r.fingerprint["revision"]) for r in good.values() if "revision" in r.fingerprint}),
            "machines": sorted({r.fingerprint_id for r in good.values() if r.fingerprint_id}),
            "devices": sorted({r.device_id for r in good.values() if r.device_id not in {"", "none"}}),
            "meters": sorted({r.meter.source for r in good.values() if r.meter is not None}),
            "wasted": {
                "joules": lost.joules, "attempts": lost.attempts, "unknown": lost.unknown, "basis": lost.basis.value,
            },
        },
    )  # fmt: skip
    return judgement.model_copy(update={"headline": headline(judgement, directions)})


def _order(record: Record) -> tuple[str, float, str, int, str, str, int]:
    spec = record.spec
    return spec.protocol.value, record.parameters or 0, spec.size, spec.seed, spec.arm, record.run_id, record.attempt


def _problems(
    comparisons: Sequence[Comparison], records: Sequence[Record], good: Mapping[str, Record], baseline: str
) -> list[str]:
    """Gates that spoke, runs that gave nothing, runs without a partner."""
    found = [f"{c.arm} at {c.place} ({c.protocol}): {c.invalid}" for c in comparisons if c.invalid]
    found += disagreements(good)
    for record in records:
        if record.status not in {Status.OK, Status.SKIPPED} and record.run_id not in good:
            found.append(f"{record.run_id}, attempt {record.attempt}: {record.status.value}: {record.reason}")
    blocks = {r.block_id for r in good.values() if r.spec.arm == baseline}
    alone = [run_id for run_id, r in good.items() if r.spec.arm != baseline and r.block_id not in blocks]
    if alone:
        shown = listing([*alone[:3], *([f"{len(alone) - 3} more"] if len(alone) > 3 else [])])
        found.append(f"{count(len(alone), 'run')} without a {baseline} run in the same block, used nowhere: {shown}")
    bases = Counter(basis.value for basis in map(energy_basis, good.values()) if basis is not None)
    if len(bases) > 1:
        told = listing([f"{number} {basis}" for basis, number in sorted(bases.items())])
        found.append(f"the set mixes energies that came to be in different ways: of its runs {told}")
    revisions = {str(r.fingerprint["revision"]) for r in good.values() if "revision" in r.fingerprint}
    if len(revisions) > 1:
        found.append(f"the set mixes code revisions: {listing(sorted(revisions))}")
    return list(dict.fromkeys(found))


def _incomplete(evidence: Evidence) -> list[str]:
    """That planned runs have not been made yet: whoever looks now and stops has chosen what to see."""
    if not evidence.not_run:
        return []
    return [f"{count(len(evidence.not_run), 'planned run')} not made yet: the verdicts are provisional"]


def exit_code(judgement: Judgement) -> int:
    """Exit code of ``verify`` over all verdicts together; open questions of the article do not count.

    4 if any verdict is invalid (something has to be mended before the rest is worth reading), else 1 if
    any claim is refuted, else 3 if any is inconclusive or if none could be tested, else 0: at least one
    claim is verified and none speaks against it. Claims that were not tested change nothing. A set with
    simulated energies is never 0, even if what was counted or logged in it verifies: no script may take it
    for a measurement.
    """
    statuses = {verdict.status for verdict in judgement.verdicts if not verdict.claim.context}
    if VerdictStatus.INVALID in statuses:
        return 4
    if VerdictStatus.REFUTED in statuses:
        return 1
    if VerdictStatus.INCONCLUSIVE in statuses or VerdictStatus.VERIFIED not in statuses:
        return 3
    return 3 if judgement.basis is Basis.SIMULATED else 0
