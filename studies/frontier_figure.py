"""The picture of docs/frontier.md: loss against FLOPs, with the line of dense models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.report.palette import Style
from harness.report.svg import Axis, Chart, padded

if TYPE_CHECKING:
    from frontier import Arm

DENSE = Style("var(--dense)", "circle", "", "baseline")
GROWS = Style("var(--grows)", "square", "", "method")
CONTROL = Style("var(--control)", "triangle", "", "control")
CONTROLS = ("narrow-", "short-")

CSS = """
:root { --paper: #fff; --ink: #16191d; --soft: #4d5660; --grid: #e6eaee; --dense: #6b747e; --grows: #c44500;
  --control: #0064a8; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #eceff2; --soft: #aab4be; --grid: #2a3037;
  --dense: #9aa4ae; --grows: #ff8b4d; --control: #5cb3f5; } }
svg { background: var(--paper); font-family: system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
text { fill: var(--ink); font-size: 13px; } .tick, .label { fill: var(--soft); }
.heading { font-size: 15px; font-weight: 650; }
.direct { font-weight: 600; font-size: 12.5px; paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
.grid { stroke: var(--grid); fill: none; } .axis, .leader { stroke: var(--soft); fill: none; }
.line { fill: none; } .whisker { fill: none; stroke-width: 1.4; opacity: .7; }
"""
WIDTH, HEIGHT = 520, 560
SAME_FLOPS = 0.01  # of dense: among arms that grow and cost the same, only the best has its name in the left panel


def draw(arms: Sequence[Arm]) -> str:
    """One SVG of two panels: mean loss against FLOPs, and every arm's difference from the dense line.

    Intervals are those of 95 % of the differences, paired by seed (Student's t).
    """
    full = next(arm for arm in arms if arm.name == "dense")
    inner = "".join(
        panel.replace("<svg ", f'<svg x="{i * WIDTH}" width="{WIDTH}" height="{HEIGHT}" ', 1)
        for i, panel in enumerate((_losses(arms, full), _differences(arms, full)))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT}" role="img" '
        f'aria-label="Held-out loss against FLOPs: {full.setting}"><style>{CSS}</style>{inner}</svg>\n'
    )


def _style(arm: Arm) -> Style:
    return DENSE if arm.dense else CONTROL if arm.name.startswith(CONTROLS) else GROWS


def _losses(arms: Sequence[Arm], full: Arm) -> str:
    from frontier import against_line

    cost = {arm.name: arm.flops / full.flops for arm in arms}
    chart = Chart(
        key="frontier-losses", width=WIDTH, height=HEIGHT, left=58, right=96, top=56,
        heading="Loss against FLOPs", title="Held-out loss against FLOPs",
        x=Axis(min(cost.values()) - 0.12, 1.03, "FLOPs of the training, % of dense (counted)", _percent),
        y=Axis(*padded([arm.mean for arm in arms], 0.08), "held-out loss, nats per token", "{:.2f}".format),
    )  # fmt: skip
    chart.line(sorted((cost[arm.name], arm.mean) for arm in arms if arm.dense), DENSE.colour)
    for arm in sorted(arms, key=lambda arm: -arm.mean):
        style, share = _style(arm), cost[arm.name]
        chart.mark(share, arm.mean, style, f"{arm.name}: {share:.0%} of the FLOPs, loss {arm.mean:.4f}")
        alike = [o.mean for o in arms if _style(o) is GROWS and abs(cost[o.name] - share) < SAME_FLOPS]
        if style is not GROWS or arm.mean == min(alike):
            crowded = any(0 < cost[o.name] - share < 0.12 and abs(o.mean - arm.mean) < 0.012 for o in arms)
            off = against_line(arm, arms)
            if arm.dense:
                dx, dy, anchor = -9, 12, "end"
            elif off is not None and off.mean < 0:  # below the line
                dx, dy, anchor = 0, 19, "end"
            else:
                dx, dy, anchor = (-9, 4, "end") if crowded else (9, 4, "start")
            chart.text(chart.px(share) + dx, chart.py(arm.mean) + dy, arm.name, cls="direct", anchor=anchor,
                       colour=style.colour)  # fmt: skip
    return str(chart.svg())


def _differences(arms: Sequence[Arm], full: Arm) -> str:
    from frontier import against_line

    found = [(arm, off) for arm in arms if not arm.dense and (off := against_line(arm, arms)) is not None]
    found.sort(key=lambda pair: -pair[1].mean)
    span = max(abs(off.mean) for _, off in found)
    chart = Chart(
        key="frontier-differences", width=WIDTH, height=HEIGHT, left=150, right=16, top=56,
        heading="Against dense models of the same FLOPs", title="Difference from the dense line",
        x=Axis(-0.25 * span, 1.1 * span, "loss minus dense line, nats per token (left is better)", "{:+.2f}".format),
        y=Axis(-0.7, len(found) - 0.3, "", lambda _: "", count=1),
    )  # fmt: skip
    top, bottom = chart.y.high, chart.y.low
    chart.line([(0.0, bottom), (0.0, top)], DENSE.colour, width=1.6)
    for row, (arm, off) in enumerate(reversed(found)):
        style = _style(arm)
        chart.whisker_x(off.mean - off.half, off.mean + off.half, row, style)
        chart.mark(off.mean, row, style, f"{arm.name}: {off}")
        chart.text(142, chart.py(row) + 4, arm.name, cls="direct", anchor="end", colour=style.colour)
    return str(chart.svg())


def _percent(share: float) -> str:
    return f"{share * 100:.0f}"
