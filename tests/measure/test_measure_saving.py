"""Pairs to savings, plans to numbers: pure, against plain formulas."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as oracle

from harness.measure.cards import cards_of
from harness.measure.pairs import first_arms
from harness.measure.saving import complete_pairs, pairs_for, savings
from harness.measure.types import Figure, MeterPlan, Plan, Role, Run, RunFigures
from harness.meter.base import Energy
from harness.meter.simulated.nvml import SimulatedNvml
from harness.meter.simulated.scenario import Card, Scenario
from harness.types import Basis, UserError

METER = MeterPlan(label="nvml", name="nvml", why="", asked=True)


def plan(pairs: int, **fields: Any) -> Plan:
    common: dict[str, Any] = {"directory": "", "machine": {}, "sample_hz": 20.0, "idle_s": 0.0}
    return Plan(kind="pairs", argv={"a": ("a",), "b": ("b",)}, meters=(METER,), pairs=pairs, **(common | fields))


def made(pair: int, arm: str, joules: float | None, seconds: float = 10.0, **fields: Any) -> RunFigures:
    of_run = {"exit_code": 0, "position": int(arm == "b"), "attempt": 1}
    conditions, invalid = fields.pop("conditions", {}), fields.pop("invalid", ())
    run = Run(
        key=f"{pair}{arm}", role=Role.PAIR, arm=arm, pair=pair, wall_clock="", start_ns=0, end_ns=round(seconds * 1e9),
        meters=(), **(of_run | fields),
    )  # fmt: skip
    energy = Energy(joules=joules, basis=Basis.MEASURED, source="s", scope="gpu", reason="" if joules else "no reading")
    figure = Figure(
        meter="nvml", energy=energy, kwh=None, uncertainty_95_j=None, mean_power_w=None, net=None,
        conditions=conditions, invalid=invalid,
    )  # fmt: skip
    return RunFigures(run=run, seconds=seconds, figures=(figure,))


def saving_of(*runs: RunFigures, **fields: Any) -> Any:
    chosen = plan(len(runs) // 2, **fields)
    (found,) = savings(chosen, complete_pairs(chosen, runs))
    return found


amounts = st.floats(min_value=1.0, max_value=1e6)


@given(st.lists(st.tuples(amounts, amounts, amounts, amounts), min_size=2, max_size=8))
def test_a_saving_is_the_paired_t_interval_of_log_ratios_and_its_parts_multiply(pairs):
    runs = [
        each
        for number, (ja, jb, sa, sb) in enumerate(pairs, start=1)
        for each in (made(number, "a", ja, round(sa, 6)), made(number, "b", jb, round(sb, 6)))
    ]
    found = saving_of(*runs)
    ratios = [math.log(jb / ja) for ja, jb, _, _ in pairs]
    centre = sum(ratios) / len(ratios)
    assert found.energy.value == pytest.approx(1 - math.exp(centre), rel=1e-9, abs=1e-12)
    # 1 - value undoes 1 - ratio, which costs digits where a ratio is tiny or huge
    assert (1 - found.time.value) * (1 - found.power.value) == pytest.approx(1 - found.energy.value, rel=1e-6)
    if len(set(ratios)) > 1:
        low, high = oracle.t.interval(0.95, len(ratios) - 1, centre, oracle.sem(ratios))
        assert found.energy.low == pytest.approx(1 - math.exp(high), rel=1e-6, abs=1e-9)
        assert found.energy.high == pytest.approx(1 - math.exp(low), rel=1e-6, abs=1e-9)


def test_one_pair_has_no_interval():
    found = saving_of(made(1, "a", 100), made(1, "b", 60))
    assert (found.energy.value, found.energy.low, found.energy.high) == (pytest.approx(0.4), None, None)
    assert found.order_effect is None


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        ({"invalid": ("shared with 1 foreign process",)}, "B: shared with 1 foreign process"),
        ({"joules": None}, "B: no reading"),
        ({"joules": 0.0}, "B: took no energy"),
        ({"exit_code": 4}, "B: exit code 4"),
        ({"conditions": {"throttle": {"thermal_ns": 2e9}}}, "throttling differs"),
        ({"conditions": {"power_limit_w": 300.0}}, "power limit differs"),
    ],
)
def test_a_pair_that_can_not_be_trusted_is_left_out_by_name(spoilt, why):
    fields = {"joules": 60.0, "conditions": {"power_limit_w": 700.0, "throttle": {"thermal_ns": 0.0}}} | spoilt
    joules = fields.pop("joules")
    calm = {"power_limit_w": 700.0, "throttle": {"thermal_ns": 0.0}}
    found = saving_of(
        made(1, "a", 100, conditions=calm), made(1, "b", joules, **fields),
        made(2, "a", 100, conditions=calm), made(2, "b", 50, conditions=calm),
        allow_failures=True,
    )  # fmt: skip
    assert why in found.pairs[0].left_out
    assert found.pairs[0].log_energy_ratio is None
    assert (found.used, found.energy.value) == (1, pytest.approx(0.5))


def test_only_whole_pairs_of_one_attempt_count_and_the_last_one():
    runs = [
        made(1, "a", 100), made(1, "b", 10, interrupted=True),
        made(2, "a", 100), made(2, "b", 10, exit_code=1),
        made(2, "b", 50, attempt=2), made(2, "a", 100, attempt=2),
    ]  # fmt: skip
    pairs = complete_pairs(plan(2), runs)
    assert {number: [half.run.attempt for half in both] for number, both in pairs.items()} == {2: [2, 2]}


@given(st.floats(-0.2, 0.2), st.floats(-1, 1), st.integers(1, 5))
def test_an_effect_of_the_place_is_told_and_does_not_bend_a_balanced_saving(effect, log_ratio, rounds):
    runs = []
    for number, first in enumerate("ab" * rounds, start=1):
        joules = {"a": 100.0, "b": 100.0 * math.exp(log_ratio)}
        second = "b" if first == "a" else "a"
        joules[second] *= math.exp(effect)
        runs += [made(number, arm, joules[arm], position=int(arm == second)) for arm in (first, second)]
    found = saving_of(*runs)
    assert found.order_effect.value == pytest.approx(effect, abs=1e-9)
    assert found.energy.value == pytest.approx(1 - math.exp(log_ratio), abs=1e-9)


@given(st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_the_order_is_balanced_whoever_begins(pairs, seed):
    first = first_arms(pairs, seed)
    assert len(first) == pairs
    assert all(one != other for one, other in pairwise(first))
    assert first == first_arms(pairs, seed)


def test_either_may_begin():
    assert {first_arms(1, seed) for seed in range(20)} == {("a",), ("b",)}


@pytest.mark.parametrize(("half_width", "scatter"), [(0.02, 0.03), (0.01, 0.005), (0.05, 0.05), (0.004, 0.01)])
def test_the_number_of_pairs_is_the_smallest_even_one_that_is_narrow_enough(half_width, scatter):
    def half(n: int) -> float:
        return float(oracle.t.ppf(0.975, n - 1)) * math.sqrt(2) * scatter / math.sqrt(n)

    planned = pairs_for(half_width, scatter)
    smallest = next(n for n in range(2, 10_000) if half(n) <= half_width)
    assert planned == smallest + smallest % 2


ALIKE = SimulatedNvml(Scenario(cards=(Card(), Card(), Card())))
UNLIKE = SimulatedNvml(Scenario(cards=(Card(), Card(name="NVIDIA A100"))))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, [0, 1, 2]),
        ({"CUDA_VISIBLE_DEVICES": "2,0"}, [2, 0]),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"CUDA_VISIBLE_DEVICES": ALIKE.uuid_of(1)}, [1]),
    ],
)
def test_a_command_is_metered_on_the_cards_that_it_can_see(environment, expected):
    assert cards_of(environment, ALIKE) == [ALIKE.uuid_of(index) for index in expected]


def test_a_number_that_could_mean_two_unlike_cards_is_asked_back():
    with pytest.raises(UserError, match="--device UUID"):
        cards_of({"CUDA_VISIBLE_DEVICES": "0"}, UNLIKE)
    ordered = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert cards_of(ordered, UNLIKE) == [UNLIKE.uuid_of(1)]
