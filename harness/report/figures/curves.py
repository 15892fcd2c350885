"""Learning curves over joules, one panel for each size: each seed faint, their mean strong."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from harness.record.record import Record
from harness.report import formats
from harness.report.figures.picture import Picture, legend, watermark
from harness.report.svg import Axis, Chart, padded
from harness.report.view import View
from harness.workloads.base import Metric

_FAINT_AT_MOST = 12  # seeds drawn one by one; beyond that the mean alone is legible
Point = tuple[float, float]


def draw(view: View) -> Picture:
    """Held-out metric over the energy spent so far, for every arm but repeats of the baseline."""
    key, title = "fig-curves", "Learning curves over energy"
    metric = view.metric
    if metric is None:
        return Picture(key, title, (), "", missing="No run has a held-out quality.")
    by_size: dict[str, dict[str, list[list[Point]]]] = {}
    for record in view.trained:
        if record.spec.arm in view.repeats:
            continue
        points = curve(record, metric.name)
        if len(points) > 1:
            by_size.setdefault(record.spec.size, {}).setdefault(record.spec.arm, []).append(points)
    if not by_size:
        return Picture(key, title, (), "", missing=f"No run has a learning curve of {metric.label} over known energy.")
    panels = [
        _panel(view, metric, size, by_arm, key=f"{key}-{index}") for index, (size, by_arm) in enumerate(by_size.items())
    ]
    arms = [arm for arm in view.arms if any(arm in by_arm for by_arm in by_size.values())]
    text = (
        f"The mean over seeds with its mark at the end of training, single seeds faint. The dotted line is where "
        f"{view.baseline} ends; the table below gives the energy each arm needed to get there."
    )
    described = [
        f"{size}, {arm}: {metric.label} {formats.number(end[1], metric.digits)} {metric.unit} after "
        f"{formats.quantity(end[0], 'J')} ({formats.basis(view.basis)}), mean of {formats.plural(len(c), 'seed')}"
        for size, by_arm in by_size.items() for arm in arms if (c := by_arm.get(arm)) and (end := mean_curve(c)[-1])
    ]  # fmt: skip
    return Picture(key, title, panels, text, described, legend(arms, view.styles))


def curve(record: Record, metric: str) -> list[Point]:
    """(joules, value) of the points where both are known."""
    return [(p.energy_j, p.metrics[metric]) for p in record.curve if p.energy_j is not None and metric in p.metrics]


def mean_curve(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """Mean energy and mean value at each evaluation that every curve has."""
    length = min(len(c) for c in curves)
    return [
        (math.fsum(c[i][0] for c in curves) / len(curves), math.fsum(c[i][1] for c in curves) / len(curves))
        for i in range(length)
    ]


def _panel(view: View, metric: Metric, size: str, by_arm: dict[str, list[list[Point]]], *, key: str) -> Markup:
    joules = [x for curves in by_arm.values() for c in curves for x, _ in c]
    values = [y for curves in by_arm.values() for c in curves for _, y in c]
    factor, unit = formats.scale_for(max(joules), "J")
    low, high = padded(values, 0.05)
    chart = Chart(
        key=key, width=480, height=340, left=58, right=18, top=50, title=f"Learning curves at {size} parameters",
        watermark=watermark(view.basis), heading=f"{size} parameters",
        x=Axis(0.0, max(joules) * 1.04, f"energy charged so far{view.energy_note}, {unit}",
               lambda v: formats.significant(v / factor, 4).rstrip("0").rstrip(".") or "0", count=6),
        y=Axis(low, high, f"{metric.label}, {metric.unit}",
               lambda v: formats.number(v, 2 if high - low < 5 else 1), count=5),
    )  # fmt: skip
    dense = by_arm.get(view.baseline)
    if dense:
        end = mean_curve(dense)[-1][1]
        chart.line([(0.0, end), (chart.x.high, end)], "var(--arm-base)", width=1, dash="2 3")
    order = sorted(by_arm, key=lambda arm: ("control", "baseline", "method").index(view.styles[arm].role))
    for arm in order:
        style, curves = view.styles[arm], by_arm[arm]
        if 1 < len(curves) <= _FAINT_AT_MOST:
            for points in curves:
                chart.line(points, style.colour, width=0.9, opacity=0.35)
    for arm in order:
        style, mean = view.styles[arm], mean_curve(by_arm[arm])
        chart.line(mean, style.colour, width=style.width, dash=style.dash)
        seeds = formats.plural(len(by_arm[arm]), "seed")
        tip = f"{arm}, mean of {seeds}: {metric.label} {formats.number(mean[-1][1], metric.digits)} {metric.unit}"
        chart.mark(*mean[-1], style, f"{tip} at {formats.quantity(mean[-1][0], 'J')}")
    return chart.svg(described_by="fig-curves-text")
