"""Our figure and the others' side by side: rows for a table or JSON. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.meter.base import Energy
from harness.meter.opinions.base import Part, SecondOpinion
from harness.types import Basis, Frozen

OURS = "harness"
_PARTS_OF_SCOPE = {
    "gpu": {Part.GPU},
    "board": {Part.GPU},
    "module": {Part.GPU},
    "packages": {Part.CPU},
    "packages and memory": {Part.CPU, Part.MEMORY},
    "process tree": {Part.CPU},
}
"""Which parts of another tool's figures stand for the same thing as one of our scopes."""
SAME_WINDOW = 0.01
"""Windows whose lengths differ by more than this share are said to."""


class Row(Frozen):
    """One line of the comparison. ``difference`` is (theirs - ours) / ours, ``None`` where that means nothing."""

    tool: str
    covers: str
    joules: float | None
    basis: Basis
    seconds: float | None = None
    uncertainty_j: float | None = None  # one standard deviation; no other tool states one
    difference_j: float | None = None
    difference: float | None = None
    reason: str = ""


def compare(ours: Energy, opinions: Sequence[SecondOpinion]) -> tuple[Row, ...]:
    """Our row, then one for each opinion in order.

    Differences are given where an opinion covers what ours covers. Where ours takes several of a tool's parts
    (packages and memory), a row of their sum follows the parts.
    """
    wanted = _PARTS_OF_SCOPE.get(ours.scope, set())
    rows = [
        Row(
            tool=OURS,
            covers=ours.scope,
            joules=ours.joules,
            basis=ours.basis,
            seconds=ours.seconds,
            uncertainty_j=ours.uncertainty_j,
            reason=ours.reason,
        )
    ]
    for tool in dict.fromkeys(opinion.tool for opinion in opinions):
        given = [opinion for opinion in opinions if opinion.tool == tool]
        rows += [_row(ours, opinion, comparable=wanted == {opinion.part}) for opinion in given]
        alike = [opinion for opinion in given if opinion.part in wanted]
        if len(wanted) > 1 and {opinion.part for opinion in alike} == wanted:
            rows.append(_row(ours, _sum(alike), comparable=True))
    return tuple(rows)


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Cells for people, a header first: tool, covers, joules, difference, basis, note."""
    cells = [["tool", "covers", "energy", "difference to ours", "basis", "note"]]
    for row in rows:
        energy = "unknown" if row.joules is None else f"{row.joules:,.1f} J"
        if row.joules is not None and row.uncertainty_j is not None:
            energy += f" ± {row.uncertainty_j:,.1f} J"
        difference = "" if row.difference is None else f"{row.difference:+.2%}"
        if row.difference_j is not None:
            difference = f"{row.difference_j:+,.1f} J {f'({difference})' if difference else ''}".rstrip()
        cells.append([row.tool, row.covers, energy, difference or "-", row.basis.value, row.reason])
    return cells


def _row(ours: Energy, opinion: SecondOpinion, *, comparable: bool) -> Row:
    difference_j = difference = None
    reasons = [opinion.reason] if opinion.reason else []
    if comparable and ours.joules is not None and opinion.joules is not None:
        difference_j = opinion.joules - ours.joules
        difference = difference_j / ours.joules if ours.joules > 0 else None
        if ours.scope == "process tree":
            reasons.insert(0, "not the same thing: ours is the process tree, theirs the whole machine")
        if ours.seconds and opinion.seconds and abs(opinion.seconds / ours.seconds - 1) > SAME_WINDOW:
            reasons.insert(0, f"its window was {opinion.seconds:.4g} s long, ours {ours.seconds:.4g} s")
    return Row(
        tool=opinion.tool,
        covers=opinion.covers,
        joules=opinion.joules,
        basis=opinion.basis,
        seconds=opinion.seconds,
        difference_j=difference_j,
        difference=difference,
        reason="; ".join(reasons),
    )


def _sum(opinions: Sequence[SecondOpinion]) -> SecondOpinion:
    known = [opinion.joules for opinion in opinions if opinion.joules is not None]
    modelled = any(opinion.basis is Basis.MODELLED for opinion in opinions)
    return SecondOpinion(
        tool=opinions[0].tool,
        joules=math.fsum(known) if len(known) == len(opinions) else None,
        basis=Basis.MODELLED if modelled else opinions[0].basis,
        covers=" + ".join(opinion.covers for opinion in opinions),
        seconds=opinions[0].seconds,
        reason="partly modelled" if modelled else "",
    )
