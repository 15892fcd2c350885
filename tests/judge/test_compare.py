"""Pairs, estimates and validity gates."""

from __future__ import annotations

import math

import pytest
from synthetic import Planted, records

from harness.judge.compare import compare, latest_ok, wasted
from harness.judge.gates import apply_gates
from harness.meter.energy import PLACED
from harness.record.record import Status
from harness.suite.spec import Protocol
from harness.types import Basis

SAT = {"sat": Planted(0.6, time=0.5, flops=0.62, loss=0.02)}


def compared(found, baseline="dense"):
    return {(c.arm, c.size): c for c in apply_gates(compare(found, baseline), latest_ok(found))}


def changed(found, arm, **update):
    """The records with those of one arm altered."""
    return [r.model_copy(update=update) if r.spec.arm == arm else r for r in found]


def test_planted_savings_come_out_exactly_and_split_into_time_and_power():
    c = compared(records(("1M",), (0, 1), SAT, noise=0))["sat", "1M"]
    assert c.saving.value == pytest.approx(0.6)
    assert c.time_saving.value == pytest.approx(0.5)
    assert 1 - c.power_saving.value == pytest.approx(0.4 / 0.5)
    assert c.flops_saving.value == c.ceiling == pytest.approx(0.62)
    assert (c.saving.basis, c.time_saving.basis, c.flops_saving.basis) == (
        Basis.MODELLED, Basis.MEASURED, Basis.COUNTED,
    )  # fmt: skip
    assert c.invalid == ""


def test_net_saving_takes_idle_power_off_both_arms():
    found = records(("1M",), (0,), SAT, noise=0, basis=Basis.MEASURED)
    base, arm = (next(r for r in found if r.spec.arm == name) for name in ("dense", "sat"))
    expected = (arm.energy.joules - 90 * arm.seconds) / (base.energy.joules - 90 * base.seconds)
    assert compared(found)["sat", "1M"].net_saving.value == pytest.approx(1 - expected)


def test_steady_uses_energy_per_step_and_count_only_flops():
    steady = compared(records(("1M",), (0, 1), SAT, noise=0, protocol=Protocol.STEADY))["sat", "1M"]
    assert steady.saving.value == pytest.approx(0.6)
    assert steady.quality == {}
    counted = compared(records(("13B",), (0,), SAT, protocol=Protocol.COUNT))["sat", "13B"]
    assert counted.saving is None
    assert counted.flops_saving.value == pytest.approx(0.62)
    assert counted.parameters == 13_000_000_000


def test_the_latest_good_attempt_counts_and_the_failed_one_is_wasted():
    found = records(("1M",), (0,), SAT, retried=[("1M", 0, "sat")])
    sat = [r for r in found if r.spec.arm == "sat"]
    assert [r.status for r in sat] == [Status.FAILED, Status.OK]
    assert latest_ok(found)[sat[0].run_id].attempt == 2
    lost = wasted(found)
    assert (lost.attempts, lost.unknown) == (1, 0)
    assert lost.joules == sat[0].energy.joules > 0


def test_of_two_good_attempts_the_later_counts_and_the_other_is_wasted():
    first = records(("1M",), (0,), SAT)
    again = [r.model_copy(update={"attempt": 2, "seconds": 1.0}) for r in first if r.spec.arm == "sat"]
    assert latest_ok([*again, *first])[again[0].run_id].attempt == 2
    assert wasted([*again, *first]).attempts == 1


def test_a_failed_attempt_of_unknown_energy_is_not_zero_joules():
    found = changed(records(("1M",), (0,), SAT, statuses={("1M", 0, "sat"): Status.FAILED}), "sat", energy=None)
    assert (wasted(found).joules, wasted(found).attempts, wasted(found).unknown) == (0.0, 1, 1)


def test_a_run_that_is_not_ok_makes_no_pair():
    found = records(("1M",), (0, 1, 2), SAT, statuses={("1M", 1, "sat"): Status.OUT_OF_MEMORY})
    assert [row.seed for row in compared(found)["sat", "1M"].pairs] == [0, 2]


@pytest.mark.parametrize(
    ("update", "says"),
    [
        ({"fingerprint_id": "other"}, "not the same machine"),
        ({"device_id": "GPU-2"}, "not the same card"),
    ],
)
def test_runs_from_two_machines_or_cards_are_no_pair(update, says):
    c = compared(changed(records(("1M",), (0, 1), SAT), "sat", **update))["sat", "1M"]
    assert says in c.invalid
    assert c.invalid_scope == "all"


def test_counting_does_not_care_for_the_machine():
    found = changed(records(("1M",), (0,), SAT, protocol=Protocol.COUNT), "sat", fingerprint_id="other")
    assert compared(found)["sat", "1M"].invalid == ""


def test_modelled_and_measured_energy_are_no_pair():
    found = records(("1M",), (0,), SAT)
    energy = found[0].energy.model_copy(update={"basis": Basis.MEASURED})
    assert "energies are modelled and measured" in compared(changed(found, "sat", energy=energy))["sat", "1M"].invalid


def test_energies_from_two_channels_are_no_pair():
    """A counter that was gone for one arm: the integral of power that stands in is another instrument."""

    def by(record, channel):
        source = f"{record.meter.source}, {channel}"
        return record.model_copy(update={"energy": record.energy.model_copy(update={"source": source})})

    base, run = records(("1M",), (0,), SAT, basis=Basis.MEASURED)
    (same,) = compare([by(base, "energy counter"), by(run, "energy counter")], "dense")
    assert not same.invalid
    placed = f"energy counter{PLACED}; {base.meter.source}, energy counter"  # in some windows its times were of use
    (alike,) = compare([by(base, "energy counter"), by(run, placed)], "dense")
    assert not alike.invalid
    (other,) = compare([by(base, "energy counter"), by(run, "integral of instant power")], "dense")
    assert "different channels: energy counter and integral of instant power" in other.invalid
    assert other.invalid_scope == "all"


def test_two_specifications_of_one_arm_in_a_block_are_refused():
    found = records(("1M",), (0,), SAT)
    extra = next(r for r in found if r.spec.arm == "sat").model_copy(update={"run_id": "another"})
    assert "different specifications" in compared([*found, extra])["sat", "1M"].invalid


def test_unknown_energy_is_no_saving_not_a_saving_of_all():
    found = records(("1M",), (0, 1), SAT)
    nothing = found[0].energy.model_copy(update={"joules": None})
    c = compared(changed(found, "sat", energy=nothing))["sat", "1M"]
    assert c.saving is None
    assert c.time_saving is not None
    assert all(row.log_energy_ratio is None for row in c.pairs)


def test_gate_saving_above_the_counted_ceiling():
    c = compared(records(("1M",), (0, 1, 2), {"sat": Planted(0.6, flops=0.4)}, noise=0.01))["sat", "1M"]
    assert "more than the counted FLOPs allow" in c.invalid
    assert c.invalid_scope == "energy"


def test_gate_lets_a_saving_at_its_ceiling_pass():
    assert compared(records(("1M",), (0, 1, 2), {"sat": Planted(0.6, flops=0.58)}))["sat", "1M"].invalid == ""


def test_gate_aa_difference_spoils_the_energy_of_its_size_and_no_other():
    arms = {**SAT, "dense-aa": Planted(0.05, method="dense", flops=0.05, shape="dense")}
    bad = records(("1M",), (0, 1, 2, 3), arms, noise=0.002)
    good = records(("3M",), (0, 1, 2, 3), SAT, noise=0.002)
    found = compared([*bad, *good])
    assert found["dense-aa", "1M"].is_aa
    assert "the meter sees what is not there" in found["sat", "1M"].invalid
    assert found["sat", "1M"].invalid_scope == "energy"
    assert found["sat", "3M"].invalid == ""


def test_gate_aa_is_silent_where_there_is_no_difference():
    silent = [
        compared(records(("1M",), range(4), {"dense-aa": Planted(method="dense", shape="dense")}, seed=s))
        for s in range(60)
    ]
    false_alarms = sum(bool(found["dense-aa", "1M"].invalid) for found in silent)
    assert false_alarms <= 8  # 5 % of 60 is 3; more than 8 has a chance below one in a thousand


@pytest.mark.parametrize(
    ("conditions", "says"),
    [
        ({"throttled_s": 5e3}, "throttling differs: throttled_s 0 in dense, 5000 in sat"),
        ({"throttle": {"thermal_ns": 0.0}}, "throttle.thermal_ns was read in sat, not in dense"),
        ({}, "throttling can't be compared: throttled_s was read in dense, not in sat"),
        ({"power_limit_w": 500.0}, "power limit differs"),
        ({"foreign_processes": 2}, "2 foreign processes"),
    ],
)
def test_gate_conditions_that_differ(conditions, says):
    found = records(("1M",), (0, 1), SAT, basis=Basis.MEASURED)
    assert says in compared(changed(found, "sat", conditions=conditions))["sat", "1M"].invalid


def test_gate_throttling_alike_in_both_arms_passes():
    found = records(("1M",), (0, 1), {"sat": Planted(0.0, flops=0.0)}, basis=Basis.MEASURED, noise=0)
    found = [r.model_copy(update={"conditions": {"throttle_ns": {"thermal": 0.2e9 * r.seconds}}}) for r in found]
    assert compared(found)["sat", "1M"].invalid == ""


@pytest.mark.parametrize("arm", ["dense", "sat"])
def test_gate_steps_that_alias_with_the_sensor(arm):
    found = records(("1M",), (0, 1), SAT, basis=Basis.MEASURED)
    told = {"error": 0.3, "limit": 0.01, "step_s": 0.1, "sensor_period_s": 0.1, "jitter_s": 0.0, "cure": "add jitter"}
    aliased = [
        r.model_copy(update={"conditions": r.conditions | {"aliasing": told}}) if r.spec.arm == arm else r
        for r in found
    ]
    c = compared(aliased)["sat", "1M"]
    assert c.invalid_scope == "energy"
    assert (
        f"{arm}: steps of 100 ms alias with a power sensor that is read every 100 ms in 2 of 2 runs, whose energy may "
        "be off by up to 30.0%; add jitter"
    ) in c.invalid
    cured = [
        r.model_copy(update={"conditions": r.conditions | {"aliasing": told | {"error": 0.02, "limit": 0.04}}})
        for r in found
    ]
    assert compared(cured)["sat", "1M"].invalid == ""


def test_gate_coverage():
    found = records(("1M",), (0, 1), SAT)
    thin = found[0].energy.model_copy(update={"coverage": 0.8})
    assert "80%" in compared(changed(found, "sat", energy=thin))["sat", "1M"].invalid


def test_only_invalid_runs_leave_an_invalid_comparison_with_the_reason():
    found = records(("1M",), (0,), SAT, statuses={("1M", 0, "sat"): Status.INVALID})
    c = compared(found)["sat", "1M"]
    assert c.pairs == ()
    assert "coverage 81 % is under 95 %" in c.invalid


def test_order_of_records_does_not_matter():
    found = records(("1M", "3M"), (0, 1, 2), SAT)
    assert compare(found, "dense") == compare(found[::-1], "dense")


def test_log_ratios_are_of_the_pair():
    found = records(("1M",), (5,), SAT)
    base, arm = found
    assert compare(found, "dense")[0].pairs[0].log_energy_ratio == math.log(arm.energy.joules / base.energy.joules)


def test_blocks_that_differ_in_more_than_their_seed_are_not_pooled():
    short, long = records(("1M",), (0, 1), SAT, steps=100), records(("1M",), (2, 3), SAT, steps=200)
    pooled = compared([*short, *long])["sat", "1M"]
    assert pooled.saving is None or pooled.invalid_scope == "all"
    assert "runs of dense differ in more than their seed" in pooled.invalid
    again = [r.model_copy(update={"block_id": f"{r.block_id}-again"}) for r in records(("1M",), (0, 1), SAT, seed=1)]
    again = [r.model_copy(update={"run_id": f"{r.run_id}-again"}) for r in again]
    twice = compared([*records(("1M",), (0, 1), SAT), *again])["sat", "1M"]
    assert "differ in more than their seed" in twice.invalid
    assert compared(short)["sat", "1M"].invalid == ""


def test_a_pair_was_metered_on_the_same_devices():
    found = records(("1M",), (0, 1), SAT, noise=0, basis=Basis.MEASURED)
    assert compared(found)["sat", "1M"].invalid == ""
    sat = next(r for r in found if r.spec.arm == "sat")
    channels = tuple(c.model_copy(update={"device": "GPU-SIMULATED-1234abcd-0"}) for c in sat.meter.channels)
    moved = changed(found, "sat", meter=sat.meter.model_copy(update={"channels": channels}))
    said = compared(moved)["sat", "1M"].invalid
    assert "not the same devices were metered" in said
    assert "GPU-SIMULATED-1234abcd-0" in said


def test_a_simulated_run_and_a_measured_one_are_no_pair():
    real, made_up = (records(("1M",), (0, 1), SAT, noise=0, basis=b) for b in (Basis.MEASURED, Basis.SIMULATED))
    simulated = [r for r in made_up if r.spec.arm == "sat"]
    base = [r for r in real if r.spec.arm == "dense"]
    alike = [r.model_copy(update={"device_id": base[0].device_id, "fingerprint_id": base[0].fingerprint_id,
                                  "spec": r.spec.model_copy(update={"device": base[0].spec.device})})
             for r in simulated]  # fmt: skip
    assert "energies are measured and simulated" in compared([*base, *alike])["sat", "1M"].invalid
