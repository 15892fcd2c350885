"""Quality against energy, one panel for each size: is the method better than what the controls reach?"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from harness.judge.types import Comparison, Estimate
from harness.report import formats
from harness.report.figures.picture import Picture, legend, watermark
from harness.report.svg import Axis, Chart, padded
from harness.report.view import View
from harness.workloads.base import Metric

SAME_ENERGY = 0.03  # energies closer than this count as the same: matched FLOPs never match joules to the last digit


def draw(view: View) -> Picture:
    """Every arm as a point; hatched is where a control, or dense, is as good for the same energy or less."""
    key, title = "fig-tradeoff", "Quality against energy, with the controls"
    metric = view.metric
    if metric is None:
        return Picture(key, title, (), "", missing="No run has a held-out quality: nothing was trained to its end.")
    panels: list[Markup] = []
    told: list[str] = []
    comparisons = [c for c in view.comparisons("train") if not c.invalid and c.saving and metric.name in c.quality]
    for size in dict.fromkeys(c.size for c in sorted(comparisons, key=lambda c: c.parameters)):
        mine = [c for c in comparisons if c.size == size]
        panels.append(_panel(view, metric, size, mine, key=f"{key}-{len(panels)}"))
        told += _describe(view, metric, size, mine)
    if not panels:
        return Picture(key, title, (), "", missing=f"No pair of runs has both an energy and {metric.label}.")
    present = {c.arm for c in comparisons} | {view.baseline}
    arms = [arm for arm in view.arms if arm in present]
    return Picture(
        key, title, panels, _takeaway(view, metric, comparisons), told, legend(arms, view.styles, _roles(view))
    )


def _roles(view: View) -> dict[str, str]:
    notes = dict.fromkeys(view.controls, "control") | dict.fromkeys(view.repeats, "A/A")
    return notes | {view.baseline: "baseline"}


def _panel(view: View, metric: Metric, size: str, mine: Sequence[Comparison], *, key: str) -> Markup:
    ratios = [(1 - c.saving.value) for c in mine if c.saving]
    differences = [c.quality[metric.name].value for c in mine]
    whiskers = [
        end for c in mine for end in (c.quality[metric.name].low, c.quality[metric.name].high) if end is not None
    ]
    low_y, high_y = padded([*differences, *_tame(whiskers, differences)], 0.1, include=[0.0])
    better = _better(view, metric)
    chart = Chart(
        key=key, width=480, height=360, left=66, right=18, top=50, title=f"Quality against energy at {size} parameters",
        watermark=watermark(view.basis), heading=f"{size} parameters",
        x=Axis(0.0, max(1.12, *(r * 1.06 for r in ratios)),
               f"energy of the training{view.energy_note}, % of {view.baseline}",
               lambda v: formats.number(v * 100, 0), count=6),
        y=Axis(low_y, high_y, f"{metric.label} against {view.baseline}, {metric.unit}{better}",
               lambda v: formats.number(v, _digits(high_y - low_y)), count=5),
    )  # fmt: skip
    if metric.name not in view.undeclared:
        _frontier(chart, view, metric, mine)
    labels = []
    for c in sorted(mine, key=lambda c: view.styles[c.arm].role == "method"):
        style, quality = view.styles[c.arm], c.quality[metric.name]
        x, y = 1 - c.saving.value if c.saving else 0.0, quality.value
        if c.saving and c.saving.low is not None and c.saving.high is not None:
            chart.whisker_x(1 - c.saving.high, 1 - c.saving.low, y, style)
        if quality.low is not None and quality.high is not None:
            chart.whisker(x, quality.low, quality.high, style)
        tip = f"{c.arm}: {formats.percent(x)} of the energy, {metric.label} {formats.estimate_text(quality)}"
        chart.mark(x, y, style, tip)
        if style.role == "method":
            labels.append((chart.px(x), chart.py(y), c.arm, style.colour))
    chart.mark(1.0, 0.0, view.styles[view.baseline], f"{view.baseline}: the reference, 100 % and 0 by definition")
    chart.labels(labels, gap=15, leader=False)
    chart.text(
        chart.px(1.0), chart.py(0.0) + 19, view.baseline, cls="direct", anchor="middle", colour="var(--ink-soft)"
    )
    return chart.svg(described_by="fig-tradeoff-text")


def _better(view: View, metric: Metric) -> str:
    if metric.name in view.undeclared:
        return ""
    return " (lower is better)" if metric.better == "lower" else " (higher is better)"


def _tame(ends: Sequence[float], values: Sequence[float]) -> list[float]:
    """Interval ends that are not so far out that they would flatten all points into a line."""
    span = max([abs(v) for v in values] + [1e-9])
    return [end for end in ends if abs(end) <= 2 * span]


def _digits(span: float) -> int:
    return 3 if span < 0.05 else 2 if span < 2 else 1


def _frontier(chart: Chart, view: View, metric: Metric, mine: Sequence[Comparison]) -> None:
    """Shade every (energy, quality) at which a control or dense does as well with no more energy."""
    sign = 1 if metric.better == "lower" else -1
    spent = [(1.0, 0.0)] + [(1 - c.saving.value, c.quality[metric.name].value) for c in mine
                            if c.saving and c.arm in view.rivals]  # fmt: skip
    points = [(x * (1 - SAME_ENERGY), y) for x, y in spent]
    best: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda p: (p[0], sign * p[1])):
        if not best or sign * y < sign * best[-1][1]:
            best.append((x, y))
    worst = chart.y.high if sign > 0 else chart.y.low
    stairs = [(best[0][0], worst)]
    for i, (x, y) in enumerate(best):
        if i:
            stairs.append((x, best[i - 1][1]))
        stairs.append((x, y))
    stairs.append((chart.x.high, best[-1][1]))
    chart.polygon([*stairs, (chart.x.high, worst)], "dominated")
    chart.line(stairs, "var(--ink-soft)", width=1.2, dash="4 3")


def place(view: View, metric: Metric, c: Comparison, mine: Sequence[Comparison]) -> str:
    """In words: which control or dense is as good for the same energy or less, by the estimates alone."""
    if c.saving is None:
        return ""
    sign = 1 if metric.better == "lower" else -1
    for other in mine:
        if other.arm not in view.rivals or other.saving is None:
            continue
        no_more = (1 - other.saving.value) * (1 - SAME_ENERGY) <= 1 - c.saving.value
        if no_more and sign * other.quality[metric.name].value <= sign * c.quality[metric.name].value:
            return other.arm
    if 1 - c.saving.value >= 1 - SAME_ENERGY and sign * c.quality[metric.name].value >= 0:
        return view.baseline
    return ""


def _takeaway(view: View, metric: Metric, comparisons: Sequence[Comparison]) -> str:
    """For each method: at how many sizes a control, or dense, is as good for the same energy."""
    if metric.name in view.undeclared:
        return f"Which direction of {metric.label} is better was not declared: nothing is concluded here."
    parts = []
    for arm in view.methods:
        mine = [c for c in comparisons if c.arm == arm]
        beaten = [name for c in mine if (name := place(view, metric, c, [o for o in comparisons if o.size == c.size]))]
        if not mine:
            continue
        sizes = f"{len(beaten)} of {formats.plural(len(mine), 'size')}"
        names = ", ".join(dict.fromkeys(beaten))
        parts.append(
            f"{arm}: {names} {'is' if len(set(beaten)) == 1 else 'are'} as good for the same energy or less at {sizes}"
            if beaten
            else f"{arm}: no control is as good for the same energy at any of {formats.plural(len(mine), 'size')}"
        )
    return ". ".join(parts) + ". By the point estimates; the table of controls below tests it."


def _describe(view: View, metric: Metric, size: str, mine: Sequence[Comparison]) -> list[str]:
    return [
        f"{size}, {c.arm}: {formats.percent(1 - c.saving.value)} of the energy of {view.baseline}{view.energy_note}, "
        f"{metric.label} {signed(c.quality[metric.name])}"
        for c in mine if c.saving
    ]  # fmt: skip


def signed(estimate: Estimate) -> str:
    """A difference with its sign, interval and basis."""
    words = formats.shown(estimate)
    return words.plus + words.text
