"""Attribution: does a method beat what a sceptic would do with the same FLOPs?

A control is an arm that a suite matches to a claim's arm (``match``), or any other arm that is neither
the baseline (nor the baseline again) nor claimed itself. Each row pairs arm and control within their
block and pools the differences of quality over seeds within a size and then over sizes with equal
weights (:func:`harness.judge.stats.stratified`). The outcome is called by a two-sided test after Holm
over the rows of the same metric that spent the same FLOPs (and, apart from them, over the others): "no
difference shown" is no proof that there is none, and the interval says how large it might be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from harness.judge import stats
from harness.judge.compare import QUALITY_UNITS, estimate_of, flops_of, is_aa, log_ratio, mismatch
from harness.judge.metrics import Directions
from harness.judge.types import Claim, ControlRow
from harness.judge.words import listing
from harness.record.record import Record
from harness.suite.spec import Arm, Protocol, levels_text
from harness.types import Basis

FAIR = (0.9, 1.1)  # arm / control FLOPs that count as "the same"
LEVEL = 0.05  # two-sided, after Holm

Outcome = Literal["arm better", "control better", "no difference shown"]


def control_rows(
    good: Mapping[str, Record],
    claims: Sequence[Claim],
    baseline: str,
    arms: Mapping[str, Arm] | None,
    directions: Directions,
) -> tuple[ControlRow, ...]:
    """Every claimed arm against every control of it, in the headline metric and those the claims name.

    Args:
        good: OK records by run id.
        claims: whose arms are compared.
        baseline: the arm that is no control.
        arms: the suite's arms; ``None`` where the suite is not at hand, then every other arm is a control.
        directions: which way each metric is better.
    """
    blocks: dict[str, dict[str, Record]] = {}
    for record in good.values():
        if record.spec.protocol is Protocol.TRAIN and record.quality:
            blocks.setdefault(record.block_id, {})[record.spec.arm] = record
    present = list(dict.fromkeys(arm for runs in blocks.values() for arm in sorted(runs)))
    claimed = [a for a in dict.fromkeys(a for claim in claims for a in claim.arms) if a in present]
    again = {
        arm for runs in blocks.values() for arm, run in runs.items()
        if baseline in runs and arm != baseline and is_aa(runs[baseline].spec, run.spec)
    }  # fmt: skip
    controls = sorted(set(present) - set(claimed) - again - {baseline})
    available = {name for runs in blocks.values() for record in runs.values() for name in record.quality}
    wanted = [directions.headline(available), *(claim.quality_metric for claim in claims)]
    rows = []
    for metric in dict.fromkeys(name for name in wanted if name in available and name in directions.metrics):
        assert metric is not None
        drawn = [
            row
            for arm in claimed
            for control in controls
            if _belongs(control, arm, arms) and (row := _row(arm, control, metric, blocks, directions)) is not None
        ]
        fair = [is_fair(row) for row, _ in drawn]
        for family in (True, False):  # nothing is concluded from unfair rows: they take no error level from the others
            rows += _decided([item for item, is_one in zip(drawn, fair, strict=True) if is_one is family], directions)
    return tuple(rows)


def _belongs(control: str, arm: str, arms: Mapping[str, Arm] | None) -> bool:
    """Whether a control is one of ``arm``: matched to it, or to none in particular."""
    known = arms.get(control) if arms is not None else None
    return known is None or known.match in {None, arm}


def _row(
    arm: str, control: str, metric: str, blocks: Mapping[str, Mapping[str, Record]], directions: Directions
) -> tuple[ControlRow, float | None] | None:
    by_size: dict[str, list[float]] = {}
    flops: list[float] = []
    energy: list[float] = []
    for block in sorted(blocks):
        run, other = blocks[block].get(arm), blocks[block].get(control)
        if run is None or other is None or metric not in run.quality or metric not in other.quality:
            continue
        if mismatch(other, run):
            continue
        by_size.setdefault(f"{run.spec.size} {levels_text(run.spec.levels)}", []).append(
            run.quality[metric] - other.quality[metric]
        )
        flops += _known(log_ratio(flops_of(other), flops_of(run)))
        if run.energy is not None and other.energy is not None:
            energy += _known(log_ratio(other.energy.joules, run.energy.joules))
    if not by_size or not flops:
        return None
    pooled = stats.stratified([stats.mean(values) for values in by_size.values()])
    row = ControlRow(
        arm=arm,
        control=control,
        metric=metric,
        difference=estimate_of(pooled, QUALITY_UNITS.get(metric, directions.metric(metric).unit), Basis.MEASURED),
        flops_ratio=math.exp(math.fsum(flops) / len(flops)),
        energy_ratio=math.exp(math.fsum(energy) / len(energy)) if energy else None,
        outcome="no difference shown",
    )
    return row, pooled.p_two_sided()


def _known(value: float | None) -> list[float]:
    return [] if value is None else [value]


def _decided(drawn: Sequence[tuple[ControlRow, float | None]], directions: Directions) -> list[ControlRow]:
    adjusted = iter(stats.holm([p for _, p in drawn if p is not None]))
    rows = []
    for row, p in drawn:
        outcome: Outcome = "no difference shown"
        if p is not None and next(adjusted) < LEVEL:
            worse = directions.worse(row.metric, row.difference.value) > 0
            outcome = "control better" if worse else "arm better"
        rows.append(row.model_copy(update={"outcome": outcome}))
    return rows


def is_fair(row: ControlRow) -> bool:
    """Whether arm and control spent the same FLOPs, within 10 %."""
    return FAIR[0] <= row.flops_ratio <= FAIR[1]


def only_before_holm(row: ControlRow) -> bool:
    """Whether the interval of a row leaves out 0 although its outcome, called after Holm, is no difference."""
    low, high = row.difference.low, row.difference.high
    return row.outcome == "no difference shown" and low is not None and high is not None and low * high > 0


def attribution(arm: str, rows: Iterable[ControlRow], metric: str | None, *, saving: Basis | None) -> str:
    """Whose merit is it? One or two sentences on ``arm`` against its controls in ``metric``.

    ``saving`` is the basis of a saving that its interval puts above 0, ``None`` where none is shown.
    """
    mine = [row for row in rows if row.arm == arm and row.metric == metric]
    if not mine:
        return f"No control was run beside {arm}: whose merit a saving is can't be said."
    fair = [row for row in mine if is_fair(row)]
    said = [_judged(arm, fair, saving)] if fair else [f"No control spent the same FLOPs as {arm}."]
    unfair = [f"{row.control} (it has {1 / row.flops_ratio:.2f} times the FLOPs)" for row in mine if not is_fair(row)]
    if unfair:
        said.append(f"No fair match: {listing(unfair)}.")
    return " ".join(said)


def _judged(arm: str, fair: Sequence[ControlRow], saving: Basis | None) -> str:
    better = [row for row in fair if row.outcome == "control better"]
    level = [row for row in fair if row.outcome == "no difference shown"]
    merit = {None: f"nothing speaks for {arm}", Basis.MEASURED: f"the saving is real but not {arm}'s"}.get(
        saving, f"the saving, as far as there is one, is not {arm}'s"
    )
    if better:
        verb = "does" if len(better) == 1 else "do"
        return f"{_all(better)} {verb} better at the same FLOPs: {merit}."
    if any(row.difference.low is None for row in level):
        return f"{_all(level)}: without repeats nothing can be said about whose merit it is."
    if level:
        doubt = merit.replace(f"not {arm}'s", f"not shown to be {arm}'s")
        return f"At the same FLOPs {arm} is not shown to be better than {_all(level)}: {doubt}."
    return f"{arm} beats every control that spends the same FLOPs: {_all(fair)}."


def _all(rows: Sequence[ControlRow]) -> str:
    return listing([_said(row) for row in rows])


def _said(row: ControlRow) -> str:
    found = row.difference
    bounds = "no interval" if found.low is None or found.high is None else f"{found.low:+.3f} to {found.high:+.3f}"
    if only_before_holm(row):
        bounds += ", off 0 by itself but not after Holm's correction"
    return f"{row.control} ({row.arm} minus it: {found.value:+.3f} {found.unit}, {bounds})"
