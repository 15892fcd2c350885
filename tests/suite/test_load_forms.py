"""The friendly forms of a suite file, and changes from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.suite.load import SuiteError, duration_s, loads
from harness.suite.spec import Arm, Protocol
from harness.suite.units import parse_duration
from harness.types import UserError

pytestmark = pytest.mark.usefixtures("toys")

TEXT = """\
name: demo
workload: toy
recipe: {steps: 40, batch_size: 2}
arms:
  again: dense
  sat:
  half: {method: sat, share: 0.25, options: {interval: 5}}
  short: {method: dense-short, match: half}
experiments:
  - {protocol: train, sizes: [0.1M], seeds: 2, recipe: {steps: 50}, arms: [dense, again, sat, half, short]}
  - {protocol: steady, sizes: [1B], seeds: [7, 3], arms: [dense, sat]}
  - {protocol: count, sizes: [13B], arms: [dense, sat]}
timeout: 10m
budget: 1h30m
"""


def test_arms_in_every_form() -> None:
    assert loads(TEXT).arms == {
        "again": Arm(method="dense"),
        "sat": Arm(method="sat"),
        "half": Arm(method="sat", options={"share": 0.25, "interval": 5}),
        "short": Arm(method="dense-short", match="half"),
        "dense": Arm(method="dense"),  # a method's own name needs no entry
    }


def test_arms_as_a_list_and_left_out_of_an_experiment() -> None:
    suite = loads(
        "name: d\nworkload: toy\narms: [sat, dense]\nexperiments: [{protocol: train, sizes: [0.1M], seeds: 1}]"
    )
    assert suite.experiments[0].arms == ("sat", "dense")


def test_seeds_as_a_number_a_list_or_not_needed() -> None:
    assert [experiment.seeds for experiment in loads(TEXT).experiments] == [(0, 1), (7, 3), (0,)]


def test_durations_become_seconds() -> None:
    suite = loads(TEXT)
    assert (suite.timeout_s, suite.budget_s, suite.idle_s) == (600.0, 5400.0, 2.0)
    assert loads(TEXT + "idle: 0\n").idle_s == 0.0


def test_the_suites_recipe_is_under_the_experiments() -> None:
    train, steady, _ = loads(TEXT).experiments
    assert train.recipe == {"steps": 50, "batch_size": 2}
    assert steady.recipe == {"steps": 40, "batch_size": 2}


def test_title_defaults_to_the_name() -> None:
    assert loads(TEXT).title == "demo"
    assert [e.protocol for e in loads(TEXT).experiments] == [Protocol.TRAIN, Protocol.STEADY, Protocol.COUNT]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("9m", 540), ("1h30m", 5400), ("1.5h", 5400), ("1h1m1s", 3661), (90, 90), ("0.5s", 0.5)],
)
def test_duration(text: str | int, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert duration_s(str(text)) == seconds


@pytest.mark.parametrize("text", ["", "9", "9 m", "30m1h", "m", "1d", "-1s", "0s", "1e3s", "nan", "99999999h"])
def test_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


def test_not_a_duration_on_the_command_line() -> None:
    with pytest.raises(UserError, match="'9 minutes' is not a duration"):
        duration_s("9 minutes")


def test_set_changes_a_value_before_it_is_checked() -> None:
    suite = loads(
        TEXT,
        changes=[
            "experiments[0].seeds=5",
            "experiments[1].sizes=[0.1M, 0.2M]",
            "experiments[2].recipe.steps=7",
            "arms.half.share=0.75",
            "arms.new-one={method: sat, interval: 9}",
            "footprint.pue=1.09",
            "footprint.pue_source=a=b",
            "device=cpu",
        ],
    )
    assert suite.experiments[0].seeds == (0, 1, 2, 3, 4)
    assert suite.experiments[1].sizes == ("0.1M", "0.2M")
    assert suite.experiments[2].recipe["steps"] == 7
    assert suite.arms["half"].options["share"] == 0.75
    assert suite.arms["new-one"] == Arm(method="sat", options={"interval": 9})
    assert (suite.footprint.pue, suite.footprint.pue_source) == (1.09, "a=b")


def test_set_mends_a_mistake_of_the_file() -> None:
    broken = TEXT.replace("timeout: 10m", "timeout: 10:00")
    with pytest.raises(SuiteError):
        loads(broken)
    assert loads(broken, changes=["timeout=8m"]).timeout_s == 480


HOW = "write it as path=value, such as experiments[0].seeds=5"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("seeds", HOW),
        ("=5", HOW),
        ("a..b=5", HOW),
        ("experiments[0]seeds=5", HOW),
        ("experiments[9].seeds=5", "experiments has 3 items, so the last is [2]"),
        ("experiments.seeds=5", "experiments is a list; say which item, such as experiments[0].seeds"),
        ("name.first=5", "name is not a mapping"),
        ("name[0]=5", "name is not a list"),
        (
            "budget=9:00",
            "budget: YAML reads 9:00 as a number to base 60; write 90s, 1m30s or 1h30m for a duration",
        ),
        (
            "budget=[1",
            "budget: is not valid YAML: expected ',' or ']', but got '<stream end>' (while parsing a flow sequence)",
        ),
        (
            "experiments[0].seeds=none",
            "experiments[0].seeds: must be a number of seeds such as 3, or a list of them such as [0, 1, 2]",
        ),
        (
            "experiments[0].sizes=[0.1N]",
            "experiments[0].sizes[0]: unknown size '0.1N', did you mean '0.1M'? known: 0.1M, 0.2M, 1B, 13B",
        ),
        ("arms.half.shar=1", "arms.half.shar: unknown key 'shar', did you mean 'share'? known: share, interval, mode"),
        (
            "arms.half.share=1e-1",
            "arms.half.share: must be a number, not '1e-1'; YAML takes 1e-1 for text, write 0.1",
        ),
    ],
)
def test_a_wrong_change_is_reported_as_such(change: str, expected: str) -> None:
    with pytest.raises(SuiteError) as raised:
        loads(TEXT, "s.yaml", changes=[change])
    assert str(raised.value) == f"--set {change}: {expected}"


def test_a_meter_may_name_a_scenario_by_name_or_a_file_beside_the_suite(tmp_path: Path) -> None:
    assert loads(TEXT + "meter: simulated:h100-saving\n").meter == "simulated:h100-saving"
    (tmp_path / "mine.yaml").write_text("load: {power_w: 3}\n")
    beside = tmp_path / "mine.yaml"
    assert loads(TEXT + "meter: simulated:mine.yaml\n", folder=tmp_path).meter == f"simulated:{beside}"
    assert loads(TEXT + f"meter: simulated:{beside}\n").meter == f"simulated:{beside}"


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("h100-savings", "'h100-savings' is neither a file nor a shipped scenario, did you mean 'h100-saving'"),
        ("nowhere.yaml", "'nowhere.yaml' is neither a file nor a shipped scenario; shipped: a100, gh200, h100"),
        ("broken.yaml", "broken.yaml: not a scenario: laod: there is no such key, did you mean 'load'"),
        ("a" * 3000, "is neither a file nor a shipped scenario"),
    ],
)
def test_a_scenario_that_is_none_is_a_mistake_of_the_suite(tmp_path: Path, argument: str, says: str) -> None:
    (tmp_path / "broken.yaml").write_text("laod: {power_w: 3}\n")
    with pytest.raises(SuiteError) as raised:
        loads(TEXT + f"meter: simulated:{argument}\n", "suite.yaml", folder=tmp_path)
    (problem,) = raised.value.problems
    assert problem.startswith("suite.yaml:15: meter: ")
    assert says in problem
