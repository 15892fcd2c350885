"""Regression gate: has NEW's saving ratio fallen behind BASE's? On ratios, never on joules.

Joules depend on the machine; the ratio of two arms of one block does not, so two result sets from
different machines can be compared. One row per arm, size and protocol that BASE has: Welch's t on the mean
log ratios (exact counts are compared as they are), Holm over the rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from harness.judge import stats
from harness.judge.types import Comparison, Estimate, Judgement
from harness.judge.words import interval, percent
from harness.types import Basis, Frozen

LEVEL = 0.05  # one-sided, after Holm
TOLERANCE = 0.01  # a loss of saving below one point is let pass, however sure it is

Outcome = Literal["regressed", "no regression shown", "improved", "open", "missing", "invalid"]


class GateRow(Frozen):
    """One arm at one size and protocol in both sets."""

    arm: str
    size: str
    protocol: str
    base: Estimate
    new: Estimate | None
    change: float | None  # of the saving, new - base, a share
    p_value: float | None  # one-sided, of "the saving has fallen", after Holm
    outcome: Outcome
    why: str = ""


class GateResult(Frozen):
    """All rows, as text for people, and the exit code: 0 passed, 1 regressed, 3 open or missing, 4 invalid."""

    rows: tuple[GateRow, ...]
    text: str
    exit_code: int


def gate(base: Judgement, new: Judgement) -> GateResult:
    """Compare every saving of ``base`` with the same arm, size and protocol in ``new``."""
    others = {_key(c): c for c in new.comparisons}
    drawn = [
        _row(comparison, others.get(_key(comparison)))
        for comparison in base.comparisons
        if not comparison.is_aa and comparison.invalid_scope == "" and _saving(comparison) is not None
    ]
    rows = _decided(drawn)
    code = _exit_code(rows)
    lines = [_line(row) for row in rows] or ["BASE holds no valid saving: there is nothing to compare with"]
    ending = {0: "no regression shown", 1: "REGRESSED", 3: "open: see above", 4: "invalid: see above"}[code]
    if code == 0 and Basis.SIMULATED in (base.basis, new.basis):  # no script may take it for a measurement
        code, ending = 3, "open: no regression shown, but the energies are simulated and nothing was measured"
    return GateResult(rows=tuple(rows), text="\n".join([*lines, ending]), exit_code=code)


def _key(comparison: Comparison) -> tuple[str, str, str]:
    return comparison.arm, comparison.place, comparison.protocol


def _saving(comparison: Comparison) -> Estimate | None:
    return comparison.flops_saving if comparison.protocol == "count" else comparison.saving


def _logs(comparison: Comparison) -> list[float]:
    return [row.log_energy_ratio for row in comparison.pairs if row.log_energy_ratio is not None]


def _row(base: Comparison, new: Comparison | None) -> GateRow:
    saving = _saving(base)
    assert saving is not None
    found = _saving(new) if new is not None else None
    change = None if found is None else found.value - saving.value
    row = GateRow(
        arm=base.arm, size=base.place, protocol=base.protocol, base=saving, new=found, change=change, p_value=None,
        outcome="open",
    )  # fmt: skip
    if new is None or found is None or change is None:
        return row.model_copy(update={"outcome": "missing", "why": "NEW has no such pair"})
    if new.invalid_scope:
        return row.model_copy(update={"outcome": "invalid", "why": new.invalid})
    if base.protocol == "count":
        fallen = change < -1e-9
        outcome: Outcome = "regressed" if fallen else "improved" if change > 1e-9 else "no regression shown"
        return row.model_copy(update={"outcome": outcome, "why": "counted exactly"})
    if found.basis is not saving.basis:
        why = f"BASE is {saving.basis.value}, NEW is {found.basis.value}"
        return row.model_copy(update={"why": why})
    p = _p_fallen(_logs(base), _logs(new))
    return row.model_copy(update={"p_value": p, "why": "" if p is not None else "one pair has no interval"})


def _p_fallen(base: Sequence[float], new: Sequence[float]) -> float | None:
    """One-sided Welch p of "the log ratio has risen": half the difference is a mean of two strata."""
    if min(len(base), len(new)) < 2:
        return None
    return stats.stratified([stats.mean(new), stats.mean([-value for value in base])]).p("above", 0.0)


def _decided(drawn: Sequence[GateRow]) -> list[GateRow]:
    fallen = iter(stats.holm([row.p_value for row in drawn if row.p_value is not None]))
    risen = iter(stats.holm([1 - row.p_value for row in drawn if row.p_value is not None]))
    rows = []
    for row in drawn:
        if row.p_value is None or row.change is None:
            rows.append(row)
            continue
        down, up = next(fallen), next(risen)
        outcome: Outcome = "no regression shown"
        if down < LEVEL and row.change < -TOLERANCE:
            outcome = "regressed"
        elif up < LEVEL and row.change > TOLERANCE:
            outcome = "improved"
        rows.append(row.model_copy(update={"p_value": down, "outcome": outcome}))
    return rows


def _exit_code(rows: Sequence[GateRow]) -> int:
    outcomes = {row.outcome for row in rows}
    if "invalid" in outcomes:
        return 4
    if "regressed" in outcomes:
        return 1
    return 3 if not rows or outcomes & {"open", "missing"} else 0


def _line(row: GateRow) -> str:
    new = "none" if row.new is None else percent(row.new.value) + interval(row.new, share=True)
    change = "" if row.change is None or math.isnan(row.change) else f", {100 * row.change:+.1f} points"
    why = f" ({row.why})" if row.why else ""
    how = "" if row.base.basis in (Basis.MEASURED, Basis.COUNTED) else f", {row.base.basis.value}"
    base = percent(row.base.value) + interval(row.base, share=True)
    return f"{row.outcome}: {row.arm} at {row.size}, {row.protocol}: saving {base} -> {new}{change}{how}{why}"
