"""The regression gate between two result sets."""

from __future__ import annotations

import pytest
from synthetic import ARMS, Planted, records

from harness.judge.gate import gate
from harness.judge.judge import judge
from harness.suite.spec import FootprintOptions, Protocol
from harness.types import Basis


def judgement(saving, seed=0, seeds=range(4), **options):
    arms = {"sat": Planted(saving, flops=options.pop("flops", None)), "dense-aa": ARMS["dense-aa"]}
    return judge("s", "t", records(("1M", "3M"), seeds, arms, seed=seed, **options), (), "dense", FootprintOptions())


def test_the_same_set_passes():
    base = judgement(0.6)
    result = gate(base, base)
    assert result.exit_code == 0
    assert {row.outcome for row in result.rows} == {"no regression shown"}
    assert {row.arm for row in result.rows} == {"sat"}


@pytest.mark.parametrize(
    ("new", "outcome", "code"), [(0.5, "regressed", 1), (0.7, "improved", 0), (0.605, "no regression shown", 0)]
)
def test_a_change_of_the_saving(new, outcome, code):
    result = gate(judgement(0.6), judgement(new, seed=1))
    assert {row.outcome for row in result.rows} == {outcome}
    assert result.exit_code == code
    assert outcome in result.text


def test_joules_do_not_matter():
    faster = judgement(0.6, seed=2, basis=Basis.MODELLED)
    slower = judgement(0.6, seed=2, basis=Basis.MODELLED, steps=400)
    assert gate(faster, slower).exit_code == 0


def test_one_pair_is_open():
    result = gate(judgement(0.6), judgement(0.2, seeds=(0,)))
    assert {row.outcome for row in result.rows} == {"open"}
    assert result.exit_code == 3


def test_what_new_lacks_is_missing():
    base = judgement(0.6)
    empty = judge("s", "t", records(("1M",), (0,), {}), (), "dense", FootprintOptions())
    assert gate(base, empty).exit_code == 3
    assert gate(empty, base).exit_code == 3


def test_an_invalid_new_is_invalid():
    result = gate(judgement(0.6), judgement(0.6, flops=0.2))
    assert result.exit_code == 4
    assert "counted FLOPs allow" in result.text


def test_a_model_is_not_compared_with_a_measurement():
    result = gate(judgement(0.6), judgement(0.6, basis=Basis.MEASURED))
    assert result.exit_code == 3
    assert "BASE is modelled, NEW is measured" in result.text


def test_simulated_energies_are_compared_and_pass_nothing():
    base = judgement(0.6, basis=Basis.SIMULATED)
    same, worse = gate(base, base), gate(base, judgement(0.4, seed=1, basis=Basis.SIMULATED))
    assert {row.outcome for row in same.rows} == {"no regression shown"}
    assert (same.exit_code, worse.exit_code) == (3, 1)
    assert same.text.endswith("the energies are simulated and nothing was measured")
    assert all(", simulated" in line for line in same.text.splitlines()[:-1])


def test_counts_are_compared_exactly():
    base = judgement(0.0, flops=0.60, protocol=Protocol.COUNT)
    assert gate(base, base).exit_code == 0
    assert gate(base, judgement(0.0, flops=0.599, protocol=Protocol.COUNT)).exit_code == 1


def test_false_alarms_are_rare():
    alarms = sum(
        gate(judgement(0.6, seed=s, steps=8), judgement(0.6, seed=s + 1000, steps=8)).exit_code == 1 for s in range(40)
    )
    assert alarms <= 6
