"""What the figures draw: every point at its number, counted unlike run, controls where they stand."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged import judged
from markupsafe import Markup
from page_reader import Element, read

from harness.judge.types import Comparison
from harness.record.record import ActivityPoint, Record
from harness.report import svg
from harness.report.figures import activity, curves, scaling, tradeoff
from harness.report.palette import styles
from harness.report.reach import first_reached, reaches
from harness.report.view import View
from harness.types import Basis


@pytest.fixture(scope="module")
def view() -> View:
    return View(*judged())


def _marks(panel: Markup) -> list[Element]:
    return [e for e in read(str(panel)).all("g") if e.has_class("mark")]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 10))
def test_ticks_are_round_and_inside(low: float, width: float, count: int) -> None:
    found = svg.ticks(low, low + width, count)
    assert 1 <= len(found) <= 2 * count + 2
    assert all(low - 1e-6 * width <= t <= low + width * (1 + 1e-6) for t in found)
    steps = {round((b - a) / width, 6) for a, b in itertools.pairwise(found)}
    assert len(steps) <= 1 or max(steps) - min(steps) < 1e-4


@given(st.floats(1e-3, 1e10), st.floats(1.2, 1e8))
def test_log_ticks_are_inside_and_few(low: float, factor: float) -> None:
    found = svg.log_ticks(low, low * factor, 6)
    assert len(found) <= 12
    assert found == sorted(found)
    assert all(low * 0.99 <= t <= low * factor * 1.01 for t in found)


@given(st.lists(st.floats(0, 300), min_size=1, max_size=12))
def test_labels_never_lie_on_each_other(wanted: list[float]) -> None:
    placed = svg.spread(sorted(wanted), 14, 0, 300)
    assert all(b - a >= 14 - 1e-6 for a, b in itertools.pairwise(placed))
    assert placed[-1] <= 300


@given(st.lists(st.floats(-1e6, 1e6), max_size=5))
def test_an_axis_always_has_a_width(values: list[float]) -> None:
    low, high = svg.padded(values)
    assert low < high
    assert all(low <= v <= high for v in values)


def test_arms_differ_in_shape_or_dash_as_well_as_in_colour() -> None:
    controls = [f"control-{i}" for i in range(8)]
    found = styles("dense", ["sat", "sat-width", "sat-3", "sat-4"], controls)
    assert len({(s.marker, s.dash, s.role) for s in found.values()}) == len(found)
    assert len({(s.colour, s.marker) for s in found.values()}) == len(found)


def test_scaling_draws_each_saving_at_its_number(view: View) -> None:
    picture = scaling.draw(view)
    tips = {mark.all("title")[0].text: mark for mark in _marks(picture.panels[0])}
    wanted = [c for p in ("train", "steady") for c in view.comparisons(p, view.methods)]
    heights = []
    for c in wanted:
        assert c.saving is not None
        mark = next(m for tip, m in tips.items() if tip.startswith(f"{c.arm}, {c.size}, {c.protocol}:"))
        shape = mark.all("circle", "polygon")[0]
        y = float(shape.attributes["cy"]) if shape.tag == "circle" else _middle(shape)
        heights.append((c.saving.value, y))
    (s0, y0), (s1, y1) = min(heights), max(heights)
    for saving, y in heights:  # one straight scale for all of them
        assert y == pytest.approx(y0 + (saving - s0) / (s1 - s0) * (y1 - y0), abs=0.2)


def _middle(shape: Element) -> float:
    ys = [float(pair.split(",")[1]) for pair in shape.attributes["points"].split()]
    return (min(ys) + max(ys)) / 2


def test_counted_marks_are_open_and_say_so(view: View) -> None:
    marks = _marks(scaling.draw(view).panels[0])
    counted = [m for m in marks if "counted, not run" in m.text]
    assert {"sat, 13B", "sat-width, 13B"} <= {m.text.split(":")[0] for m in counted}
    assert all("fill:var(--paper)" in m.attributes["style"] for m in counted)
    others = [m for m in marks if m not in counted]
    assert others
    assert not [m for m in others if "fill:var(--paper)" in m.attributes["style"]]


def test_claimed_bands_are_drawn_and_labelled(view: View) -> None:
    panel = read(str(scaling.draw(view).panels[0]))
    labels = [t.text for t in panel.all("text") if t.has_class("claimed")]
    assert labels == ["claimed: 62 to 75 %", "claimed below 1 B: 40 to 50 %", "claimed above 10 B: 70 % or more"]
    assert len([r for r in panel.all("rect") if "band" in r.attributes.get("class", "")]) == 2  # a line has no width


def test_a_projection_starts_where_the_runs_end(view: View) -> None:
    panel = read(str(scaling.draw(view).panels[0]))
    dots = [e for e in panel.all("polyline") if e.has_class("dots")]
    assert len(dots) == 1
    shaded = next(r for r in panel.all("rect") if r.has_class("metered-range"))
    right = float(shaded.attributes["x"]) + float(shaded.attributes["width"])
    start = float(dots[0].attributes["points"].split(",")[0])
    assert float(shaded.attributes["x"]) < start < right  # 3.1 M, inside the range that reaches to 10.4 M
    nothing = View(view.judgement.model_copy(update={"trends": ()}), view.unsorted)
    assert "dots" not in str(scaling.draw(nothing).panels[0])


def test_invalid_comparisons_are_not_drawn(view: View) -> None:
    spoiled = view.judgement.model_copy(
        update={"comparisons": tuple(c.model_copy(update={"invalid": "coverage"}) for c in view.judgement.comparisons)}
    )
    bad = View(spoiled, view.unsorted)
    assert not [m for m in _marks(scaling.draw(bad).panels[0]) if "train" in m.text]
    assert tradeoff.draw(bad).missing
    assert bad.headline is None


def _with(view: View, arm: str, saving: float, loss: float) -> tuple[Comparison, list[Comparison]]:
    """The arms of one size, with ``arm`` moved to another place."""
    size = view.trained_sizes[0]
    moved = []
    for c in view.comparisons("train"):
        if c.size != size:
            continue
        if c.arm == arm:
            assert c.saving is not None
            place = {"saving": c.saving.model_copy(update={"value": saving})}
            quality = {"quality": {**c.quality, "loss": c.quality["loss"].model_copy(update={"value": loss})}}
            moved.append(c.model_copy(update={**place, **quality}))
        else:
            moved.append(c)
    return next(c for c in moved if c.arm == arm), moved


@pytest.mark.parametrize(
    ("saving", "loss", "name"),
    [
        (0.99, -1.0, ""),  # cheaper and better than everything
        (0.10, 0.5, "any"),  # dearer and worse than controls
        (-0.5, 0.0, "any"),  # dense itself is as good for less
        (0.10, -0.5, ""),  # dear, but better than all
    ],
)
def test_place_against_the_controls(view: View, saving: float, loss: float, name: str) -> None:
    metric = view.metric
    assert metric is not None
    moved, arms = _with(view, "sat", saving, loss)
    found = tradeoff.place(view, metric, moved, arms)
    assert found == "" if name == "" else found in {*view.controls, view.baseline}


@given(st.floats(0.0, 0.9), st.floats(-0.3, 0.3))
def test_the_hatched_region_is_the_same_as_the_words(saving: float, loss: float) -> None:
    view = _SHARED
    metric = view.metric
    assert metric is not None
    moved, arms = _with(view, "sat", saving, loss)
    points = [(1.0, 0.0)] + [
        (1 - c.saving.value, c.quality["loss"].value)
        for c in arms
        if c.saving and c.arm in view.controls and c.arm != "dense-aa"
    ]
    limit = 1 - tradeoff.SAME_ENERGY
    by_hand = any(x * limit <= 1 - saving and y <= loss for x, y in points)
    assert bool(tradeoff.place(view, metric, moved, arms)) == by_hand


_SHARED = View(*judged(seeds=(0, 1), sizes=("0.1M", "1M")))


def test_an_undeclared_metric_gets_no_direction(view: View) -> None:
    foreign = [
        r.model_copy(update={"spec": r.spec.model_copy(update={"workload": "not-installed"})}) for r in view.unsorted
    ]
    blind = View(view.judgement, foreign)
    assert blind.undeclared
    picture = tradeoff.draw(blind)
    assert "not declared" in picture.takeaway
    assert not any("better)" in str(panel) for panel in picture.panels)
    assert not any("dominated" in str(panel) for panel in picture.panels)
    assert reaches(blind) == []


@pytest.mark.parametrize(
    ("points", "target", "sign", "joules"),
    [
        ([(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)], 1.5, 1.0, 2.5),
        ([(1.0, 3.0), (2.0, 2.0)], 2.0, 1.0, 2.0),
        ([(1.0, 3.0), (2.0, 2.0)], 1.9, 1.0, None),
        ([(1.0, 1.0)], 2.0, 1.0, 1.0),  # there from the start
        ([(1.0, 50.0), (2.0, 70.0)], 60.0, -1.0, 1.5),  # higher is better
        ([(1.0, 3.0), (2.0, 2.0), (3.0, 2.5), (4.0, 1.0)], 2.25, 1.0, 1.75),  # the first time counts
    ],
)
def test_energy_to_reach(points: list[tuple[float, float]], target: float, sign: float, joules: float | None) -> None:
    assert first_reached(points, target, sign) == joules


def test_reaches_keeps_misses(view: View) -> None:
    found = {(r.arm, r.size): r for r in reaches(view)}
    assert "dense" not in {arm for arm, _ in found}
    assert "dense-aa" not in {arm for arm, _ in found}
    sat = found["sat", "3M"]
    assert (sat.runs, sat.shares, sat.mean) == (3, (), None)  # planted 0.045 nats worse than dense
    for reach in found.values():
        assert len(reach.shares) <= reach.runs


def test_mean_curve_is_the_mean_of_each_evaluation() -> None:
    assert curves.mean_curve([[(1.0, 4.0), (3.0, 2.0)], [(3.0, 2.0), (5.0, 1.0)]]) == [(2.0, 3.0), (4.0, 1.5)]


def test_a_curve_without_energy_is_not_drawn_at_zero(view: View) -> None:
    blind = [
        r.model_copy(update={"curve": tuple(p.model_copy(update={"energy_j": None}) for p in r.curve)})
        for r in view.unsorted
    ]
    assert curves.draw(View(view.judgement, blind)).missing


def test_active_share_is_averaged_over_steps() -> None:
    record: Record = next(
        r for r in judged(seeds=(0,), sizes=("1M",))[1] if r.spec.arm == "sat" and r.ok and r.activity
    )
    points = (
        ActivityPoint(step=0, active_units=0.2, active_parameters=0.3, entries=0),
        ActivityPoint(step=50, active_units=1.0, active_parameters=1.0, entries=4, exits=2, returns=1),
    )
    found = activity.average(record.model_copy(update={"activity": points, "steps": 200}))
    assert found is not None
    assert found.units == pytest.approx(0.25 * 0.2 + 0.75)
    assert found.parameters == pytest.approx(0.25 * 0.3 + 0.75)
    assert (found.entries, found.exits, found.returns) == (4, 2, 1)
    assert activity.average(record.model_copy(update={"activity": ()})) is None


def test_seeds_are_faint_and_many_seeds_only_their_mean(view: View) -> None:
    few = read(str(curves.draw(view).panels[0]))
    faint = [e for e in few.all("polyline") if "opacity:0.35" in e.attributes["style"]]
    assert len(faint) == 3 * 7 - 1  # seven arms with three seeds, one run of freeze is lost
    seeds = range(14)
    many = read(str(curves.draw(View(*judged(seeds=seeds, sizes=("0.1M", "1M")))).panels[0]))
    assert not [e for e in many.all("polyline") if "opacity:0.35" in e.attributes["style"]]


def test_no_number_in_a_figure_is_broken(view: View) -> None:
    for draw in (scaling.draw, tradeoff.draw, curves.draw, activity.draw):
        picture = draw(view)
        for panel in [*picture.panels, *picture.narrow]:
            assert not re.search(r"\b(nan|inf|None)\b", str(panel))
            box = read(str(panel)).children[0].attributes["viewbox"].split()
            for mark in _marks(panel):
                for circle in mark.all("circle"):
                    assert 0 <= float(circle.attributes["cx"]) <= float(box[2])
                    assert 0 <= float(circle.attributes["cy"]) <= float(box[3])


def test_measured_figures_have_no_watermark() -> None:
    view = View(*judged(Basis.MEASURED, seeds=(0, 1), sizes=("0.1M", "1M")))
    assert "watermark" not in str(scaling.draw(view).panels[0])
    assert "(modelled)" not in str(scaling.draw(view).panels[0])
