"""The quick form of the accuracy study: the same code as the table in docs/accuracy.md, on fewer scenarios."""

from __future__ import annotations

from pathlib import Path

import meter_accuracy as study
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def outcomes():
    return study.scenarios(40, 0, longest_s=90.0)


def test_the_stated_interval_covers_the_truth(outcomes):
    assert sum(o.covered for o in outcomes) >= 0.95 * len(outcomes)
    assert sum(o.covered_apart for o in outcomes) >= 0.95 * len(outcomes)


def test_every_aliased_scenario_is_flagged(outcomes):
    aliased = [o for o in outcomes if o.aliased]
    assert len(aliased) >= 5
    assert [o.case for o in aliased if not o.flagged] == []


def test_off_resonance_we_are_nearer_than_plain_reads_of_the_counter(outcomes):
    clean = [o for o in outcomes if o.clean]
    ours, plain = (
        sorted(abs(study.ESTIMATORS[name](o)) for o in clean)
        for name in ("ours, counter", "naive: counter by plain reads")
    )
    middle = len(clean) // 2
    assert ours[middle] < 0.005
    assert ours[middle] < plain[middle]


def test_what_is_stated_is_not_just_wide(outcomes):
    """Off resonance all that is stated beside gain stays a small part of the energy, in windows from 20 s on."""
    for o in outcomes:
        if o.clean and o.case.window_s >= 20:
            apart_j = (o.energy.uncertainty_j**2 - o.energy.parts["sensor gain"] ** 2) ** 0.5
            assert apart_j < 0.05 * o.energy.joules


def test_savings_on_one_card_are_right_within_a_point():
    for true, measured in study.savings(3, 0, longest_s=110.0):
        assert measured == pytest.approx(true, abs=0.01)


def test_the_table_is_in_the_document():
    table = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
    assert f"{study.SCENARIOS} scenarios" in table
    assert f"largest error of {study.PAIRS}" in table
