"""Active share over the training, one panel for each arm that switches anything off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from harness.record.record import Record
from harness.report import formats
from harness.report.figures.picture import Key, Picture
from harness.report.svg import Axis, Chart
from harness.report.view import View

_GRID = 400  # steps of a training are told in 400ths: finer than a pixel
_FAINT_AT_MOST = 12


@dataclass(frozen=True, slots=True)
class Activity:
    """What one run logged: time averages (shares) and counts of units entering, leaving, coming back."""

    units: float
    parameters: float
    entries: int
    exits: int
    returns: int


def average(record: Record) -> Activity | None:
    """Shares averaged over the run's steps; ``None`` where nothing was logged."""
    if not record.activity or not record.steps:
        return None
    ends = [point.step for point in record.activity[1:]] + [record.steps]
    spans = [(p, max(0, end - p.step)) for p, end in zip(record.activity, ends, strict=True)]
    total = sum(length for _, length in spans)
    if not total:
        return None
    return Activity(
        units=math.fsum(p.active_units * length for p, length in spans) / total,
        parameters=math.fsum(p.active_parameters * length for p, length in spans) / total,
        entries=sum(p.entries for p in record.activity),
        exits=sum(p.exits for p in record.activity),
        returns=sum(p.returns for p in record.activity),
    )


def draw(view: View) -> Picture:
    """Share of units (solid) and of all parameters (dashed) that worked, over the share of steps done."""
    key, title = "fig-activity", "Active share over the training"
    by_arm: dict[str, list[Record]] = {}
    for record in view.trained:
        if average(record) is not None:
            by_arm.setdefault(record.spec.arm, []).append(record)
    if not by_arm:
        return Picture(key, title, (), "", missing="No arm logged an active share.")
    arms = [arm for arm in view.arms if arm in by_arm]
    panels = [_panel(view, arm, by_arm[arm], key=f"{key}-{index}") for index, arm in enumerate(arms)]
    ink = "var(--ink-soft)"
    keys = [
        Key(words, Markup(
            f'<svg class="swatch" viewBox="0 0 34 14" width="34" height="14" aria-hidden="true"><path d="M1,7H33" '
            f'class="line" style="stroke:{ink};stroke-width:2.4{dash}"/></svg>'))
        for words, dash in (
            ("solid: of the switchable units", ""), ("dashed: of all parameters", ";stroke-dasharray:6,4")
        )
    ]  # fmt: skip
    text = "Faint lines are single runs. Averages over the steps of a training are in the table below."
    return Picture(key, title, panels, text, [_describe(arm, by_arm[arm]) for arm in arms], keys)


def _describe(arm: str, records: Sequence[Record]) -> str:
    found = [a for r in records if (a := average(r))]
    units = math.fsum(a.units for a in found) / len(found)
    share = math.fsum(a.parameters for a in found) / len(found)
    return (
        f"{arm}: over the steps of {formats.plural(len(found), 'run')}, on average {formats.percent(units)} "
        f"of the units and {formats.percent(share)} of all parameters were active."
    )


def _claimed(view: View) -> tuple[float, float] | None:
    for verdict in view.judgement.verdicts:
        claim = verdict.claim
        if claim.metric == "active_share" and claim.at_least is not None and claim.at_most is not None:
            return claim.at_least, claim.at_most
    return None


def _panel(view: View, arm: str, records: Sequence[Record], *, key: str) -> Markup:
    style = view.styles[arm]
    chart = Chart(
        key=key, width=480, height=270, left=50, right=18, top=50, title=f"Active share of {arm} over the training",
        heading=arm,
        x=Axis(0, 1, "share of the training's steps done, %", lambda v: formats.number(v * 100, 0), count=5),
        y=Axis(0, 1.04, "active share, %", lambda v: formats.number(v * 100, 0), count=4),
    )  # fmt: skip
    band = _claimed(view)
    if band:
        chart.rect(0, 1, band[0], band[1], "band band-0")
        chart.text(
            chart.width - chart.right - 4, chart.py(band[0]) + 13, "claimed average: "
            f"{formats.bound(band[0], 'share').removesuffix(' %')} to {formats.bound(band[1], 'share')}",
            cls="claimed", anchor="end",
        )  # fmt: skip
    units = [_steps(r, "active_units") for r in records]
    if 1 < len(units) <= _FAINT_AT_MOST:
        for values in units:
            chart.line(_stairs(values), style.colour, width=0.9, opacity=0.3)
    chart.line(_stairs(_mean(units)), style.colour, width=2.4)
    whole = [_steps(r, "active_parameters") for r in records]
    chart.line(_stairs(_mean(whole)), style.colour, width=1.8, dash="6 4")
    return chart.svg(described_by="fig-activity-text")


def _steps(record: Record, which: str) -> list[float]:
    """The share in each 400th of the training."""
    values, points, at = [], record.activity, 0
    for i in range(_GRID):
        step = i * record.steps / _GRID
        while at + 1 < len(points) and points[at + 1].step <= step:
            at += 1
        values.append(float(getattr(points[at], which)))
    return values


def _mean(rows: Sequence[Sequence[float]]) -> list[float]:
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


def _stairs(values: Sequence[float]) -> list[tuple[float, float]]:
    points = [(0.0, values[0])]
    for i in range(1, len(values)):
        if values[i] != values[i - 1]:
            points += [(i / _GRID, values[i - 1]), (i / _GRID, values[i])]
    return [*points, (1.0, values[-1])]
