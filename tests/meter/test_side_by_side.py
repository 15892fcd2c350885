"""The study that holds Zeus, CodeCarbon and ours against a known truth."""

from __future__ import annotations

from statistics import median

import pytest
import side_by_side as study

from harness.meter.energy import energy_of
from harness.meter.simulated.load import square_wave
from harness.meter.simulated.play import play
from harness.meter.simulated.scenario import Card, Counter, Fault, Scenario


@pytest.fixture(scope="module")
def results() -> list[study.Result]:
    return [study.run(number, longest_s=30.0) for number in range(12)]


def test_ours_is_nearer_to_the_truth_than_both_others(results: list[study.Result]) -> None:
    errors = {
        tool: median(abs(error) for result in results if (error := result.errors[tool]) is not None)
        for tool in (study.OURS, *study.TOOLS)
    }
    assert errors[study.OURS] < min(errors[tool] for tool in study.TOOLS)
    assert max(errors.values()) < 0.05  # nobody is wrong by a unit, a card or a window


def test_a_scenario_gives_the_same_result_again(results: list[study.Result]) -> None:
    assert study.run(7, longest_s=30.0).errors == results[7].errors
    assert results[7].cards > 1


@pytest.mark.parametrize("faults", study.FAULTS.values(), ids=study.FAULTS)
def test_no_mishap_makes_ours_claim_a_wrong_figure(faults: tuple[Fault, ...]) -> None:
    load = square_wave(0.333, 500.0, 200.0)
    played = play(Scenario(load=load, cards=(Card(counter=Counter(of="power"), faults=faults),)), study._END_S + 3.0)
    window = study.window_of(played, study.FAULT_START_S, study.FAULT_WINDOW_S)
    energy = energy_of(played.info, played.samples, *window)
    if energy.interval_j is None:
        assert energy.joules is None
        assert energy.reason
    else:
        assert energy.interval_j[0] <= played.true_energy_j(*window) <= energy.interval_j[1]


def test_a_cell_may_hold_a_bar() -> None:
    assert study.markdown([["h|1", "h2"], ["x", "y"]]) == "| h\\|1 | h2 |\n|---|---|\n| x | y |"
