"""Saving over model size: what was run, what was counted, what was claimed, what is projected."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from harness.judge.types import Claim, Comparison, Trend
from harness.report import formats
from harness.report.figures.picture import Key, Picture, watermark
from harness.report.palette import Style
from harness.report.svg import Axis, Chart, marker, swatch
from harness.report.view import View
from harness.suite.spec import levels_text

_PROTOCOLS = ("train", "steady")


def draw(view: View) -> Picture:
    """The scaling curve. Filled marks with lines were run, open marks with dots only counted."""
    key = "fig-scaling"
    title = f"Energy saved against {view.baseline}, over model size"
    energies = [c for p in _PROTOCOLS for c in view.comparisons(p, view.methods) if c.saving and not c.invalid]
    counted = _counted(view)
    if not energies and not counted:
        return Picture(key, title, (), "", missing="No saving could be computed: there is no pair of runs.")
    return Picture(
        key=key,
        title=title,
        panels=[_chart(view, energies, counted, key=key, width=1000, height=520, title=title)],
        narrow=[_chart(view, energies, counted, key=f"{key}-n", width=400, height=430, title=title)],
        takeaway=_takeaway(view, energies),
        description=_describe(view, energies, counted),
        legend=_legend(view, energies, counted),
    )


def _counted(view: View) -> list[Comparison]:
    """One counted saving for each method and size, whichever protocol carries it."""
    found: dict[tuple[str, int], Comparison] = {}
    for protocol in ("count", "train", "steady"):
        for comparison in view.comparisons(protocol, view.methods):
            if comparison.flops_saving is not None and comparison.invalid_scope != "all":
                found.setdefault((comparison.arm, comparison.parameters), comparison)
    return sorted(found.values(), key=lambda c: (view.methods.index(c.arm), c.parameters))


def _chart(
    view: View, energies: Sequence[Comparison], counted: Sequence[Comparison], *, key: str, width: float,
    height: float, title: str,
) -> Markup:  # fmt: skip
    narrow = width < 600
    claims = _claims(view)
    low_x, high_x = _x_range(energies, counted, claims)
    chart = Chart(
        key=key, width=width, height=height, title=title, watermark=watermark(view.basis),
        left=50 if narrow else 62, right=14 if narrow else 150, top=30,
        x=Axis(low_x, high_x, "parameters of the dense model", formats.parameters, log=True, count=4 if narrow else 7),
        y=Axis(*_y_range(view, energies, counted), f"energy saved against {view.baseline}{view.energy_note}, %",
               lambda v: formats.number(v * 100, 0), count=6),
    )  # fmt: skip
    _bands(chart, claims, narrow=narrow)
    _measured_range(chart, energies, narrow=narrow)
    for trend in view.judgement.trends:
        if trend.protocol == "train" and trend.arm in view.methods:
            _projection(chart, trend, view.styles[trend.arm], high_x)
    labels = []
    for arm in view.methods:
        style, mine = view.styles[arm], [c for c in counted if c.arm == arm]
        points = [(float(c.parameters), c.flops_saving.value) for c in mine if c.flops_saving]
        chart.line(points, style.colour, width=1.4, dash="3 4", opacity=0.9)
        for c, (x, y) in zip(mine, points, strict=True):
            tip = f"{arm}, {c.size}: {formats.percent(y)} of FLOPs, counted, not run"
            chart.mark(x, y, style, tip, hollow=True, size=4.2)
        if points:
            x, y = points[-1]
            labels.append((chart.px(x), chart.py(y), f"{arm}: {formats.percent(y, 0)} counted", style.colour))
    _repeats(chart, view)
    for protocol in _PROTOCOLS:
        for index, arm in enumerate(view.methods):
            mine = [c for c in energies if c.arm == arm and c.protocol == protocol]
            offset = (index - (len(view.methods) - 1) / 2) * 6
            for levels in dict.fromkeys(levels_text(c.levels) for c in mine):
                alike = [c for c in mine if levels_text(c.levels) == levels]
                _metered(chart, alike, view.styles[arm], offset, dash="" if protocol == "train" else "9 3")
            if mine and mine[-1].saving and not any(c.arm == arm for c in counted):
                x, y = chart.px(mine[-1].parameters) + offset, chart.py(mine[-1].saving.value)
                labels.append((x, y, arm, view.styles[arm].colour))
    if not narrow:
        chart.labels(labels, gap=15)
    return chart.svg(described_by=f"{key.removesuffix('-n')}-text")


def _metered(chart: Chart, mine: Sequence[Comparison], style: Style, dx: float, *, dash: str) -> None:
    points = [(float(c.parameters), c.saving.value) for c in mine if c.saving]
    chart.line(points, style.colour, width=style.width, dash=dash)
    for c in mine:
        if c.saving is None:
            continue
        if c.saving.low is not None and c.saving.high is not None:
            chart.whisker(c.parameters, c.saving.low, c.saving.high, style, dx=dx)
        tip = f"{c.arm}, {c.place}, {c.protocol}: {formats.estimate_text(c.saving)}"
        chart.mark(c.parameters, c.saving.value, style, tip, dx=dx)


def _repeats(chart: Chart, view: View) -> None:
    """A/A pairs: how far from 0 two identical trainings come out is the noise floor of everything else."""
    for c in view.comparisons("train", sorted(view.repeats)):
        if c.saving is None:
            continue
        style = view.styles[view.baseline]
        if c.saving.low is not None and c.saving.high is not None:
            chart.whisker(c.parameters, c.saving.low, c.saving.high, style)
        chart.mark(c.parameters, c.saving.value, style, f"A/A, {c.size}: {formats.estimate_text(c.saving)}", size=3.4)


def _claims(view: View) -> list[Claim]:
    """The claims about energy with a figure of their own."""
    return [
        verdict.claim
        for verdict in view.judgement.verdicts
        if verdict.claim.metric == "energy_saving"
        and not verdict.claim.context
        and (verdict.claim.at_least is not None or verdict.claim.at_most is not None)
    ]


def _claimed(claim: Claim) -> str:
    low, high = claim.at_least, claim.at_most
    if low is not None and high is not None and low != high:
        figure = f"{formats.bound(low, 'share').removesuffix(' %')} to {formats.bound(high, 'share')}"
    elif low is not None:
        figure = f"{formats.bound(low, 'share')} or more" if high is None else formats.bound(low, "share")
    else:
        figure = f"at most {formats.bound(high, 'share')}"
    scope = ""
    if claim.max_parameters is not None:
        scope = f" below {formats.parameters(claim.max_parameters)}"
    elif claim.min_parameters is not None:
        scope = f" above {formats.parameters(claim.min_parameters)}"
    return f"claimed{scope}: {figure}"


def _bands(chart: Chart, claims: Sequence[Claim], *, narrow: bool) -> None:
    taken: list[float] = []
    for index, claim in enumerate(claims):
        low = claim.at_least if claim.at_least is not None else chart.y.low
        high = claim.at_most if claim.at_most is not None else low
        x0 = max(chart.x.low, claim.min_parameters or chart.x.low)
        x1 = min(chart.x.high, claim.max_parameters or chart.x.high)
        if x1 <= x0:
            continue
        if high > low:
            chart.rect(x0, x1, low, high, f"band band-{index % 3}")
        for edge in sorted({low, high}):
            chart.line([(x0, edge), (x1, edge)], f"var(--band-line-{index % 3})", width=1.6, dash="7 4")
        right = claim.min_parameters is not None or claim.max_parameters is not None
        y = chart.py(high) - 5
        while any(abs(y - other) < 13 for other in taken) and not right:
            y += 13
        taken.append(y)
        if claim.min_parameters is not None:
            x = chart.px(x0) - 8  # beside its line: at the end of the axis stand the labels of the arms
        else:
            x = chart.px(x1) - 6 if right else chart.px(x0) + 6
        words = _claimed(claim)
        chart.text(x, y, words.replace("claimed", "") .strip(" :") if narrow else words, cls="claimed",
                   anchor="end" if right else "start")  # fmt: skip


def _measured_range(chart: Chart, energies: Sequence[Comparison], *, narrow: bool) -> None:
    sizes = [c.parameters for c in energies]
    if not sizes:
        return
    air = 10 ** (0.03 * math.log10(chart.x.high / chart.x.low))
    left, right = min(sizes) / air, max(sizes) * air
    chart.rect(left, right, chart.y.low, chart.y.high, "metered-range")
    words = "run here" if narrow else "sizes that were run"
    middle = (chart.px(left) + chart.px(right)) / 2
    half = len(words) * 3.3
    middle = min(max(middle, chart.left + half + 2), chart.width - chart.right - half)
    chart.text(middle, chart.height - chart.bottom - 8, words, cls="note", anchor="middle")


def _projection(chart: Chart, trend: Trend, style: Style, to: float) -> None:
    """The trend beyond the sizes that were run, as a dotted line in a fan of its slope's interval."""
    if to <= trend.to_parameters * 1.05:
        return
    pivot = (math.log10(trend.from_parameters) + math.log10(trend.to_parameters)) / 2
    middle = trend.intercept + trend.slope.value * pivot

    def at(slope: float, parameters: float) -> float:
        return middle + slope * (math.log10(parameters) - pivot)

    ends = (trend.to_parameters, to)
    if trend.slope.low is not None and trend.slope.high is not None:
        low, high = trend.slope.low, trend.slope.high
        fan = [(x, _inside(at(low, x))) for x in ends] + [(x, _inside(at(high, x))) for x in reversed(ends)]
        chart.polygon(fan, "fan", f"fill:{style.colour}")
    chart.line([(x, at(trend.slope.value, x)) for x in ends], style.colour, width=1.6, dash="1 5", cls="line dots")


def _inside(value: float) -> float:
    return min(max(value, -3.0), 3.0)  # far outside the axis is far enough


def _x_range(
    energies: Sequence[Comparison], counted: Sequence[Comparison], claims: Sequence[Claim]
) -> tuple[float, float]:
    sizes = [float(c.parameters) for c in (*energies, *counted)]
    sizes += [claim.min_parameters * 2.2 for claim in claims if claim.min_parameters]
    return min(sizes) / 1.6, max(sizes) * 1.6


def _y_range(view: View, energies: Sequence[Comparison], counted: Sequence[Comparison]) -> tuple[float, float]:
    values = [0.0, 0.85]
    for c in (*energies, *view.comparisons("train", sorted(view.repeats))):
        if c.saving:
            values += [c.saving.value, *([c.saving.low] if c.saving.low is not None and c.saving.low > -0.5 else [])]
    values += [c.flops_saving.value for c in counted if c.flops_saving]
    low = min(values)
    return (low - 0.04 if low < 0 else 0.0), min(1.0, max(values) + 0.03)


def _legend(view: View, energies: Sequence[Comparison], counted: Sequence[Comparison]) -> tuple[Key, ...]:
    keys = [Key(f"{arm}, run here{view.energy_note}", swatch(view.styles[arm])) for arm in view.methods]
    ink = "var(--ink-soft)"
    if counted:
        sign = (
            f'<path d="M1,7H33" class="line" style="stroke:{ink};stroke-width:1.4;stroke-dasharray:3,4"/>'
            f'<g class="mark" style="stroke:{ink};fill:var(--paper)">{marker("circle", 17, 7, 4.2)}</g>'
        )
        keys.append(Key("open mark: FLOPs saved, counted, nothing was run", _sign(sign)))
    if any(c.protocol == "steady" for c in energies):
        sign = f'<path d="M1,7H33" class="line" style="stroke:{ink};stroke-width:2.6;stroke-dasharray:9,3"/>'
        keys.append(Key("long dashes: steady state, energy per step", _sign(sign)))
    if view.judgement.trends:
        sign = f'<path d="M1,7H33" class="line dots" style="stroke:{ink};stroke-width:1.6;stroke-dasharray:1,5"/>'
        keys.append(Key("dots: projection of the trend, nothing was run there", _sign(sign)))
    if view.repeats:
        sign = f'<g class="mark" style="stroke:var(--arm-base);fill:var(--arm-base)">{marker("circle", 17, 7, 3.4)}</g>'
        keys.append(Key("A/A: dense against dense, should be 0", _sign(sign)))
    return tuple(keys)


def _sign(inner: str) -> Markup:
    return Markup(f'<svg class="swatch" viewBox="0 0 34 14" width="34" height="14" aria-hidden="true">{inner}</svg>')


def _takeaway(view: View, energies: Sequence[Comparison]) -> str:
    parts = []
    for arm in view.methods:
        savings = [c.saving.value for c in energies if c.arm == arm and c.saving]
        if savings:
            low, high = formats.percent(min(savings)), formats.percent(max(savings))
            found = low if low == high else f"{low} to {high}"
            parts.append(f"{arm} saved {found} over {formats.plural(len(savings), 'size')}{view.energy_note}")
    claimed = "; ".join(_claimed(claim).removeprefix("claimed").strip(" :") for claim in _claims(view))
    found = ". ".join(parts) or "No energy of a method is known"
    return f"{found}." + (f" The article claims {claimed}." if claimed else "")


def _describe(view: View, energies: Sequence[Comparison], counted: Sequence[Comparison]) -> list[str]:
    told = [f"{c.arm}, {c.place}, {c.protocol}: {formats.estimate_text(c.saving)}" for c in energies]
    told += [f"{c.arm}, {c.size}: FLOPs saved {formats.estimate_text(c.flops_saving)}" for c in counted]
    return told
