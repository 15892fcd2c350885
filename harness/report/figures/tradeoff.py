"""Quality against energy, one panel for each size: is the method better than what the controls reach?"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from harness.judge.types import Comparison, Estimate
from harness.report import formats
from harness.report.figures.picture import Picture, legend, watermark
from harness.report.svg import Axis, Chart, padded
from harness.report.view import View
from harness.types import Basis
from harness.workloads.base import Metric


def draw(view: View) -> Picture:
    """Every arm as a point; shaded is where a control, or dense, is as good for no more energy."""
    key, title = "fig-tradeoff", "Quality against energy, with the controls"
    metric = view.metric
    if metric is None:
        return Picture(key, title, (), "", missing="No run has a held-out quality: nothing was trained to its end.")
    panels, told = [], []
    comparisons = [c for c in view.comparisons("train") if not c.invalid and c.saving and metric.name in c.quality]
    for size in dict.fromkeys(c.size for c in sorted(comparisons, key=lambda c: c.parameters)):
        mine = [c for c in comparisons if c.size == size]
        panels.append(_panel(view, metric, size, mine, key=f"{key}-{len(panels)}"))
        told.append(_describe(view, metric, size, mine))
    if not panels:
        return Picture(key, title, (), "", missing=f"No pair of runs has both an energy and {metric.label}.")
    present = {c.arm for c in comparisons} | {view.baseline}
    arms = [arm for arm in view.arms if arm in present]
    return Picture(key, title, panels, " ".join(told), legend(arms, view.styles, _roles(view)))


def _roles(view: View) -> dict[str, str]:
    notes = {arm: "control" for arm in view.controls} | {arm: "A/A" for arm in view.repeats}
    return notes | {view.baseline: "baseline"}


def _panel(view: View, metric: Metric, size: str, mine: Sequence[Comparison], *, key: str) -> Markup:
    ratios = [(1 - c.saving.value) for c in mine if c.saving]
    differences = [c.quality[metric.name].value for c in mine]
    whiskers = [end for c in mine for end in (c.quality[metric.name].low, c.quality[metric.name].high) if end is not None]
    low_y, high_y = padded([*differences, *_tame(whiskers, differences)], 0.1, include=[0.0])
    better = _better(view, metric)
    chart = Chart(
        key=key, width=480, height=360, left=66, right=18, top=50, title=f"Quality against energy at {size} parameters",
        watermark=watermark(view.basis), heading=f"{size} parameters",
        x=Axis(0.0, max(1.12, *(r * 1.06 for r in ratios)), f"energy of the training{view.energy_note}, % of {view.baseline}",
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
    labels.append((chart.px(1.0) - 56, chart.py(0.0) - 12, view.baseline, "var(--ink-soft)"))
    chart.labels(labels, gap=15, leader=False)
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
    points = [(1.0, 0.0)] + [(1 - c.saving.value, c.quality[metric.name].value) for c in mine
                             if c.saving and c.arm in view.controls]  # fmt: skip
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
    """In words: which control or dense is as good for no more energy, by the estimates alone."""
    if c.saving is None:
        return ""
    sign = 1 if metric.better == "lower" else -1
    for other in mine:
        if other.arm in view.controls and other.saving and other.saving.value >= c.saving.value:
            if sign * other.quality[metric.name].value <= sign * c.quality[metric.name].value:
                return other.arm
    if c.saving.value <= 0 and sign * c.quality[metric.name].value >= 0:
        return view.baseline
    return ""


def _describe(view: View, metric: Metric, size: str, mine: Sequence[Comparison]) -> str:
    told = []
    for c in mine:
        if c.arm not in view.methods or c.saving is None:
            continue
        dominated = place(view, metric, c, mine) if metric.name not in view.undeclared else ""
        where = (
            f"{dominated} is as good for no more energy"
            if dominated
            else "no control is as good for as little energy, by the point estimates"
        )
        told.append(
            f"{c.arm} used {formats.percent(1 - c.saving.value)} of the energy, {metric.label} "
            f"{signed(c.quality[metric.name])}; {where}"
        )
    return f"At {size}: {'. '.join(told)}." if told else ""


def signed(estimate: Estimate) -> str:
    """A difference with its sign, interval and basis."""
    text = formats.estimate_text(estimate)
    return text if estimate.value < 0 or estimate.basis is Basis.COUNTED else f"+{text}"
