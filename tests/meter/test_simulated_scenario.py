"""The scenario file: what it may say, what it is told when it says nonsense, and what is shipped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from simulated_cases import scenario_file

from harness.meter.energy import energy_of
from harness.meter.simulated.load import Load
from harness.meter.simulated.play import play
from harness.meter.simulated.scenario import (
    Card,
    Counter,
    Fault,
    FaultKind,
    Part,
    Scenario,
    Sensor,
    find,
    load_scenario,
    shipped,
)
from harness.meter.validity import reasons_against
from harness.types import UserError

NS = 1_000_000_000


def test_an_empty_file_is_one_card_at_rest(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing\n")
    scenario = load_scenario(path)
    assert scenario.model_copy(update={"title": ""}) == Scenario()
    assert (len(scenario.cards), scenario.load_of(None).power_at(1)) == (1, 0.0)


def test_an_arm_has_its_own_load_or_that_of_all(tmp_path):
    path = scenario_file(tmp_path, load={"power_w": 500}, arms={"sat": {"power_w": 200}})
    scenario = load_scenario(path)
    assert [scenario.load_of(arm).power_at(0) for arm in ("sat", "dense", None)] == [200, 500, 500]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"load": {}}, "load: give either power_w or curve"),
        ({"load": {"power_w": 1, "curve": [[0, 1]]}}, "load: give either power_w or curve"),
        ({"load": {"power_w": -1}}, "load.power_w: Input should be greater than or equal to 0"),
        ({"load": {"curve": [[1, 1]]}}, "curve must start at 0"),
        ({"load": {"curve": [[0, 1], [3, 1], [2, 1]]}}, "its seconds must rise"),
        ({"load": {"curve": [[0, 1], [3, 1]], "repeat_s": 3}}, "longer than it"),
        ({"arms": {"sat": {}}}, "arms.sat: give either"),
        ({"laod": {"power_w": 1}}, "laod: there is no such key, did you mean 'load'"),
        (
            {"cards": [{"sensor": {"priod_s": 1}}]},
            "cards.0.sensor.priod_s: there is no such key, did you mean 'period_s'",
        ),
        ({"cards": []}, "cards: Tuple should have at least 1 item"),
        ({"cards": [{"sensor": {"period_s": 0}}]}, "cards.0.sensor.period_s: Input should be greater than 0"),
        ({"cards": [{"gain": ".inf"}]}, "cards.0.gain"),
        ({"cards": [{"counter": {"of": "hope"}}]}, "cards.0.counter.of: Input should be 'sensor' or 'power'"),
        ({"cards": [{"counter": {"scope": "module"}}]}, "cards.0: a counter of the module needs a module"),
        ({"cards": [{"faults": [{"kind": "sleepy"}]}]}, "cards.0.faults.0.kind: Input should be 'missing'"),
        ({"cards": [{"faults": [{"kind": "jump"}]}]}, "jump needs a value"),
        ({"cards": [{"faults": [{"kind": "lost", "value": 3}]}]}, "lost takes no value"),
        ({"cards": [{"faults": [{"kind": "reset", "until_s": 3}]}]}, "reset happens at once"),
        ({"cards": [{"faults": [{"kind": "missing", "from_s": 3, "until_s": 3}]}]}, "until_s must be later"),
        ({"cards": [{"faults": [{"kind": "foreign", "value": 1.5}]}]}, "a whole number of processes"),
        ({"cards": [{"faults": [{"kind": "slow", "value": -1}]}]}, "value of slow must not be negative"),
        ({"cards": [{"faults": [{"kind": "lost", "readings": ["power"]}]}]}, "lost takes no readings"),
        ({"driver": "new"}, "driver: String should match"),
        ([1, 2], "the whole: Input should be a valid dictionary"),
    ],
)
def test_nonsense_is_refused_with_its_place(tmp_path, content, says):
    path = scenario_file(tmp_path, content)
    with pytest.raises(UserError) as caught:
        load_scenario(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def test_files_that_are_none_are_refused(tmp_path):
    broken = tmp_path / "broken.yaml"
    for text, says in (("a: [", "not YAML"), ("load: {power_w: 1}\nload: {power_w: 2}\n", "'load' is given twice")):
        broken.write_text(text)
        with pytest.raises(UserError, match=says):
            load_scenario(broken)
    with pytest.raises(UserError, match="can't be read: No such file"):
        load_scenario(tmp_path / "nowhere.yaml")


def test_a_scenario_is_found_by_name_or_by_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "h100").write_text("title: mine\n")
    (tmp_path / "mine.yaml").write_text("title: mine\n")
    assert find("h100") == shipped()["h100"]  # a name is a name, whatever lies about
    assert find("./h100") == Path("h100")
    assert find("mine.yaml") == Path("mine.yaml")
    with pytest.raises(UserError, match=r"'h100-savings' is neither.*did you mean 'h100-saving'.*shipped: a100, gh200"):
        find("h100-savings")


def test_identity_is_of_all_that_matters():
    one = Scenario()
    assert one.identity == Scenario(title="other words").identity
    assert one.identity != Scenario(driver="470.1").identity
    assert one.identity != Scenario(arms={"sat": one.load}).identity


# What is shipped


@pytest.mark.parametrize("name", shipped())
def test_shipped_scenarios_say_what_they_are(name):
    text = shipped()[name].read_text()
    scenario = load_scenario(shipped()[name])
    assert 10 < len(scenario.title) < 100
    assert "\n# " in text, "a comment that says what it is for"
    assert len({scenario.identity for scenario in map(load_scenario, shipped().values())}) == len(shipped())


def heard(name: str, seconds: float = 62.0, **options):
    """Energy of a shipped scenario between its second and its last but one second, and the truth of its scope."""
    played = play(load_scenario(shipped()[name]), seconds, **options)
    window = (played.start_ns + NS, played.start_ns + round((seconds - 1) * NS))
    energy = energy_of(played.info, played.samples, *window)
    scope = energy.scope if energy.scope in {"gpu", "module", "memory"} else "gpu"
    return energy, played.true_energy_j(*window, scope=scope)


@pytest.mark.parametrize(
    ("name", "bias"),
    [
        ("h100", 0.0),
        ("h100-saving", 0.05),
        ("h100-true-counter", 0.0),
        ("gh200", 0.0),
        ("h100-mig", 0.0),
        ("v100-old-driver", 0.0),
        ("a100", -0.04),
    ],
)
def test_shipped_cards_read_their_truth_times_their_gain(name, bias):
    energy, truth = heard(name)
    assert energy.joules == pytest.approx(truth * (1 + bias), rel=0.01)
    assert energy.basis == "simulated"


def test_the_aliased_scenario_reads_far_too_much():
    energy, truth = heard("h100-aliased")
    assert truth / 60 == pytest.approx(390)
    assert energy.joules / truth == pytest.approx(600 / 390, rel=0.01)


def test_the_planted_saving_is_on_the_cards_whatever_their_gain():
    scenario = load_scenario(shipped()["h100-saving"])
    joules = {}
    for arm in ("dense", "sat", "dense-aa"):
        played = play(scenario, 32, load=scenario.load_of(arm))
        joules[arm] = energy_of(played.info, played.samples, played.start_ns + NS, played.start_ns + 31 * NS).joules
    assert joules["sat"] / joules["dense"] == pytest.approx(0.4, rel=0.005)
    assert joules["dense-aa"] / joules["dense"] == pytest.approx(1.0, rel=1e-3)


def test_eight_cards_read_differently_and_are_added_up():
    scenario = load_scenario(shipped()["h100-x8"])
    gains = [card.gain for card in scenario.cards]
    assert len(set(gains)) == 8
    energy, truth = heard("h100-x8", 22)
    scales = [card.load_scale for card in scenario.cards]
    mean_gain = sum(g * s for g, s in zip(gains, scales, strict=True)) / sum(scales)
    assert energy.joules / truth == pytest.approx(mean_gain, rel=0.01)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("h100-lost", "was lost while it was measured"),
        ("h100-reset", "the counter was reset"),
        ("h100-shared", "was shared with 2 foreign processes"),
        ("h100-throttled", "the power limit of GPU-SIMULATED-.* changed"),
    ],
)
def test_a_faulty_scenario_makes_a_run_of_ten_seconds_invalid(name, says):
    played = play(load_scenario(shipped()[name]), 12)
    window = (played.start_ns + NS, played.start_ns + 11 * NS)
    assert any(re.search(says, reason) for reason in reasons_against(played.info, played.samples, [window]))
    sound = play(load_scenario(shipped()["h100"]), 12)
    assert reasons_against(sound.info, sound.samples, [window]) == []


def test_a_virtual_gpu_without_readings_can_not_be_metered():
    with pytest.raises(UserError, match="neither energy nor power"):
        play(load_scenario(shipped()["vgpu"]), 1)


# What its page says

PAGE = (Path(__file__).parents[2] / "docs" / "simulated-card.md").read_text(encoding="utf-8")


def test_the_page_names_every_scenario_key_and_fault():
    named = set(re.findall(r"`([a-z_0-9-]+)`", PAGE))
    assert set(shipped()) <= named
    assert {kind.value for kind in FaultKind} <= named
    for model in (Scenario, Card, Sensor, Counter, Fault):
        assert set(model.model_fields) <= named, model
    for model in (Load, Part):
        assert all(key in PAGE for key in model.model_fields), model


def test_the_pages_examples_work(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "example.yaml"
    path.write_text(example)
    played = play(load_scenario(path), 25)
    assert reasons_against(played.info, played.samples, [(played.start_ns + NS, played.start_ns + 24 * NS)])
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    found = {}
    exec(code, found)
    assert found["read"] == pytest.approx(1.03 * found["true"], rel=0.01)
