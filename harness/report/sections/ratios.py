"""Energy, time and FLOPs of an arm relative to the baseline, by size, and what each factor does to the saving."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.judge.types import Comparison, Estimate, FactorEffect
from harness.report import formats
from harness.report.figures import ratios
from harness.report.markdown import table
from harness.report.sections.base import Section
from harness.report.view import View
from harness.suite.spec import levels_text


class Ratios(Section):
    """One row for each arm, size and level of the factors that ran, trainings and steady runs apart."""

    name = "ratios"
    title = "Do fewer FLOPs become less time and less energy?"
    short = "Ratios"
    order = 25

    def context(self, view: View) -> dict[str, Any]:
        """Rows of both tables and the figure."""
        return {
            "rows": _rows(view),
            "effects": [_Effect.of(effect) for effect in view.judgement.effects],
            "leveled": any(c.levels for c in view.judgement.comparisons),
            "picture": ratios.draw(view),
        }

    def markdown(self, view: View) -> str:
        """Both tables, where there are factors: without them the comparisons say the same."""
        if not view.judgement.effects:
            return ""
        heads = ["arm", "size", "levels", "protocol", "FLOP ratio", "time ratio", "energy ratio", "energy ∕ FLOP ratio"]
        lines = [[row.arm, row.size, row.levels, row.protocol, *map(_text, row.numbers)] for row in _rows(view)]
        effects = [
            [e.arm, e.size, e.change, e.others, e.ratio, e.says] for e in map(_Effect.of, view.judgement.effects)
        ]
        changes = table(["arm", "size", "factor", "at", "energy ratio changes by", "so"], effects)
        return f"{table(heads, lines)}\n\n{changes}"


@dataclass(frozen=True, slots=True)
class Row:
    """Ratios of an arm to the baseline."""

    arm: str
    size: str
    levels: str
    protocol: str
    flops: Estimate | None
    time: Estimate | None
    energy: Estimate | None
    per_flop: Estimate | None
    invalid: str

    @property
    def numbers(self) -> tuple[Estimate | None, ...]:
        """In the order of the columns."""
        return self.flops, self.time, self.energy, self.per_flop


def _rows(view: View) -> list[Row]:
    ran = [c for protocol in ("steady", "train") for c in view.comparisons(protocol) if not c.is_aa]
    return [_row(c) for c in ran]


def _row(comparison: Comparison) -> Row:
    energy = None if comparison.invalid_scope else ratios.ratio_of(comparison.saving)
    flops = ratios.ratio_of(comparison.flops_saving)
    return Row(
        arm=comparison.arm, size=comparison.size, levels=levels_text(comparison.levels), protocol=comparison.protocol,
        flops=flops, time=None if comparison.invalid_scope else ratios.ratio_of(comparison.time_saving), energy=energy,
        per_flop=ratios.over(energy, flops), invalid=comparison.invalid,
    )  # fmt: skip


def _text(estimate: Estimate | None) -> str:
    return formats.MISSING if estimate is None else ratios.text(estimate)


@dataclass(frozen=True, slots=True)
class _Effect:
    """One line about a factor, in words."""

    arm: str
    size: str
    change: str
    others: str
    ratio: str
    says: str
    basis: str

    @classmethod
    def of(cls, effect: FactorEffect) -> _Effect:
        ratio, low, high = effect.ratio, effect.ratio.low, effect.ratio.high
        if low is None or high is None:
            says = "a single pair: no interval"
        elif low <= 1 <= high:
            says = "no change of the saving shown"
        else:
            says = "saves a smaller share there" if low > 1 else "saves a larger share there"
        change = f"{effect.factor}: {str(effect.reference).lower()} to {str(effect.level).lower()}"
        others = levels_text(effect.others)
        return cls(effect.arm, effect.size, change, others, ratios.text(ratio), says, ratio.basis.value)
