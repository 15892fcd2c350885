"""Joules as kWh, CO2e and money, and what the saving would mean elsewhere if it held there."""

from __future__ import annotations

from typing import Any

from harness.judge.types import Figure
from harness.report import formats
from harness.report.markdown import escape, table
from harness.report.meaning import projections
from harness.report.sections.base import Section
from harness.report.view import View


class FootprintSection(Section):
    """One training of each arm at each size; every factor with its source."""

    name = "footprint"
    title = "Footprint: electricity, CO2e and money"
    short = "Footprint"
    order = 60

    def context(self, view: View) -> dict[str, Any]:
        """The judge's rows by size, the largest first, and the projections."""
        by_size: dict[str, list[Any]] = {}
        for row in reversed(_rows(view)):
            by_size.setdefault(row.size, []).insert(0, row)
        return {"footprint": view.judgement.footprint, "by_size": by_size, "projections": projections(view)}

    def markdown(self, view: View) -> str:
        """Rows and factors."""
        footprint = view.judgement.footprint
        if footprint is None:
            return "No energy is known, so there is no footprint."
        rows = table(
            ["arm", "size", "energy", "CO2e", "rental", "electricity", "basis"],
            [
                [r.arm, r.size, amount(r.energy), amount(r.carbon), amount(r.rental), amount(r.electricity),
                 r.energy.basis.value]
                for r in _rows(view)
            ],
        )  # fmt: skip
        factors = table(
            ["factor", "value", "year", "kind", "source"],
            [[f.name, amount(f), str(f.year or "no year"), f.kind or "–", f.source] for f in footprint.factors],
        )
        return "\n\n".join([rows, factors, *map(escape, footprint.notes)])


def amount(figure: Figure | None) -> str:
    """A figure with its unit and band; ``None`` is "not known"."""
    if figure is None:
        return "not known"
    text = formats.quantity(figure.value, figure.unit)
    if figure.low is None or figure.high is None:
        return text
    factor, _ = formats.scale_for(figure.value, figure.unit)
    low, high = (formats.significant(end / factor) for end in (figure.low, figure.high))
    return f"{text} [{low} to {high}]"


def _rows(view: View) -> list[Any]:
    if view.judgement.footprint is None:
        return []
    rank = {arm: index for index, arm in enumerate(view.arms)}
    return sorted(
        view.judgement.footprint.rows,
        key=lambda r: (view.parameters_of(r.size) or 0, r.size, rank.get(r.arm, len(rank))),
    )
