"""Energy ratio over FLOP ratio: on the diagonal every FLOP that is left out takes its energy with it."""

from __future__ import annotations

from markupsafe import Markup

from harness.judge.compare import weakest
from harness.judge.types import Comparison, Estimate
from harness.report import formats
from harness.report.figures.picture import Picture, legend, watermark
from harness.report.svg import Axis, Chart
from harness.report.view import View

TARGET = 1.10
"""Energy ratio over FLOP ratio that SAT aims to stay below from 350 M parameters on; drawn as a line."""


def draw(view: View) -> Picture:
    """One mark for each arm, size and level of the factors."""
    key = "fig-ratios"
    title = f"Energy over FLOPs, each relative to {view.baseline}"
    shown = [c for p in ("steady", "train") for c in view.comparisons(p) if _drawable(c)]
    if not shown:
        return Picture(key, title, (), "", missing="No pair has both an energy and a FLOP count.")
    arms = list(dict.fromkeys(c.arm for c in shown))
    return Picture(
        key=key,
        title=title,
        panels=[_chart(view, shown, key=key, width=640, height=460, title=title)],
        takeaway=(
            f"Solid: energy falls as FLOPs do. Dashed: {TARGET:.2f} times as much. Marks above the lines save less "
            "energy than arithmetic."
        ),
        description=[f"{c.arm}, {c.place}, {c.protocol}: {_point_text(c)}" for c in shown],
        legend=legend(arms, view.styles),
    )


def _drawable(comparison: Comparison) -> bool:
    known = comparison.saving is not None and comparison.flops_saving is not None
    return known and not comparison.invalid and not comparison.is_aa


def _chart(view: View, shown: list[Comparison], *, key: str, width: float, height: float, title: str) -> Markup:
    points = [(ratio_of(c.flops_saving), ratio_of(c.saving), c) for c in shown]
    top = max(1.05, *(energy.value * 1.05 for _, energy, _ in points if energy is not None))
    chart = Chart(
        key=key, width=width, height=height, title=title, watermark=watermark(view.basis), left=62, right=20, top=30,
        x=Axis(0.0, max(1.05, *(f.value * 1.05 for f, _, _ in points if f is not None)), "FLOP ratio (counted)"),
        y=Axis(0.0, top, f"energy ratio{view.energy_note}"),
    )  # fmt: skip
    end = min(chart.x.high, chart.y.high / TARGET)
    chart.line([(0.0, 0.0), (end, end)], "var(--ink-soft)", width=1.2)
    chart.line([(0.0, 0.0), (end, end * TARGET)], "var(--ink-soft)", width=1.2, dash="5 4")
    for flops, energy, c in points:
        if flops is None or energy is None:
            continue
        style = view.styles[c.arm]
        if energy.low is not None and energy.high is not None:
            chart.whisker(flops.value, max(0.0, energy.low), min(chart.y.high, energy.high), style)
        chart.mark(flops.value, energy.value, style, f"{c.arm}, {c.place}, {c.protocol}: {_point_text(c)}")
    return chart.svg(described_by=f"{key}-text")


def _point_text(comparison: Comparison) -> str:
    flops, energy = ratio_of(comparison.flops_saving), ratio_of(comparison.saving)
    assert flops is not None
    assert energy is not None
    return f"FLOP ratio {text(flops)}, energy ratio {text(energy)}"


def ratio_of(saving: Estimate | None) -> Estimate | None:
    """Arm over baseline from a saving: one less it, the ends of the interval exchanged."""
    if saving is None:
        return None
    low = None if saving.high is None else 1 - saving.high
    high = None if saving.low is None else 1 - saving.low
    return saving.model_copy(update={"value": 1 - saving.value, "low": low, "high": high, "unit": "ratio"})


def over(energy: Estimate | None, flops: Estimate | None) -> Estimate | None:
    """Energy ratio over FLOP ratio; the FLOPs are exact, so the interval is the energy's."""
    if energy is None or flops is None or flops.value <= 0:
        return None
    low, high = (None if end is None else end / flops.value for end in (energy.low, energy.high))
    basis = weakest([energy.basis, flops.basis])
    return energy.model_copy(update={"value": energy.value / flops.value, "low": low, "high": high, "basis": basis})


def text(ratio: Estimate) -> str:
    """``0.412 (0.405 to 0.419)``."""
    if ratio.low is None or ratio.high is None:
        return f"{formats.number(ratio.value, 3)} (n={ratio.n})"
    if ratio.low == ratio.high:
        return formats.number(ratio.value, 3)
    return f"{formats.number(ratio.value, 3)} ({formats.number(ratio.low, 3)} to {formats.number(ratio.high, 3)})"
