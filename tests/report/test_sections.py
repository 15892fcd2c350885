"""Sections by themselves, and the report as Markdown and JSON."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from judged import judged

from harness.judge.types import Check, Claim, ControlRow, Estimate, Figure, Verdict, VerdictStatus
from harness.report import page
from harness.report.keynumbers import best_control, key_numbers
from harness.report.markdown import table
from harness.report.meaning import PUBLISHED, projections
from harness.report.sections.footprint import amount
from harness.report.sections.verdicts import row, to_hold
from harness.report.view import View
from harness.types import Basis, canonical_json

GOLDEN = Path(__file__).parents[1] / "golden" / "report.md"


@pytest.fixture(scope="module")
def view() -> View:
    return View(*judged())


def _verdict(status: VerdictStatus = VerdictStatus.REFUTED, model_says: str = "", **claim: object) -> Verdict:
    made = Claim.model_validate({"id": "x", "text": "x", "metric": "energy_saving", **claim})
    return Verdict.model_validate(
        {"claim": made, "status": status, "model_says": model_says, "reason": "First. second half 1.5 %. Third."}
    )


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ({"at_least": 0.62, "at_most": 0.75}, "at least 62 % (claimed up to 75 %)"),
        ({"metric": "active_share", "at_least": 0.25, "at_most": 0.38}, "25 % to 38 %"),
        ({"at_least": 0.7}, "at least 70 %"),
        ({"at_most": 0.7}, "at most 70 %"),
        ({"metric": "energy_saving_slope", "at_least": 0.0}, "slope above 0"),
        ({"metric": "re_entry", "at_least": 1}, "units come back"),
        ({"metric": "quality", "quality_metric": "accuracy", "quality_margin": 0.3},
         "accuracy worse by less than 0.3 points"),
        ({"metric": "quality", "quality_metric": "loss", "quality_margin": 0.012, "quality_relative": True},
         "loss worse by less than 1.2 %"),
        ({"metric": "hardware", "hardware": ("A100", "H100")}, "measured on A100 and H100"),
        ({"metric": "none"}, "no figure to test"),
    ],
)  # fmt: skip
def test_what_a_claim_demands_in_words(view: View, claim: dict[str, object], words: str) -> None:
    assert to_hold(view, _verdict(**claim)) == words


def test_a_model_never_wears_the_chip_of_a_verdict(view: View) -> None:
    supported = row(view, _verdict(VerdictStatus.INCONCLUSIVE, "supported by a model"))
    assert (supported.status, supported.word, supported.aside) == (
        "supported", "supported by a model", "verdict: inconclusive",
    )  # fmt: skip
    refuted = row(view, _verdict(VerdictStatus.REFUTED, "contradicted by a model"))
    assert (refuted.status, refuted.aside) == ("refuted", "its energy: contradicted by a model")


def test_nothing_of_a_reason_is_lost(view: View) -> None:
    told = row(view, _verdict())
    assert told.reason == "First."
    assert told.more == ("second half 1.5 %. Third.",)


def test_a_row_shows_the_arm_that_decided_and_what_stands_against_it(view: View) -> None:
    def check(what: str, value: float, outcome: str) -> Check:
        number = Estimate(value=value, low=None, high=None, n=2, unit="share", basis=Basis.MEASURED)
        return Check.model_validate({"what": what, "outcome": outcome, "estimate": number})

    checks = (
        check("sat: saving", 0.1, "not met"),
        check("sat-width: saving", 0.7, "met"),
        check("sat-width: more", 0.8, "met"),
        check("sat-width: loss", 0.9, "not met"),
    )  # fmt: skip
    verdict = _verdict().model_copy(update={"arm": "sat-width", "checks": checks})
    assert [c.what for c in row(view, verdict).found] == ["sat-width: saving", "sat-width: loss"]


def _control(control: str, outcome: str, value: float, flops: float = 1.0) -> ControlRow:
    number = Estimate(value=value, low=value - 0.1, high=value + 0.1, n=3, unit="nats", basis=Basis.MEASURED)
    return ControlRow.model_validate(
        {
            "arm": "sat",
            "control": control,
            "metric": "loss",
            "difference": number,
            "flops_ratio": flops,
            "outcome": outcome,
        }
    )


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([_control("a", "arm better", -0.3), _control("b", "control better", 0.2)], "b"),
        ([_control("a", "no difference shown", 0.01), _control("b", "no difference shown", 0.03)], "b"),
        ([_control("a", "control better", 0.5, flops=0.4), _control("b", "arm better", -0.2)], "b"),  # no fair match
        ([_control("dense-aa", "control better", 0.5)], None),
        ([], None),
    ],
)
def test_best_control_is_the_hardest_fair_one(view: View, rows: list[ControlRow], best: str | None) -> None:
    found = best_control(View(view.judgement.model_copy(update={"controls": tuple(rows)}), view.unsorted), "sat")
    assert (found.control if found else None) == best


def test_key_numbers_are_four_whatever_is_missing(view: View) -> None:
    full = key_numbers(view)
    assert [bool(tile.estimate) for tile in full] == [True] * 4
    bare = View(view.judgement.model_copy(update={"comparisons": (), "controls": ()}), ())
    assert [tile.estimate for tile in key_numbers(bare)] == [None] * 4
    assert all(tile.note for tile in key_numbers(bare))


def test_projections_follow_time_for_money_and_energy_for_energy(view: View) -> None:
    best = view.headline
    assert best is not None
    assert best.saving is not None
    assert best.time_saving is not None
    found = {p.published: p for p in projections(view)}
    assert set(found) == set(PUBLISHED)
    gpt4, data_centres = PUBLISHED[0], PUBLISHED[3]
    assert found[gpt4].found.startswith(f"{100 * (1 - best.time_saving.value):.1f} [")
    assert found[data_centres].found.startswith(f"{1000 * (1 - best.saving.value):.0f} [")
    assert found[gpt4].claimed == "25.0 to 38.0 million USD"  # the article's own 10 M to 2.5 M


def test_amounts_with_a_band() -> None:
    made = Figure(name="x", value=0.0003, low=0.0002, high=0.0009, unit="USD", basis=Basis.MODELLED, source="s")
    assert amount(made) == "300 µUSD [200 to 900]"
    assert amount(None) == "not known"


def test_wasted_energy_is_that_of_attempts_that_came_to_nothing(view: View) -> None:
    joules, known, unknown = view.wasted_joules
    lost = [r for r in view.unsorted if not r.ok]
    assert (known, unknown) == (3, 0)
    assert joules == pytest.approx(sum(r.energy.joules for r in lost if r.energy and r.energy.joules))


@pytest.mark.parametrize(
    ("scope", "flops"), [("energy", "48.5 % (exact count), counted"), ("all", "invalid: coverage 81 %")]
)
def test_an_invalid_energy_leaves_the_counted_flops_standing(view: View, scope: str, flops: str) -> None:
    spoiled = [
        c.model_copy(update={"invalid": "coverage 81 %", "invalid_scope": scope}) for c in view.judgement.comparisons
    ]
    text = page.render_markdown(view.judgement.model_copy(update={"comparisons": tuple(spoiled)}), view.unsorted)
    line = next(line for line in text.splitlines() if line.startswith("| sat | 0.1M | train |"))
    cells = [cell.strip() for cell in line.split("|")[5:]]
    assert cells[:4] == ["invalid: coverage 81 %"] * 4
    assert cells[4] == flops


def test_markdown_is_the_golden_one() -> None:
    """A reader of a change compares this file; after a wanted change, write it anew from the failing output."""
    text = page.render_markdown(*judged(seeds=(0, 1), sizes=("0.1M", "1M")))
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_markdown_tables_hold_together() -> None:
    text = table(["a", "b"], [["x | y", "line\nbreak"], ["**bold** tail", "✓ **verified**"]])
    assert text.splitlines()[2] == r"| x \| y | line break |"
    assert text.splitlines()[3] == r"| \*\*bold\*\* tail | ✓ **verified** |"
    rows = page.render_markdown(*judged()).splitlines()
    for line, after in itertools.pairwise(rows):
        if line.startswith("|") and after.startswith("|"):
            assert line.replace(r"\|", "").count("|") == after.replace(r"\|", "").count("|")


def test_json_is_canonical_and_complete(view: View) -> None:
    text = page.render_json(view.judgement, view.unsorted)
    document = json.loads(text)
    assert text == canonical_json(document) + "\n"
    assert document["judgement"] == view.judgement.model_dump(mode="json")
    assert len(document["runs"]) == len(view.unsorted)
    failed = [run for run in document["runs"] if run["status"] != "ok"]
    assert {run["reason"] for run in failed} == {r.reason for r in view.unsorted if not r.ok}
    assert all(run["energy"] is None or "basis" in run["energy"] for run in document["runs"])


def test_brackets_that_are_no_intervals_say_so():
    """The foot of the page calls brackets 95 % intervals; in the footprint they are a range and a band."""
    text = page.render_html(*judged())
    assert "Brackets are no intervals here" in text[text.index('id="footprint"') :]


def test_a_control_that_holm_leaves_open_is_not_called_equal(view):
    off_0 = Estimate(value=0.09, low=0.04, high=0.13, n=9, unit="nats per token", basis=Basis.MEASURED)
    row = ControlRow(
        arm="sat", control="dense-small", metric="loss", difference=off_0, flops_ratio=1.0,
        outcome="no difference shown",
    )  # fmt: skip
    tile = key_numbers(View(view.judgement.model_copy(update={"controls": (row,)}), view.unsorted))[2]
    assert "not decided at equal FLOPs" in tile.note
    html = page.render_html(view.judgement.model_copy(update={"controls": (row,)}), view.unsorted)
    assert "its interval leaves out 0 by itself" in html
